//! Rate limit of the log: at most so many lines a minute from one call site, so that a message which repeats cannot push
//! the others out of the rotated log. Knows neither texts nor files.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

use crate::sync::Mutex;

const WINDOW: Duration = Duration::from_secs(60);
/// The most lines of one call site in a window.
const MAX_LINES: u64 = 60;

/// Counts the lines of each call site (a `tracing` macro in the code). There are some hundred, so the map stays small.
#[derive(Default)]
pub(super) struct LineLimit(Mutex<HashMap<Identifier, Lines>>);

struct Lines {
    since: Instant,
    module: &'static str,
    logged: u64,
    dropped: u64,
}

/// Whether a line is logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    /// It is logged as the last one of its minute.
    Last,
    No,
}

impl LineLimit {
    /// Whether a line of this call site is logged now. Errors always are: each of them is rare, and some are the only trace of
    /// what is lost. So are debug lines, which a user has asked for.
    pub(super) fn admit(&self, metadata: &Metadata<'static>, now: Instant) -> Admitted {
        if !matches!(*metadata.level(), Level::WARN | Level::INFO) {
            return Admitted::Yes;
        }
        let mut places = self.0.lock();
        let lines = places.entry(metadata.callsite()).or_insert(Lines {
            since: now,
            module: metadata.module_path().unwrap_or_default(),
            logged: 0,
            dropped: 0,
        });
        if now.duration_since(lines.since) >= WINDOW {
            (lines.since, lines.logged) = (now, 0);
        }
        lines.logged += 1;
        match lines.logged {
            MAX_LINES => Admitted::Last,
            logged if logged > MAX_LINES => {
                lines.dropped += 1;
                Admitted::No
            }
            _ => Admitted::Yes,
        }
    }

    /// How many lines of which module were dropped in minutes that are over, and not reported yet.
    pub(super) fn take_dropped(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut places = self.0.lock();
        let over = places
            .values_mut()
            .filter(|lines| lines.dropped > 0 && now.duration_since(lines.since) >= WINDOW);
        over.map(|lines| (lines.module, std::mem::take(&mut lines.dropped)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(level: Level) -> &'static Metadata<'static> {
        use tracing::callsite::Callsite;
        let (warning, error) = (
            tracing::callsite! { name: "w", kind: tracing::metadata::Kind::EVENT, level: Level::WARN, fields: },
            tracing::callsite! { name: "e", kind: tracing::metadata::Kind::EVENT, level: Level::ERROR, fields: },
        );
        match level {
            Level::ERROR => error.metadata(),
            _ => warning.metadata(),
        }
    }

    #[test]
    fn a_place_that_logs_without_end_logs_a_bounded_number_of_lines_and_the_others_are_counted() {
        let limit = LineLimit::default();
        let (now, warning) = (Instant::now(), metadata(Level::WARN));
        for _ in 1..MAX_LINES {
            assert_eq!(limit.admit(warning, now), Admitted::Yes);
        }
        assert_eq!(limit.admit(warning, now), Admitted::Last);
        for _ in 0..500 {
            assert_eq!(limit.admit(warning, now), Admitted::No);
        }
        assert_eq!(limit.admit(metadata(Level::ERROR), now), Admitted::Yes);
        assert_eq!(limit.take_dropped(now), []);
        let later = now + WINDOW;
        assert_eq!(limit.take_dropped(later), [(module_path!(), 500)]);
        assert_eq!(limit.take_dropped(later), []);
        assert_eq!(limit.admit(warning, later), Admitted::Yes);
    }

    #[test]
    fn errors_are_never_dropped() {
        let (limit, now) = (LineLimit::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(limit.admit(metadata(Level::ERROR), now), Admitted::Yes);
        }
    }
}
