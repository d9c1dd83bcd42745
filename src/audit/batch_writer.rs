//! A background thread that writes what callers queue, in batches. Both trails are built on it. Knows no row and no table.
//!
//! A caller adds to the queue and does not wait. While the database cannot be written, the trail keeps its rows and the thread
//! tries again. A flush waits until everything that was queued before it is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AuditOptions;
use crate::error::{Error, Result};
use crate::files::reserve;
use crate::sync::{self, Condvar, Mutex, MutexGuard, SMALL_STACK};

/// How long [`BatchWriter::freeze`] blocks callers.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the thread tries a failed database again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The same during a flush of a locked database; SQLite itself waits in each attempt, too.
const LOCKED_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The thread's side of a trail: it decides when to write, and writes.
pub(super) trait Trail {
    /// What callers add to.
    type Queue: Default + Send + 'static;

    /// The trail's name in log messages.
    const NAME: &'static str;
    /// The thread's name.
    const THREAD: &'static str;

    /// Opens nothing yet.
    fn new(options: &AuditOptions) -> Self;

    /// When to write next; `None`: not before something is queued.
    fn due(&self, queue: &Self::Queue) -> Option<Instant>;

    /// How many rows are queued or could not be written, and how many were ever given up.
    fn counts(queue: &Self::Queue) -> RowCounts;

    /// Takes over the queue, and writes the rows that are due; all rows for a flush (`all`).
    fn write(&mut self, shared: &Shared<Self::Queue>, all: bool) -> Result<()>;
}

/// The rows that a trail has not written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowCounts {
    pub(super) waiting: u64,
    pub(super) lost: u64,
}

/// The callers' side of a trail.
pub(super) struct BatchWriter<T: Trail> {
    options: AuditOptions,
    shared: Arc<Shared<T::Queue>>,
}

/// What callers and the thread share.
pub(super) struct Shared<Q> {
    state: Mutex<State<Q>>,
    /// Notified when something is queued, a flush is wanted or done, or the trail ends.
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State<Q> {
    pub(super) queue: Q,
    is_running: bool,
    has_ended: bool,
    frozen_until: Option<Instant>,
    /// Since when the thread has tried to write what was due.
    writing_since: Option<Instant>,
    /// The number of the last flush that was asked for, and of the last one that was done.
    flush_wanted: u64,
    flush_done: u64,
    /// Whether the last flush wrote everything.
    is_written: bool,
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Written,
    Failed,
    TimedOut,
}

/// Why the thread writes.
#[derive(Clone, Copy)]
enum Wake {
    Due,
    /// With the flush's number.
    Flush(u64),
}

impl<T: Trail + 'static> BatchWriter<T> {
    pub(super) fn new(options: &AuditOptions) -> Self {
        Self {
            options: options.clone(),
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    /// Starts the thread even if nothing is queued.
    pub(super) fn start(&self) {
        self.start_in(&mut self.shared.lock());
    }

    /// Lets `add` queue something, and wakes the thread if it returns `true`. Blocks while the trail is frozen.
    pub(super) fn enqueue(&self, add: impl FnOnce(&mut T::Queue) -> bool) {
        let mut state = self.shared.lock_unfrozen();
        if add(&mut state.queue) {
            self.start_in(&mut state);
            self.shared.changed.notify_all();
        }
    }

    fn start_in(&self, state: &mut State<T::Queue>) {
        if state.is_running {
            return;
        }
        let (shared, options) = (self.shared.clone(), self.options.clone());
        let run = move || run(&shared, T::new(&options));
        match sync::spawn(T::THREAD, SMALL_STACK, run) {
            Ok(_) => state.is_running = true,
            Err(error) => tracing::error!("{} cannot be written: {error}", T::NAME),
        }
    }

    /// Waits until everything queued so far is written. Returns the locked state, too, so that the caller sees what is left.
    pub(super) fn flush(&self, until: Instant) -> (Flush, MutexGuard<'_, State<T::Queue>>) {
        let mut state = self.shared.lock();
        if !state.is_running {
            return (Flush::Written, state);
        }
        state.flush_wanted += 1;
        let wanted = state.flush_wanted;
        self.shared.changed.notify_all();
        while state.flush_done < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (Flush::TimedOut, state);
            }
            state = self.shared.changed.wait_timeout(state, left);
        }
        match state.is_written {
            true => (Flush::Written, state),
            false => (Flush::Failed, state),
        }
    }

    /// What is not written, and since when that was due.
    pub(super) fn lag(&self) -> (RowCounts, Duration) {
        let state = self.shared.lock();
        let since = state.writing_since.map(|since| since.elapsed());
        (T::counts(&state.queue), since.unwrap_or_default())
    }

    /// Blocks callers for up to 5 s, until this process is replaced.
    pub(super) fn freeze(&self) {
        self.shared.lock().frozen_until = Some(Instant::now() + FREEZE_TIMEOUT);
    }

    /// Ends the thread; it does not write what is still queued.
    pub(super) fn end(&self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
    }

    /// Acts as if the thread were stuck.
    #[cfg(test)]
    pub(super) fn run_without_thread(&self) {
        self.shared.lock().is_running = true;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<T::Queue>> {
        self.shared.lock()
    }
}

impl<Q> Shared<Q> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock()
    }

    fn lock_unfrozen(&self) -> MutexGuard<'_, State<Q>> {
        let mut state = self.lock();
        while let Some(until) = state.frozen_until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left);
        }
        state
    }

    /// Waits until something is due or a flush is wanted; `None` once the trail has ended.
    fn wait(&self, due: impl Fn(&Q) -> Option<Instant>) -> Option<Wake> {
        let mut state = self.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if state.flush_wanted > state.flush_done {
                return Some(Wake::Flush(state.flush_wanted));
            }
            let left = due(&state.queue).map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => return Some(Wake::Due),
                Some(left) => self.changed.wait_timeout(state, left),
                None => self.changed.wait(state),
            };
        }
    }

    fn finish_flush(&self, number: u64, written: &Result<()>) {
        let mut state = self.lock();
        if written.as_ref().is_err_and(is_locked) {
            // The flush may wait longer than one attempt.
            drop(self.changed.wait_timeout(state, LOCKED_RETRY_DELAY));
            return;
        }
        state.flush_done = state.flush_done.max(number);
        state.is_written = written.is_ok();
        self.changed.notify_all();
    }
}

fn run<T: Trail>(shared: &Shared<T::Queue>, mut trail: T) {
    let mut retry_at = None;
    let mut is_failing = false;
    while let Some(wake) = shared.wait(|queue| retry_at.or_else(|| trail.due(queue))) {
        shared.lock().writing_since.get_or_insert_with(Instant::now);
        let written = reserve::with(|| trail.write(shared, matches!(wake, Wake::Flush(_))));
        if written.is_ok() {
            shared.lock().writing_since = None;
        }
        match &written {
            Ok(()) => {
                retry_at = None;
                is_failing = false;
            }
            Err(error) => {
                retry_at = Some(Instant::now() + RETRY_DELAY);
                let is_first = !std::mem::replace(&mut is_failing, true);
                if is_first && error.errno() == libc::EROFS {
                    // So it is meant to be, and the mount has warned.
                    tracing::info!("{} cannot be written: {error}", T::NAME);
                } else if is_first {
                    tracing::error!("{} cannot be written, and is tried again: {error}", T::NAME);
                }
            }
        }
        if let Wake::Flush(number) = wake {
            shared.finish_flush(number, &written);
        }
    }
}

fn is_locked(error: &Error) -> bool {
    error.errno() == libc::EBUSY
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
