//! Limits the rows about denied access: one a minute for the same user and file, with a count, a bounded number of files per
//! user, and a bounded number of rows for all users together. So neither a user who probes many names nor one with many
//! user numbers (subordinate ids) can fill the trail or the memory.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::actor::Actor;
use super::row::{RowFields, UnsignedRow};
use super::user_names::UserNames;
use crate::audit::timestamp;

/// The time in which the same refusal makes one row.
const WINDOW: Duration = Duration::from_secs(60);
/// The most files of one user that have a row of their own in a window; the others share one.
const MAX_FILES_OF_USER: usize = 20;
/// The most rows in a window, of all users together.
const MAX_ROWS: usize = 100;
/// Stands for the files beyond a limit.
const OTHERS: &str = "*";

/// The refusals that share a row.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Of a user and a file.
    File(u32, String),
    /// Of a user, beyond [`MAX_FILES_OF_USER`].
    OthersOf(u32),
    /// Of all users, beyond [`MAX_ROWS`].
    Others,
}

impl Key {
    fn uid(&self) -> Option<u32> {
        match self {
            Key::File(uid, _) | Key::OthersOf(uid) => Some(*uid),
            Key::Others => None,
        }
    }
}

/// Refusals that no row has yet.
struct Refusal {
    /// When the first one happened.
    at: SystemTime,
    actor: Actor,
    count: u64,
}

impl Refusal {
    fn row(&self, key: &Key, names: &UserNames) -> UnsignedRow {
        let what = match key {
            Key::File(_, what) => what,
            Key::OthersOf(_) | Key::Others => OTHERS,
        };
        let action = match key {
            Key::Others => "Access denied to more users than have rows of their own".to_owned(),
            _ => format!("Access to {what} denied"),
        };
        let details = serde_json::json!({"key": what});
        let fields = RowFields::new("security.permission_denied", action, details);
        let user = names.get(self.actor.uid);
        fields.row(&self.actor, &user, timestamp(self.at), Some(self.count))
    }
}

/// The refusals of a key: a row has its last ones, or will have them.
#[derive(Default)]
struct Window {
    /// When the last row was made.
    row_at: Option<Instant>,
    /// What happened since that row.
    counted: Option<Refusal>,
}

impl Window {
    fn ends(&self) -> Option<Instant> {
        self.row_at.map(|at| at + WINDOW)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ends().is_none_or(|end| end <= now)
    }
}

/// The refusals that have had their row, and those that are only counted yet.
#[derive(Default)]
pub(super) struct RefusalLimiter {
    windows: HashMap<Key, Window>,
}

impl RefusalLimiter {
    /// Counts a refusal. Returns whether [`due`](Self::due) may have become earlier.
    pub(super) fn add(&mut self, uid: u32, tid: u32, what: String) -> bool {
        let key = self.key_of(uid, what);
        let window = self.windows.entry(key.clone()).or_default();
        if let Some(counted) = &mut window.counted {
            counted.count += 1;
            return false;
        }
        window.counted = Some(Refusal {
            at: SystemTime::now(),
            actor: match key {
                Key::Others => Actor::this_process(),
                _ => Actor::of_thread(uid, tid),
            },
            count: 1,
        });
        true
    }

    fn key_of(&mut self, uid: u32, what: String) -> Key {
        let file = Key::File(uid, what);
        if self.windows.contains_key(&file) {
            return file;
        }
        let is_of_user = |key: &&Key| key.uid() == Some(uid);
        let of_user = self.windows.keys().filter(is_of_user).count();
        let key = match of_user >= MAX_FILES_OF_USER {
            true => Key::OthersOf(uid),
            false => file,
        };
        if self.windows.contains_key(&key) {
            return key;
        }
        let now = Instant::now();
        if self.windows.len() + 1 >= MAX_ROWS {
            let in_use = |window: &Window| window.counted.is_some() || !window.is_over(now);
            self.windows.retain(|_, window| in_use(window));
        }
        // One row is left for those of all others.
        match self.windows.len() + 1 >= MAX_ROWS {
            true => Key::Others,
            false => key,
        }
    }

    /// When the next counted refusals make a row.
    pub(super) fn due(&self) -> Option<Instant> {
        let counted = self.counted().map(|(_, window)| window.ends());
        let due = counted.map(|ends| ends.unwrap_or_else(Instant::now));
        due.min()
    }

    /// The users whose refusals are counted.
    pub(super) fn uids(&self) -> BTreeSet<Option<u32>> {
        let counted = self
            .counted()
            .filter_map(|(_, window)| window.counted.as_ref());
        counted.map(|refusal| refusal.actor.uid).collect()
    }

    fn counted(&self) -> impl Iterator<Item = (&Key, &Window)> {
        let windows = self.windows.iter();
        windows.filter(|(_, window)| window.counted.is_some())
    }

    /// The rows of what is counted, which stays counted.
    pub(super) fn unwritten(&self, names: &UserNames) -> Vec<UnsignedRow> {
        let counted = self.counted();
        let row = |(key, window): (&Key, &Window)| Some(window.counted.as_ref()?.row(key, names));
        counted.filter_map(row).collect()
    }

    /// The rows that are due now: the first refusal of a minute at once, the others when the minute ends, or now if `all`.
    pub(super) fn take_rows(&mut self, names: &UserNames, all: bool) -> Vec<UnsignedRow> {
        let now = Instant::now();
        let mut due = Vec::new();
        self.windows.retain(|key, window| {
            if !all && !window.is_over(now) {
                return true;
            }
            if let Some(refusal) = window.counted.take() {
                due.push((refusal.at, refusal.row(key, names)));
                window.row_at = Some(now);
            }
            !window.is_over(now)
        });
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(limiter: &mut RefusalLimiter, uid: u32, what: &str, count: u64) {
        for _ in 0..count {
            limiter.add(uid, 0, what.to_owned());
        }
    }

    fn counts(rows: &[UnsignedRow]) -> Vec<(String, u64)> {
        let count = |row: &UnsignedRow| {
            let details: serde_json::Value = serde_json::from_str(&row.details).unwrap();
            (
                row.target_id.clone().unwrap(),
                details["count"].as_u64().unwrap(),
            )
        };
        rows.iter().map(count).collect()
    }

    fn take(limiter: &mut RefusalLimiter, all: bool) -> Vec<(String, u64)> {
        counts(&limiter.take_rows(&UserNames::default(), all))
    }

    fn end_windows(limiter: &mut RefusalLimiter) {
        for window in limiter.windows.values_mut() {
            window.row_at = window.row_at.and_then(|at| at.checked_sub(WINDOW));
        }
    }

    #[test]
    fn the_same_refusal_makes_one_row_a_minute_with_a_count() {
        let mut limiter = RefusalLimiter::default();
        let one = |count| vec![("A".to_owned(), count)];
        add(&mut limiter, 1, "A", 2);
        assert_eq!(take(&mut limiter, false), one(2));
        add(&mut limiter, 1, "A", 3);
        assert_eq!(take(&mut limiter, false), []);
        add(&mut limiter, 1, "A", 4);
        assert_eq!(take(&mut limiter, false), []);
        add(&mut limiter, 2, "A", 1);
        assert_eq!(take(&mut limiter, false), one(1));
        end_windows(&mut limiter);
        assert_eq!(take(&mut limiter, false), one(7));
        add(&mut limiter, 1, "A", 5);
        assert_eq!(take(&mut limiter, false), []);
        assert_eq!(take(&mut limiter, true), one(5));
    }

    #[test]
    fn a_user_who_is_denied_a_thousand_files_makes_a_bounded_number_of_rows() {
        let mut limiter = RefusalLimiter::default();
        let mut rows = 0;
        for file in 0..1000 {
            add(&mut limiter, 1, &format!("K{file}"), 1);
            rows += take(&mut limiter, false).len();
        }
        assert_eq!(rows, MAX_FILES_OF_USER + 1);
        assert_eq!(
            take(&mut limiter, true),
            [(OTHERS.to_owned(), 1000 - MAX_FILES_OF_USER as u64 - 1)]
        );
    }

    #[test]
    fn thousands_of_users_make_a_bounded_number_of_rows_a_minute_and_none_is_uncounted() {
        let mut limiter = RefusalLimiter::default();
        let mut total = 0;
        for minute in 0..3 {
            let mut rows = 0;
            for uid in 0..2000 {
                add(&mut limiter, minute * 10_000 + uid, "A", 1);
                add(&mut limiter, minute * 10_000 + uid, "B", 1);
                assert!(limiter.windows.len() <= MAX_ROWS);
                if uid % 100 == 0 {
                    let taken = take(&mut limiter, false);
                    rows += taken.len();
                    total += taken.iter().map(|(_, count)| count).sum::<u64>();
                }
            }
            assert!(rows <= MAX_ROWS, "{rows}");
            end_windows(&mut limiter);
        }
        let last = take(&mut limiter, true);
        total += last.iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(total, 3 * 2000 * 2);
        assert!(limiter.windows.len() <= MAX_ROWS);
    }

    #[test]
    fn what_has_had_its_row_makes_room_for_others_when_its_minute_is_over() {
        let mut limiter = RefusalLimiter::default();
        for uid in 0..1000 {
            add(&mut limiter, uid, "A", 1);
        }
        take(&mut limiter, false);
        end_windows(&mut limiter);
        add(&mut limiter, 5000, "B", 1);
        assert_eq!(take(&mut limiter, false), [("B".to_owned(), 1)]);
    }
}
