//! RFC 3339 timestamps, written in UTC. Knows no time zone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `2026-01-02T03:04:05Z`: the time in whole seconds, rounded down. Times before 1970 are written as 1970, those after
/// 9999 as the end of 9999, which is the last year that RFC 3339 can write.
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: i64 = 253_402_300_799;
    let seconds = time.duration_since(UNIX_EPOCH);
    let seconds = seconds.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(LAST));
    OffsetDateTime::from_unix_timestamp(seconds.min(LAST))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A time as a part of a file's name, in whole seconds: `20260102T030405Z`.
pub(crate) fn time_in_name(time: SystemTime) -> String {
    rfc3339(time).replace(['-', ':'], "")
}

/// An RFC 3339 text with microseconds, which must be whole ones: `2026-01-02T03:04:05.678901Z`.
pub(crate) fn rfc3339_in_microseconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = rfc3339(time);
    format!(
        "{}.{:06}Z",
        seconds.trim_end_matches('Z'),
        since.subsec_micros()
    )
}

/// The time of an RFC 3339 text: `2018-03-22T02:24:06.945319214Z`, or with an offset (`+01:00`). `None` for any other
/// text and for times before 1970. A leap second counts as the end of the second before it.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let nanoseconds = u128::try_from(time.unix_timestamp_nanos()).ok()?;
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
    let seconds = Duration::from_secs(seconds);
    UNIX_EPOCH.checked_add(seconds + Duration::from_nanos(u64::from(time.nanosecond())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_time_parses_to_the_same_time() {
        for seconds in (0..5_000_000_000).step_by(7_654_321) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }
    }

    #[test]
    fn fractions_and_offsets_are_read() {
        for (text, seconds, nanoseconds) in [
            ("2018-03-22T02:24:06.945319214Z", 1_521_685_446, 945_319_214),
            ("2018-03-22T02:24:06.5z", 1_521_685_446, 500_000_000),
            (
                "2018-03-22T03:24:06.9453192149+01:00",
                1_521_685_446,
                945_319_214,
            ),
            ("2018-03-21t22:54:06-03:30", 1_521_685_446, 0),
            ("2018-03-22 02:24:06Z", 1_521_685_446, 0),
            ("2016-12-31T23:59:60Z", 1_483_228_799, 999_999_999),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            assert_eq!(parse_rfc3339(text), Some(time), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_time_is_refused() {
        for text in [
            "",
            "hunter2",
            "2018-03-22",
            "2018-03-22T02:24:06",
            "2018-03-22T02:24:06.Z",
            "2018-03-22T02:24:06.5",
            "2018-02-29T00:00:00Z",
            "2018-13-01T00:00:00Z",
            "2018-00-01T00:00:00Z",
            "2018-01-00T00:00:00Z",
            "2018-01-01T24:00:00Z",
            "2018-01-01T00:00:00+2:00",
            "2018-01-01T00:00:00+24:00",
            "2018/01/01T00:00:00Z",
            "+018-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "1970-01-01T00:00:00+00:01",
            "2018-03-22T02:24:06ä",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_formatted_as_by_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_323_045, "2026-01-02T03:04:05Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
    }
}
