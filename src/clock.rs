//! The clock for everything that expires (CLOCK_BOOTTIME): nobody can set it, and it counts the time in which the machine
//! sleeps. Times for people are `SystemTime`. Timeouts of waits (for a lock, say) use `std::time::Instant`, which does not
//! count that time.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment, by CLOCK_BOOTTIME (clock_gettime(2)). It has the methods of [`std::time::Instant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        Self(read(ClockId::CLOCK_BOOTTIME))
    }

    /// The time since the machine started. It means the same in every process of the machine, until the next start.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// The moment this long after the machine started. A moment in the future was recorded before the machine's last start.
    pub fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time from `earlier` to this moment; zero if that is later.
    pub fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// As [`duration_since`](Self::duration_since).
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }

    /// The time since this moment.
    pub fn elapsed(self) -> Duration {
        Self::now().duration_since(self)
    }

    /// This moment and `duration`; `None` if that cannot be represented.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    /// So long before this moment; `None` if the machine had not started then.
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// A moment that cannot be represented is never reached.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    /// Never before the machine's start.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// How long the machine has slept since it started.
pub(crate) fn slept() -> Duration {
    // In this order, so that what passes between the two reads never counts as sleep.
    let asleep_too = read(ClockId::CLOCK_BOOTTIME);
    asleep_too.saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

fn read(clock: ClockId) -> Duration {
    // Linux always has both clocks; a sandbox may refuse the call.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_forward_and_means_the_same_in_every_process() {
        let first = Instant::now();
        assert!(Instant::now() >= first);
        assert_eq!(Instant::from_boot(first.since_boot()), first);
        let to_come = first + Duration::from_secs(3600);
        assert_eq!(first - to_come, Duration::ZERO);
        assert_eq!(to_come - first, Duration::from_secs(3600));
        assert_eq!(first.checked_sub(Duration::MAX), None);
    }
}
