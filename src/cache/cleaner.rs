//! The thread that removes the expired entries of all caches, each at its own interval. Knows nothing else of a cache.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::Instant;
use crate::sync::{self, Condvar, LARGE_STACK, Mutex};

/// A cache that the thread cleans.
pub(super) trait Clean: Send + Sync + 'static {
    fn clean(&self);
}

/// Keeps a cache on the schedule until dropped.
pub(super) struct Cleaner {
    /// The schedule has only a weak reference.
    _scheduled: Arc<Scheduled>,
}

/// One cache on the schedule.
struct Scheduled {
    /// Weak, so that the schedule does not keep the cache alive.
    target: Weak<dyn Clean>,
    interval: Duration,
}

struct Due {
    at: Instant,
    scheduled: Weak<Scheduled>,
}

#[derive(Default)]
struct Schedule {
    due: Vec<Due>,
    has_thread: bool,
}

static SCHEDULE: Mutex<Schedule> = Mutex::new(Schedule {
    due: Vec::new(),
    has_thread: false,
});
static CHANGED: Condvar = Condvar::new();

impl Cleaner {
    /// Adds a cache to the schedule, and starts the thread if this is the first one.
    pub(super) fn start<T: Clean>(target: Weak<T>, interval: Duration) -> Self {
        // An interval of zero would be a busy loop.
        let interval = interval.max(Duration::from_millis(1));
        let scheduled = Arc::new(Scheduled { target, interval });
        let mut schedule = SCHEDULE.lock();
        schedule.due.push(Due {
            at: Instant::now() + interval,
            scheduled: Arc::downgrade(&scheduled),
        });
        if !schedule.has_thread {
            // Dropping a value may run any code.
            match sync::spawn("cache-cleaner", LARGE_STACK, clean_all) {
                Ok(_) => schedule.has_thread = true,
                // Expired entries are never served; they only stay in memory longer.
                Err(error) => {
                    tracing::warn!(
                        "cannot start the thread that removes expired cache entries: {error}"
                    );
                }
            }
        }
        drop(schedule);
        CHANGED.notify_all();
        Self {
            _scheduled: scheduled,
        }
    }
}

#[cfg(test)]
impl Cleaner {
    /// Alive as long as the cache is on the schedule.
    pub(super) fn watch(&self) -> Weak<impl Sized + use<>> {
        Arc::downgrade(&self._scheduled)
    }
}

fn clean_all() {
    loop {
        for target in wait_for_due() {
            target.clean();
        }
    }
}

/// Waits until a cache is due; returns all that are.
fn wait_for_due() -> Vec<Arc<dyn Clean>> {
    let mut schedule = SCHEDULE.lock();
    loop {
        schedule.due.retain(|due| due.scheduled.strong_count() > 0);
        let now = Instant::now();
        let mut targets = Vec::new();
        for due in schedule.due.iter_mut().filter(|due| due.at <= now) {
            if let Some(scheduled) = due.scheduled.upgrade() {
                due.at = now + scheduled.interval;
                targets.extend(scheduled.target.upgrade());
            }
        }
        if !targets.is_empty() {
            return targets;
        }
        let next = schedule.due.iter().map(|due| due.at).min();
        schedule = match next {
            Some(at) => CHANGED.wait_timeout(schedule, at.saturating_duration_since(now)),
            None => CHANGED.wait(schedule),
        };
    }
}
