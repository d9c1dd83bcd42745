//! Lengths of time, for people.

use std::time::{Duration, SystemTime};

use crate::provider::parse_rfc3339;

/// The two largest units: `3 h 12 min`; below a minute the seconds.
pub(super) fn lasting(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// How long ago this time was; `None`: it is no time.
pub(super) fn since(rfc3339: &str) -> Option<Duration> {
    let at = parse_rfc3339(rfc3339)?;
    Some(SystemTime::now().duration_since(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_largest_units_are_shown() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min"),
            (3 * 3600 + 12 * 60 + 5, "3 h 12 min"),
            (86400 * 40 + 3600 * 2, "40 d 2 h"),
        ] {
            assert_eq!(lasting(Duration::from_secs(seconds)), text);
        }
    }
}
