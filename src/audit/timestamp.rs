//! The text form of times in SimpleTuner's databases.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::provider::rfc3339;

/// A time in UTC, with microseconds and `+00:00` (Python's `datetime.now(timezone.utc).isoformat()`).
pub(crate) fn timestamp(time: SystemTime) -> String {
    let micros = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_micros());
    let whole = rfc3339(time);
    format!("{}.{micros:06}+00:00", whole.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_python_writes_them() {
        let time = UNIX_EPOCH + Duration::new(1_767_323_045, 678_901_234);
        assert_eq!(timestamp(time), "2026-01-02T03:04:05.678901+00:00");
    }
}
