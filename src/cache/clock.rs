//! The clock for expiry; tests replace it with one that they set.

use crate::clock::Instant;

pub(super) enum Clock {
    System,
    #[cfg(test)]
    Manual(std::sync::Arc<crate::sync::Mutex<Instant>>),
}

impl Clock {
    pub(super) fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            #[cfg(test)]
            Clock::Manual(now) => *now.lock(),
        }
    }
}
