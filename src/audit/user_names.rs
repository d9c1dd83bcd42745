//! The names of users in rows, from a user database that may hang (a network directory): the writer of a row waits only
//! [`NAME_TIMEOUT`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::text::printable;
use crate::users;

/// How long a batch of rows waits for all its names together.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_millis(100);

/// The user of a process that had ended before it was looked at, in rows. No user can have this name.
pub(super) const NO_USER: &str = "?";

/// The user's name, or their number if they have none or the database does not answer in time.
pub(super) fn name_within(uid: u32, timeout: Duration) -> String {
    let name = users::name_within(uid, timeout);
    name.map_or_else(|| uid.to_string(), |name| printable(&name))
}

/// The names for a batch of rows.
#[derive(Default)]
pub(super) struct UserNames(HashMap<u32, String>);

impl UserNames {
    /// Waits up to [`NAME_TIMEOUT`] in all.
    pub(super) fn look_up(uids: impl IntoIterator<Item = Option<u32>>) -> Self {
        let until = Instant::now() + NAME_TIMEOUT;
        let mut names = HashMap::new();
        for uid in uids.into_iter().flatten() {
            names.entry(uid).or_insert_with(|| {
                name_within(uid, until.saturating_duration_since(Instant::now()))
            });
        }
        Self(names)
    }

    /// The user's name; one that was not looked up is given only if it is known already.
    pub(super) fn get(&self, uid: Option<u32>) -> String {
        let Some(uid) = uid else {
            return NO_USER.into();
        };
        let name = self.0.get(&uid).cloned();
        name.unwrap_or_else(|| name_within(uid, Duration::ZERO))
    }
}
