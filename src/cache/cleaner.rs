//! The thread that removes a cache's expired entries at an interval, and ends with it. Knows only how to ask for that.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

/// What a cleaner does its rounds on.
pub(super) trait Clean: Send + Sync + 'static {
    fn clean(&self);
}

/// Ends its thread when it is dropped.
pub(super) struct Cleaner(Arc<Signal>);

struct Signal {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Cleaner {
    /// A thread that holds `target` only while it cleans, so that it keeps no cache alive.
    pub(super) fn start<T: Clean>(target: Weak<T>, interval: Duration) -> Self {
        let signal = Arc::new(Signal {
            ended: Mutex::new(false),
            changed: Condvar::new(),
        });
        // An interval of nothing would be a busy loop.
        let interval = interval.max(Duration::from_millis(1));
        let thread = std::thread::Builder::new().name("cache-cleaner".into());
        let spawned = thread.spawn({
            let signal = signal.clone();
            move || {
                while !signal.ended_within(interval) {
                    match target.upgrade() {
                        Some(target) => target.clean(),
                        None => break,
                    }
                }
            }
        });
        if let Err(error) = spawned {
            // Expired entries are never served; they only stay in memory longer.
            tracing::warn!("no thread to remove expired cache entries: {error}");
        }
        Self(signal)
    }
}

#[cfg(test)]
impl Cleaner {
    /// Lives as long as the thread (and this handle) does.
    pub(super) fn watch(&self) -> Weak<impl Sized + use<>> {
        Arc::downgrade(&self.0)
    }
}

impl Signal {
    fn ended_within(&self, interval: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self
            .changed
            .wait_timeout_while(ended, interval, |ended| !*ended)
            .unwrap_or_else(|e| e.into_inner());
        *waited.0
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.0.changed.notify_all();
    }
}
