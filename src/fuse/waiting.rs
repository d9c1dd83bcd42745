//! Requests that are not answered yet: parked until what they wait for is settled, or until another thread is done.
//!
//! Their callers would sit in an uninterruptible sleep, because fuser answers FUSE_INTERRUPT with ENOSYS, after which the
//! kernel never asks again. So one thread, however many wait, looks at their pending signals and answers EINTR to those
//! that a signal should end.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use fuser::Errno;

use crate::live::{Caller, WaitOn};
use crate::process::heartbeat::HeartbeatPage;
use crate::process::{has_fatal_signal_pending, is_being_killed};

/// How often pending signals are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Answers the request: `Ok` when it can go on, or is done; else the errno.
pub(super) type Resume = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// Which signals end a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndsBy {
    /// Those that end a waiting program, even if it catches them.
    AnyThatEnds,
    /// Those that kill. The operation is done in any case, and a program that got EINTR would not know.
    Kill,
}

struct Waiter {
    tid: u32,
    ends_by: EndsBy,
    request: u64,
    on: Option<WaitOn>,
    resume: Resume,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    by_id: HashMap<u64, Waiter>,
    looked_after: bool,
    /// The mount has ended, and with it the thread that looks after them.
    ended: bool,
}

/// The requests that wait. Shared with the threads that end their waiting.
pub(super) struct Waiting {
    waiters: Mutex<Waiters>,
    // A request was parked, or the mount has ended.
    arrived: Condvar,
    /// Where it is noted which requests are taken and not answered.
    heartbeat: Option<HeartbeatPage>,
}

impl Waiting {
    pub(super) fn new(heartbeat: Option<HeartbeatPage>) -> Self {
        Self {
            waiters: Mutex::default(),
            arrived: Condvar::new(),
            heartbeat,
        }
    }

    /// Lets a request go on, which may have it wait once more.
    fn resume(&self, waiter: Waiter, result: Result<(), Errno>) {
        (waiter.resume)(result);
        if let Some(heartbeat) = &self.heartbeat {
            let waiters = self.waiters();
            let mut all = waiters.by_id.values();
            if !all.any(|other| other.request == waiter.request) {
                heartbeat.mark_answered(waiter.request);
            }
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Parks a request of this thread until `on` is settled; `None`: until [`Waiting::complete`].
    pub(super) fn park(
        self: &Arc<Self>,
        caller: &Caller,
        on: Option<WaitOn>,
        ends_by: EndsBy,
        resume: Resume,
    ) -> u64 {
        let (tid, request) = (caller.tid, caller.request);
        let mut waiters = self.waiters();
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.mark_unanswered(request);
        }
        waiters.next += 1;
        let id = waiters.next;
        waiters.by_id.insert(
            id,
            Waiter {
                tid,
                ends_by,
                request,
                on,
                resume,
            },
        );
        if !waiters.looked_after {
            waiters.looked_after = true;
            let waiting = self.clone();
            let looker = std::thread::Builder::new()
                .name("waiting".into())
                .stack_size(128 * 1024);
            if let Err(error) = looker.spawn(move || look_after(&waiting)) {
                waiters.looked_after = false;
                tracing::warn!("waiting callers cannot be interrupted: {error}");
            }
        }
        self.arrived.notify_one();
        id
    }

    /// Ends the waiting of one; nothing happens if it was interrupted already.
    pub(super) fn complete(&self, id: u64, result: Result<(), Errno>) {
        // Not in the condition itself: the lock must be free when the answer is given.
        let waiter = self.waiters().by_id.remove(&id);
        if let Some(waiter) = waiter {
            self.resume(waiter, result);
        }
    }

    /// Resumes all requests that wait for this.
    pub(super) fn wake(&self, on: &WaitOn) {
        let woken: Vec<Waiter> = {
            let mut waiters = self.waiters();
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

    /// The mount ends: nobody waits any longer.
    pub(super) fn end_all(&self) {
        let all: Vec<Waiter> = {
            let mut waiters = self.waiters();
            waiters.ended = true;
            waiters.by_id.drain().map(|(_, waiter)| waiter).collect()
        };
        self.arrived.notify_one();
        for waiter in all {
            self.resume(waiter, Err(Errno::ENOTCONN));
        }
    }

    fn interrupt_ending(&self) {
        let threads: Vec<(u64, u32, EndsBy)> = self
            .waiters()
            .by_id
            .iter()
            .map(|(&id, waiter)| (id, waiter.tid, waiter.ends_by))
            .collect();
        for (id, tid, ends_by) in threads {
            // 0: in a pid namespace out of sight; it waits as long as the backend's own timeout.
            let ends = match ends_by {
                EndsBy::AnyThatEnds => has_fatal_signal_pending,
                EndsBy::Kill => is_being_killed,
            };
            if tid != 0 && ends(tid) {
                self.complete(id, Err(Errno::EINTR));
            }
        }
    }
}

fn look_after(waiting: &Waiting) {
    loop {
        let mut waiters = waiting.waiters();
        while waiters.by_id.is_empty() {
            if waiters.ended {
                return;
            }
            waiters = waiting
                .arrived
                .wait(waiters)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        drop(waiters);
        // Most waits are over before anybody could have sent a signal.
        std::thread::sleep(LOOK_EVERY);
        waiting.interrupt_ending();
    }
}
