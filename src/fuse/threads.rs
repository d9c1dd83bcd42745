//! The threads beside the one that reads requests: one that may wait for the disk, one that may wait for the other users
//! of a database, one that may wait for the kernel's locks.

use std::ffi::OsStr;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use fuser::{INodeNo, Notifier};

use crate::tree::{Lane, Outdated};

/// Little is on these stacks; the default of 2 MiB would be mapped for nothing.
const STACK: usize = 256 * 1024;

/// Work that may wait for the disk, done in order: a write of one must not overtake the removal of another.
pub(super) struct Worker(Sender<Box<dyn FnOnce() + Send>>);

impl Worker {
    fn start(name: &str) -> io::Result<Self> {
        let (sender, receiver): (_, Receiver<Box<dyn FnOnce() + Send>>) = channel();
        Builder::new()
            .name(name.into())
            .stack_size(2 * STACK)
            .spawn(move || {
                for work in receiver {
                    work();
                }
            })?;
        Ok(Self(sender))
    }

    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        // It ends with the last sender, so there is always a receiver; a request dropped here is answered EIO.
        let _ = self.0.send(Box::new(work));
    }
}

/// One for whoever waits for the same.
pub(super) struct Workers {
    store: Worker,
    /// Started when it is needed first.
    database: OnceLock<Option<Worker>>,
}

impl Workers {
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self {
            store: Worker::start("commit")?,
            database: OnceLock::new(),
        })
    }

    pub(super) fn of(&self, lane: Lane) -> &Worker {
        let database = || Worker::start("save").ok();
        match lane {
            Lane::Store => &self.store,
            // Without a thread of its own it waits in line.
            Lane::Database => self
                .database
                .get_or_init(database)
                .as_ref()
                .unwrap_or(&self.store),
        }
    }

    /// All that have something to do.
    pub(super) fn running(&self) -> impl Iterator<Item = &Worker> {
        let database = self.database.get().and_then(Option::as_ref);
        std::iter::once(&self.store).chain(database)
    }
}

/// What is to be told to the kernel, and what is to be done when it has been.
pub(super) enum Notice {
    /// A name to look up anew.
    Outdated(Outdated),
    /// All before it are told.
    Then(Box<dyn FnOnce() + Send>),
}

/// Tells the kernel. It takes locks of the folder there, which a process holds whose request is still to be answered:
/// so never the thread that answers.
pub(super) fn start_notifying(notifier: Notifier, notices: Receiver<Notice>) -> io::Result<()> {
    Builder::new()
        .name("notify".into())
        .stack_size(STACK)
        .spawn(move || {
            for notice in notices {
                match notice {
                    Notice::Outdated(Outdated { dir, name }) => {
                        // It fails where the kernel has forgotten the name, and after the unmount.
                        let _ = notifier.inval_entry(INodeNo(dir), OsStr::new(&name));
                    }
                    Notice::Then(next) => next(),
                }
            }
        })?;
    Ok(())
}
