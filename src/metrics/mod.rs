//! Counters of what a process does, and their form as text for Prometheus. Knows neither files nor secrets, and never waits:
//! adding to a counter is one relaxed atomic operation.
//!
//! The counters of a server begin at zero. That is a counter reset to Prometheus, whose `rate()` expects it.

mod exposition;
mod parse;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use exposition::{Exposition, FamilyType};
pub use parse::{Sample, parse};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One of what a [`Gauge`] counts, until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Gauge>);

impl Gauge {
    /// Counts one more until the result is dropped.
    pub fn hold(self: &Arc<Self>) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The largest errno has this number (include/uapi/asm-generic/errno.h).
const MAX_ERRNO: usize = 133;

/// How often each errno was answered.
#[derive(Debug)]
pub struct ErrnoCounters([Counter; MAX_ERRNO + 1]);

impl Default for ErrnoCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ErrnoCounters {
    /// Counts one answer.
    pub fn increment(&self, errno: i32) {
        let counter = usize::try_from(errno).ok().and_then(|n| self.0.get(n));
        if let Some(counter) = counter {
            counter.increment();
        }
    }

    /// The errnos that were answered, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (i32, u64)> {
        let counts = self.0.iter().zip(0..).map(|(count, n)| (n, count.get()));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// What is counted of one mount: the owner's, or that of the views.
#[derive(Debug, Default)]
pub struct MountCounters {
    /// The requests that the server took from the kernel.
    pub requests: Counter,
    /// The requests that failed.
    pub errors: ErrnoCounters,
    /// The requests that wait for a provider, a disk or a lock.
    pub waiting: Arc<Gauge>,
    /// How often a file with secrets was opened to be read.
    pub opens: Counter,
}

/// What is counted of both mounts of a server.
#[derive(Debug, Default)]
pub struct Counters {
    /// The owner's mount.
    pub live: Arc<MountCounters>,
    /// The views' mount.
    pub views: Arc<MountCounters>,
    /// The writes that took effect.
    pub writes: Counter,
    /// The writes that failed.
    pub failed_writes: Counter,
}

/// The upper bounds of a [`Histogram`]'s buckets, in seconds. Above them there is one more bucket.
pub const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].increment();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many were counted in each bucket and those below it; the last is the number of all.
    pub fn cumulative(&self) -> [u64; BUCKETS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|bucket| {
            sum += self.buckets[bucket].get();
            sum
        })
    }

    /// How long they took together, in seconds.
    pub fn sum(&self) -> f64 {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// The calls to a backend.
#[derive(Debug, Default)]
pub struct CallCounters {
    /// How long they took.
    pub durations: Histogram,
    /// Those that failed, or were given up.
    pub failures: Counter,
}

impl CallCounters {
    /// Counts a call that begins now. It has failed unless [`Call::succeeded`] is called before the result is dropped, as
    /// where its caller gives it up.
    pub fn begin(&self) -> Call<'_> {
        Call {
            counters: self,
            began: Instant::now(),
            has_failed: true,
        }
    }
}

/// A call that is under way.
#[derive(Debug)]
pub struct Call<'a> {
    counters: &'a CallCounters,
    began: Instant,
    has_failed: bool,
}

impl Call<'_> {
    /// It was answered.
    pub fn succeeded(mut self) {
        self.has_failed = false;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.counters.durations.observe(self.began.elapsed());
        if self.has_failed {
            self.counters.failures.increment();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_what_is_at_most_its_bound_and_all_below_it() {
        let histogram = Histogram::default();
        for ms in [1, 5, 6, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(ms));
        }
        let counts = histogram.cumulative();
        assert_eq!(counts[..2], [2, 3]);
        assert_eq!(counts[10..], [4, 5]);
        assert!((histogram.sum() - 20.013).abs() < 1e-9);
    }

    #[test]
    fn a_call_that_is_given_up_has_failed() {
        let calls = CallCounters::default();
        calls.begin().succeeded();
        drop(calls.begin());
        assert_eq!(calls.failures.get(), 1);
        assert_eq!(calls.durations.cumulative()[BUCKETS.len()], 2);
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped() {
        let gauge = Arc::new(Gauge::default());
        let held = [gauge.hold(), gauge.hold()];
        assert_eq!(gauge.get(), 2);
        drop(held);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn an_errno_out_of_range_is_not_counted() {
        let errors = ErrnoCounters::default();
        for errno in [-1, 2, 2, 133, 134] {
            errors.increment(errno);
        }
        assert_eq!(errors.counts().collect::<Vec<_>>(), [(2, 2), (133, 1)]);
    }
}
