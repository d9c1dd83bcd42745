//! The threads beside the one that reads requests: one asks `/proc` who closes a file, one may wait for the disk, one may
//! wait for other users of a database.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;

use crate::live::{Commits, OpError, Tree, WorkQueue};
use crate::process::heartbeat::{HeartbeatPage, Slot};

/// Little is on these stacks; the default of 2 MiB would be mapped for nothing.
const STACK: usize = 512 * 1024;
/// The most writes that are committed together.
const MAX_TOGETHER: usize = 256;

/// Called with the result of a commit.
pub(super) type Committed = Box<dyn FnOnce(Result<(), OpError>) + Send>;

/// Something to be done that may wait.
pub(super) enum Job {
    /// The request's number and its writes, to be committed together with those of neighbouring jobs.
    Commit(u64, Commits, Committed),
    /// Anything else.
    Work(Box<dyn FnOnce() + Send>),
}

/// A thread that does its jobs in order: a write of one must not overtake the removal of another.
#[derive(Clone)]
pub(super) struct Worker(Sender<Job>);

impl Worker {
    fn start(
        name: &str,
        word: Slot,
        tree: Arc<Tree>,
        heartbeat: Option<HeartbeatPage>,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        Builder::new()
            .name(name.into())
            .stack_size(STACK)
            .spawn(move || work(&tree, &receiver, heartbeat.as_ref(), word))?;
        Ok(Self(sender))
    }

    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.queue(Job::Work(Box::new(work)));
    }

    pub(super) fn queue(&self, job: Job) {
        // It ends with the last sender, so there is always a receiver; a request dropped here is answered EIO.
        let _ = self.0.send(job);
    }
}

/// A worker that panics aborts the process, so that the next server continues its work: nobody here would answer it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn work(tree: &Tree, jobs: &Receiver<Job>, heartbeat: Option<&HeartbeatPage>, word: Slot) {
    let _abort = AbortOnPanic;
    while let Ok(job) = jobs.recv() {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            match job {
                Job::Work(work) => work(),
                Job::Commit(number, commits, done) => {
                    let _at = heartbeat.map(|heartbeat| heartbeat.working_on(word, number));
                    let (mut all, mut dones) = (vec![commits], vec![done]);
                    while all.len() < MAX_TOGETHER {
                        match jobs.try_recv() {
                            Ok(Job::Commit(_, commits, done)) => {
                                all.push(commits);
                                dones.push(done);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let results = tree.commit(&all);
                    for (done, result) in dones.into_iter().zip(results) {
                        done(result);
                    }
                }
            }
        }
    }
}

/// One worker for each resource that is waited for.
pub(super) struct Workers {
    tree: Arc<Tree>,
    heartbeat: Option<HeartbeatPage>,
    /// Looks at `/proc`.
    pub(super) closer: Worker,
    store: Worker,
    /// Started when it is needed first.
    database: OnceLock<Option<Worker>>,
}

impl Workers {
    pub(super) fn start(tree: Arc<Tree>, heartbeat: Option<HeartbeatPage>) -> io::Result<Self> {
        let start = |name, word| Worker::start(name, word, tree.clone(), heartbeat.clone());
        Ok(Self {
            closer: start("close", Slot::Closing)?,
            store: start("commit", Slot::Committing)?,
            database: OnceLock::new(),
            tree,
            heartbeat,
        })
    }

    pub(super) fn of(&self, queue: WorkQueue) -> &Worker {
        let database = || {
            let (tree, heartbeat) = (self.tree.clone(), self.heartbeat.clone());
            Worker::start("save", Slot::Saving, tree, heartbeat).ok()
        };
        match queue {
            WorkQueue::Store => &self.store,
            // Without a thread of its own it waits in line.
            WorkQueue::Database => self
                .database
                .get_or_init(database)
                .as_ref()
                .unwrap_or(&self.store),
        }
    }

    /// All running workers, in the order in which they give work to each other.
    pub(super) fn running(&self) -> impl Iterator<Item = &Worker> {
        let database = self.database.get().and_then(Option::as_ref);
        [&self.closer, &self.store].into_iter().chain(database)
    }
}
