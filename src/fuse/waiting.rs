//! Parks requests until they are no longer blocked, or until another thread has finished them.
//!
//! Without this module a parked caller could not be interrupted: fuser answers FUSE_INTERRUPT with ENOSYS, after which the
//! kernel never sends it again. So one thread watches the pending signals of all parked callers, and answers EINTR to a
//! caller whose signal should end its wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::live::{Caller, WaitOn};
use crate::metrics::{Counted, MountCounters};
use crate::process::heartbeat::HeartbeatPage;
use crate::process::{has_fatal_signal_pending, is_being_killed};
use crate::sync::{self, Condvar, Mutex, SMALL_STACK};

/// How often the thread reads the pending signals, and looks who has waited long enough.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How long the thread lives on when no request is parked any more.
const LINGER: Duration = Duration::from_secs(5);

/// Resumes a parked request: with `Ok` it continues or is answered, with an errno it fails.
pub(super) type Resume = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// Which signals end a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InterruptedBy {
    /// Those that should end a wait, even if the program catches them.
    EndingSignals,
    /// Only those that kill. The operation takes place in any case, and a program that got EINTR would not know that.
    KillSignals,
}

struct Waiter {
    tid: u32,
    interrupted_by: InterruptedBy,
    request: u64,
    on: Option<WaitOn>,
    /// When it is resumed even if it is still blocked.
    until: Option<Instant>,
    resume: Resume,
    _counted: Counted,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    by_id: HashMap<u64, Waiter>,
    /// How often each unanswered request is parked or being resumed: a request that is resumed may be parked again, and
    /// resumed by another thread before the first one is done with it.
    unanswered: HashMap<u64, usize>,
    watcher_running: bool,
    /// The mount has ended, and the watching thread ends.
    ended: bool,
}

/// The parked requests.
pub(super) struct Waiting {
    waiters: Mutex<Waiters>,
    // Notified when a request is parked, and when the mount ends.
    changed: Condvar,
    /// Where parked requests are marked as unanswered.
    heartbeat: Option<HeartbeatPage>,
    counters: Arc<MountCounters>,
}

impl Waiting {
    pub(super) fn new(heartbeat: Option<HeartbeatPage>, counters: Arc<MountCounters>) -> Self {
        Self {
            waiters: Mutex::default(),
            changed: Condvar::new(),
            heartbeat,
            counters,
        }
    }

    /// Resumes a request, which may be parked again by that.
    fn resume(&self, waiter: Waiter, result: Result<(), Errno>) {
        (waiter.resume)(result);
        let mut waiters = self.waiters.lock();
        let Entry::Occupied(mut times) = waiters.unanswered.entry(waiter.request) else {
            return;
        };
        *times.get_mut() -= 1;
        if *times.get() == 0 {
            times.remove();
            if let Some(page) = &self.heartbeat {
                page.mark_answered(waiter.request);
            }
        }
    }

    /// Parks a request until [`Waiting::wake`] for `on`; `None`: until [`Waiting::complete`]. Returns its id. After the end of
    /// the mount it fails at once.
    pub(super) fn park(
        self: &Arc<Self>,
        caller: &Caller,
        on: Option<WaitOn>,
        interrupted_by: InterruptedBy,
        resume: Resume,
    ) -> u64 {
        let (tid, request) = (caller.tid, caller.request);
        let patience = on.as_ref().and_then(WaitOn::patience);
        let mut waiters = self.waiters.lock();
        waiters.next += 1;
        let id = waiters.next;
        if waiters.ended {
            drop(waiters);
            resume(Err(Errno::ENOTCONN));
            return id;
        }
        *waiters.unanswered.entry(request).or_default() += 1;
        if let Some(page) = &self.heartbeat {
            page.mark_unanswered(request);
        }
        waiters.by_id.insert(
            id,
            Waiter {
                tid,
                interrupted_by,
                request,
                until: patience.and_then(|patience| Instant::now().checked_add(patience)),
                on,
                resume,
                _counted: self.counters.waiting.hold(),
            },
        );
        if !waiters.watcher_running {
            waiters.watcher_running = true;
            let waiting = self.clone();
            let watch = move || watch_signals(&waiting);
            if let Err(error) = sync::spawn("waiting", SMALL_STACK, watch) {
                waiters.watcher_running = false;
                tracing::warn!(
                    "waiting callers cannot be interrupted, because no thread could be started: {error}"
                );
            }
        }
        self.changed.notify_one();
        id
    }

    /// Resumes one request; nothing happens if it was interrupted already.
    pub(super) fn complete(&self, id: u64, result: Result<(), Errno>) {
        // In a statement of its own: the lock must be free before the request is resumed.
        let waiter = self.waiters.lock().by_id.remove(&id);
        if let Some(waiter) = waiter {
            self.resume(waiter, result);
        }
    }

    /// Resumes all requests that wait for `on`.
    pub(super) fn wake(&self, on: &WaitOn) {
        let woken: Vec<Waiter> = {
            let mut waiters = self.waiters.lock();
            waiters
                .by_id
                .extract_if(|_, waiter| waiter.on.as_ref() == Some(on))
                .map(|(_, waiter)| waiter)
                .collect()
        };
        for waiter in woken {
            self.resume(waiter, Ok(()));
        }
    }

    /// The mount ends: all parked requests fail with ENOTCONN.
    pub(super) fn end_all(&self) {
        let all: Vec<Waiter> = {
            let mut waiters = self.waiters.lock();
            waiters.ended = true;
            waiters.by_id.drain().map(|(_, waiter)| waiter).collect()
        };
        self.changed.notify_one();
        for waiter in all {
            self.resume(waiter, Err(Errno::ENOTCONN));
        }
    }

    /// Resumes the requests that are not to wait any longer.
    fn resume_impatient(&self) {
        let now = Instant::now();
        let late: Vec<Waiter> = {
            let mut waiters = self.waiters.lock();
            waiters
                .by_id
                .extract_if(|_, waiter| waiter.until.is_some_and(|until| until <= now))
                .map(|(_, waiter)| waiter)
                .collect()
        };
        for waiter in late {
            self.resume(waiter, Ok(()));
        }
    }

    /// Answers EINTR to each request whose caller has a pending signal that ends its wait.
    fn interrupt_signalled(&self) {
        let threads: Vec<(u64, u32, InterruptedBy)> = self
            .waiters
            .lock()
            .by_id
            .iter()
            .map(|(&id, waiter)| (id, waiter.tid, waiter.interrupted_by))
            .collect();
        for (id, tid, interrupted_by) in threads {
            // 0: the caller is in a pid namespace that is not visible here, and waits until the backend's timeout.
            let ends = match interrupted_by {
                InterruptedBy::EndingSignals => has_fatal_signal_pending,
                InterruptedBy::KillSignals => is_being_killed,
            };
            if tid != 0 && ends(tid) {
                self.counters.errors.increment(libc::EINTR);
                self.complete(id, Err(Errno::EINTR));
            }
        }
    }
}

fn watch_signals(waiting: &Waiting) {
    loop {
        let mut waiters = waiting.waiters.lock();
        let idle_until = Instant::now() + LINGER;
        while waiters.by_id.is_empty() {
            let left = idle_until.saturating_duration_since(Instant::now());
            if waiters.ended || left.is_zero() {
                waiters.watcher_running = false;
                return;
            }
            waiters = waiting.changed.wait_timeout(waiters, left);
        }
        drop(waiters);
        // First wait: most requests are resumed before a signal could arrive.
        sync::sleep(POLL_INTERVAL);
        waiting.interrupt_signalled();
        waiting.resume_impatient();
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
