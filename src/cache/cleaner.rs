//! The one thread that removes the expired entries of all caches, each at an interval of its own. Knows only how to ask
//! a cache for that.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What the thread does its rounds on.
pub(super) trait Clean: Send + Sync + 'static {
    fn clean(&self);
}

/// Ends the rounds of a cache when it is dropped.
pub(super) struct Cleaner {
    /// The schedule knows them only as long as this does.
    _rounds: Arc<Rounds>,
}

/// The rounds of one cache.
struct Rounds {
    /// Held only while it is cleaned, so that the rounds keep no cache alive.
    target: Weak<dyn Clean>,
    interval: Duration,
}

struct Due {
    at: Instant,
    rounds: Weak<Rounds>,
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

fn schedule() -> MutexGuard<'static, Schedule> {
    SCHEDULE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cleaner {
    /// Begins the rounds of a cache, and the thread if this is the first one.
    pub(super) fn start<T: Clean>(target: Weak<T>, interval: Duration) -> Self {
        // An interval of nothing would be a busy loop.
        let interval = interval.max(Duration::from_millis(1));
        let rounds = Arc::new(Rounds { target, interval });
        let mut schedule = schedule();
        schedule.due.push(Due {
            at: Instant::now() + interval,
            rounds: Arc::downgrade(&rounds),
        });
        if !schedule.has_thread {
            let thread = std::thread::Builder::new().name("cache-cleaner".into());
            match thread.spawn(clean_all) {
                Ok(_) => schedule.has_thread = true,
                // Expired entries are never served; they only stay in memory longer.
                Err(error) => {
                    tracing::warn!("no thread to remove expired cache entries: {error}");
                }
            }
        }
        drop(schedule);
        CHANGED.notify_all();
        Self { _rounds: rounds }
    }
}

#[cfg(test)]
impl Cleaner {
    /// Lives as long as the rounds do.
    pub(super) fn watch(&self) -> Weak<impl Sized + use<>> {
        Arc::downgrade(&self._rounds)
    }
}

fn clean_all() {
    loop {
        for target in wait_for_due() {
            target.clean();
        }
    }
}

/// The caches whose time has come; waits until there is one.
fn wait_for_due() -> Vec<Arc<dyn Clean>> {
    let mut schedule = schedule();
    loop {
        schedule.due.retain(|due| due.rounds.strong_count() > 0);
        let now = Instant::now();
        let mut targets = Vec::new();
        for due in schedule.due.iter_mut().filter(|due| due.at <= now) {
            if let Some(rounds) = due.rounds.upgrade() {
                due.at = now + rounds.interval;
                targets.extend(rounds.target.upgrade());
            }
        }
        if !targets.is_empty() {
            return targets;
        }
        let next = schedule.due.iter().map(|due| due.at).min();
        schedule = match next {
            Some(at) => {
                let wait = CHANGED.wait_timeout(schedule, at.saturating_duration_since(now));
                wait.unwrap_or_else(PoisonError::into_inner).0
            }
            None => CHANGED
                .wait(schedule)
                .unwrap_or_else(PoisonError::into_inner),
        };
    }
}
