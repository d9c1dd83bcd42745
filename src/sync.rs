//! Locks, condition variables and threads, as everything here uses them. A lock is never poisoned: like `std`'s own
//! `nonpoison` locks, which are not stable yet, it is simply free again after its holder panicked.
//!
//! In the tests of the feature `shuttle` they are those of shuttle, which runs a test under many schedules of its threads.
//! There no time passes: a wait with a timeout ends only if it is notified.

use std::io;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

#[cfg(all(test, feature = "shuttle"))]
use shuttle::{sync, thread};
#[cfg(not(all(test, feature = "shuttle")))]
use std::{sync, thread};

pub(crate) use sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use thread::{JoinHandle, Thread, current, park};

fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        unpoisoned(self.0.lock())
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        unpoisoned(self.0.get_mut())
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        unpoisoned(self.0.wait(guard))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        unpoisoned(self.0.wait_timeout(guard, timeout)).0
    }
}

pub(crate) fn sleep(time: Duration) {
    // Shuttle's own `sleep` does not let the others go first, so that a thread which only looks now and then would be all
    // that runs.
    #[cfg(all(test, feature = "shuttle"))]
    thread::yield_now();
    thread::sleep(time);
}

/// Fewer items are not worth a thread.
const MIN_SHARE: usize = 64;

/// Enough for a thread that runs only code of this crate and SQLite.
pub(crate) const SMALL_STACK: usize = 256 * 1024;
/// What `std` gives a thread, for code that is not known here.
pub(crate) const LARGE_STACK: usize = 2 * 1024 * 1024;

/// Starts a thread. Its name (15 bytes at most) stands in the table "Threads of the server" in `docs/architecture.md`.
pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    stack_size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.into());
    let spawned = thread.stack_size(stack_size).spawn(work);
    spawned.map_err(not_started)
}

/// The error of a thread or a process that could not be started: EAGAIN says nothing to a user.
pub(crate) fn not_started(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            error.kind(),
            "this user may have no more processes and threads; see `ulimit -u`, or TasksMax= of a systemd unit",
        ),
        _ => error,
    }
}

/// Runs work that may never end on a thread of its own, and waits for it; `None`: it takes too long. Without a thread, the caller
/// has to wait for the work.
pub(crate) fn within<T: Send + 'static>(
    name: &'static str,
    timeout: Duration,
    work: impl FnOnce() -> T + Clone + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let again = work.clone();
    match spawn(name, SMALL_STACK, move || drop(sender.send(again()))) {
        Ok(_) => receiver.recv_timeout(timeout).ok(),
        Err(_) => Some(work()),
    }
}

/// Calls `work` for each item, on all processors, and returns the results in order. What no thread could be started for, the
/// caller's thread does.
pub(crate) fn on_all_processors<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let size = items.len().div_ceil(threads).max(MIN_SHARE);
    let work = &work;
    let run = |items: &[T]| items.iter().map(work).collect::<Vec<R>>();
    std::thread::scope(|scope| {
        let shares = items.chunks(size).map(|share| {
            let thread = std::thread::Builder::new().name("worker".into());
            // Without the last share's thread, a single share would still cost one.
            let is_only = share.len() == items.len();
            let spawned = (!is_only).then(|| thread.spawn_scoped(scope, move || run(share)).ok());
            (share, spawned.flatten())
        });
        let shares: Vec<_> = shares.collect();
        let results = shares.into_iter().map(|(share, thread)| match thread {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => run(share),
        });
        results.flatten().collect()
    })
}

#[cfg(all(test, feature = "shuttle"))]
pub(crate) mod tests {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};

    const SCHEDULES: usize = 1000;

    /// Runs a test under many schedules: random ones, and those with few switches at unlikely places.
    pub(crate) fn check(test: impl Fn() + Copy + Send + Sync + 'static) {
        Runner::new(RandomScheduler::new(SCHEDULES), Config::default()).run(test);
        Runner::new(PctScheduler::new(3, SCHEDULES), Config::default()).run(test);
    }
}
