//! The worker threads beside the one that reads requests: `close` asks `/proc` which process closes a file, `commit` may
//! wait for the disk, `save` for other programs that use a database.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use crate::live::{Commits, OpError, Tree, WorkQueue};
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::sync;

/// These threads use little of their stacks.
const STACK_SIZE: usize = 512 * 1024;
/// The most writes that are committed together.
const MAX_BATCH: usize = 256;

/// Called with the result of a commit.
pub(super) type OnCommitted = Box<dyn FnOnce(Result<(), OpError>) + Send>;

/// Work that may wait.
pub(super) enum Job {
    /// The request's number and its writes. Neighbouring jobs are committed together.
    Commit(u64, Commits, OnCommitted),
    /// Anything else.
    Work(Box<dyn FnOnce() + Send>),
}

/// A thread that does its jobs in order, so that a write cannot overtake a removal.
#[derive(Clone)]
pub(super) struct Worker(Sender<Job>);

impl Worker {
    fn start(
        name: &'static str,
        slot: Slot,
        tree: Arc<Tree>,
        heartbeat: Option<HeartbeatPage>,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let run = move || run_jobs(&tree, &receiver, heartbeat.as_ref(), slot);
        sync::spawn(name, STACK_SIZE, run)?;
        Ok(Self(sender))
    }

    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.queue(Job::Work(Box::new(work)));
    }

    pub(super) fn queue(&self, job: Job) {
        // The thread ends only with the last sender, so a receiver exists. fuser answers a dropped request with EIO.
        let _ = self.0.send(job);
    }
}

/// Aborts the process if a worker panics: no other thread would do its jobs, but the next server continues them.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn run_jobs(tree: &Tree, jobs: &Receiver<Job>, heartbeat: Option<&HeartbeatPage>, slot: Slot) {
    let _abort = AbortOnPanic;
    while let Ok(job) = jobs.recv() {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            match job {
                Job::Work(work) => work(),
                Job::Commit(number, commits, done) => {
                    let _working = heartbeat.map(|page| page.working_on(slot, number));
                    let (mut all, mut dones) = (vec![commits], vec![done]);
                    while all.len() < MAX_BATCH {
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

/// One worker per blocking resource.
pub(super) struct Workers {
    tree: Arc<Tree>,
    heartbeat: Option<HeartbeatPage>,
    /// Reads `/proc`.
    pub(super) closer: Worker,
    store: Worker,
    /// Started at first use. `None`: the thread could not be started.
    database: OnceLock<Option<Worker>>,
}

impl Workers {
    pub(super) fn start(tree: Arc<Tree>, heartbeat: Option<HeartbeatPage>) -> io::Result<Self> {
        Ok(Self {
            closer: Worker::start("close", Slot::Closing, tree.clone(), heartbeat)?,
            store: Worker::start("commit", Slot::Committing, tree.clone(), heartbeat)?,
            database: OnceLock::new(),
            tree,
            heartbeat,
        })
    }

    pub(super) fn of(&self, queue: WorkQueue) -> &Worker {
        let database = || {
            let (tree, heartbeat) = (self.tree.clone(), self.heartbeat);
            Worker::start("save", Slot::Saving, tree, heartbeat).ok()
        };
        match queue {
            WorkQueue::Store => &self.store,
            // Without its own thread, the work queues behind the store's.
            WorkQueue::Database => self
                .database
                .get_or_init(database)
                .as_ref()
                .unwrap_or(&self.store),
        }
    }

    /// All running workers, in the order in which they queue work on each other.
    pub(super) fn running(&self) -> impl Iterator<Item = &Worker> {
        let database = self.database.get().and_then(Option::as_ref);
        [&self.closer, &self.store].into_iter().chain(database)
    }
}
