//! Limits the rows about denied access: one a minute for the same user and file, with a count, and a bounded number of
//! files per user. So a user who probes many names cannot fill the trail.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::actor::Actor;
use super::row::{RowFields, UnsignedRow};
use super::user_names::UserNames;
use crate::audit::timestamp;

/// The time in which the same refusal makes one row.
const WINDOW: Duration = Duration::from_secs(60);
/// The most files of one user that have a row of their own in a window; the others share [`OTHERS`].
const MAX_FILES_OF_USER: usize = 20;
/// Stands for the files beyond the limit.
pub(super) const OTHERS: &str = "*";

/// The user and the file.
pub(super) type RefusalKey = (u32, String);

/// Refusals of the same key.
pub(super) struct Refusal {
    /// When the first one happened.
    pub(super) at: SystemTime,
    pub(super) actor: Actor,
    pub(super) count: u64,
}

impl Refusal {
    pub(super) fn row(&self, what: &str, names: &UserNames) -> UnsignedRow {
        let fields = RowFields::new(
            "security.permission_denied",
            format!("Access to {what} denied"),
            serde_json::json!({"key": what}),
        );
        let user = names.get(self.actor.uid);
        fields.row(&self.actor, &user, timestamp(self.at), Some(self.count))
    }
}

/// The refusals that have had their row, and those that are only counted yet.
#[derive(Default)]
pub(super) struct RefusalLimiter {
    windows: HashMap<RefusalKey, Window>,
}

/// The minute after a row.
struct Window {
    ends: Instant,
    /// What happened since that row.
    counted: Option<Refusal>,
}

impl RefusalLimiter {
    /// When the next counted refusals make a row.
    pub(super) fn due(&self) -> Option<Instant> {
        self.counted().map(|(_, window)| window.ends).min()
    }

    /// The users whose refusals are counted.
    pub(super) fn uids(&self) -> impl Iterator<Item = u32> {
        self.counted().map(|((uid, _), _)| *uid)
    }

    fn counted(&self) -> impl Iterator<Item = (&RefusalKey, &Window)> {
        let windows = self.windows.iter();
        windows.filter(|(_, window)| window.counted.is_some())
    }

    /// The rows that are due now: the first refusal of a minute at once, the others when the minute ends, or now if `all`.
    pub(super) fn rows(
        &mut self,
        refusals: HashMap<RefusalKey, Refusal>,
        names: &UserNames,
        all: bool,
    ) -> Vec<UnsignedRow> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (key, refusal) in refusals {
            let key = self.limited(key);
            match self.windows.get_mut(&key) {
                Some(window) => match &mut window.counted {
                    Some(counted) => counted.count += refusal.count,
                    None => window.counted = Some(refusal),
                },
                None => {
                    due.push((key.1.clone(), refusal));
                    let window = Window {
                        ends: now + WINDOW,
                        counted: None,
                    };
                    self.windows.insert(key, window);
                }
            }
        }
        self.windows.retain(|(_, what), window| {
            if !all && window.ends > now {
                return true;
            }
            match window.counted.take() {
                Some(refusal) => {
                    due.push((what.clone(), refusal));
                    window.ends = now + WINDOW;
                    true
                }
                None => window.ends > now,
            }
        });
        due.sort_by_key(|(_, refusal)| refusal.at);
        let rows = due.iter().map(|(what, refusal)| refusal.row(what, names));
        rows.collect()
    }

    fn limited(&self, (uid, what): RefusalKey) -> RefusalKey {
        let of_user = self.windows.keys().filter(|(other, _)| *other == uid);
        match self.windows.contains_key(&(uid, what.clone())) {
            false if of_user.count() >= MAX_FILES_OF_USER => (uid, OTHERS.to_owned()),
            _ => (uid, what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uid: u32, what: &str, count: u64) -> HashMap<RefusalKey, Refusal> {
        let refusal = Refusal {
            at: SystemTime::now(),
            actor: Actor::of_thread(uid, 0),
            count,
        };
        HashMap::from([((uid, what.to_owned()), refusal)])
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

    #[test]
    fn the_same_refusal_makes_one_row_a_minute_with_a_count() {
        let mut limiter = RefusalLimiter::default();
        let mut rows = |refusals, all| counts(&limiter.rows(refusals, &UserNames::default(), all));
        let one = |count| vec![("A".to_owned(), count)];
        assert_eq!(rows(refused(1, "A", 2), false), one(2));
        assert_eq!(rows(refused(1, "A", 3), false), []);
        assert_eq!(rows(refused(1, "A", 4), false), []);
        assert_eq!(rows(refused(2, "A", 1), false), one(1));
        for window in limiter.windows.values_mut() {
            window.ends = Instant::now();
        }
        let mut rows = |refusals, all| counts(&limiter.rows(refusals, &UserNames::default(), all));
        assert_eq!(rows(HashMap::new(), false), one(7));
        assert_eq!(rows(refused(1, "A", 5), false), []);
        assert_eq!(rows(HashMap::new(), true), one(5));
    }

    #[test]
    fn a_user_who_is_denied_a_thousand_files_makes_a_bounded_number_of_rows() {
        let mut limiter = RefusalLimiter::default();
        let mut rows = 0;
        for file in 0..1000 {
            let refusals = refused(1, &format!("K{file}"), 1);
            rows += limiter.rows(refusals, &UserNames::default(), false).len();
        }
        assert_eq!(rows, MAX_FILES_OF_USER + 1);
        let last = limiter.rows(HashMap::new(), &UserNames::default(), true);
        assert_eq!(
            counts(&last),
            [(OTHERS.to_owned(), 1000 - MAX_FILES_OF_USER as u64 - 1)]
        );
    }
}
