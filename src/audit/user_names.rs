//! The names of users, from a user database that may hang (a network directory): a thread of its own asks for each, and
//! the writer of a row waits only [`NAME_TIMEOUT`].

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::sync::{self, Condvar, LARGE_STACK, Mutex};
use crate::text::printable;
use crate::users;

/// How long a batch of rows waits for all its names together.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_millis(100);
/// The most lookups at once.
const MAX_LOOKUPS: usize = 16;

/// The users that are being looked up, and since when.
static LOOKUPS: Mutex<BTreeMap<u32, Instant>> = Mutex::new(BTreeMap::new());
static LOOKED_UP: Condvar = Condvar::new();

/// The user's name, or their number if they have none or the database does not answer in time. After a lookup has run
/// into the timeout, nobody waits for it again.
pub(super) fn name_within(uid: u32, timeout: Duration) -> String {
    let now = Instant::now();
    let mut lookups = LOOKUPS.lock();
    loop {
        if let Some(name) = users::known_user_name(uid) {
            return name.map_or_else(|| uid.to_string(), |name| printable(&name));
        }
        let since = match lookups.get(&uid) {
            Some(since) => *since,
            None if lookups.len() < MAX_LOOKUPS && look_up(uid) => {
                *lookups.entry(uid).or_insert(now)
            }
            None => return uid.to_string(),
        };
        let until = (since + timeout).min(now + timeout);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return uid.to_string();
        }
        lookups = LOOKED_UP.wait_timeout(lookups, left);
    }
}

/// Whether the lookup has started. NSS modules may need a large stack.
fn look_up(uid: u32) -> bool {
    let look_up = move || {
        users::user_name(uid);
        let mut lookups = LOOKUPS.lock();
        lookups.remove(&uid);
        drop(lookups);
        LOOKED_UP.notify_all();
    };
    sync::spawn("audit-names", LARGE_STACK, look_up).is_ok()
}

/// The names for a batch of rows.
#[derive(Default)]
pub(super) struct UserNames(HashMap<u32, String>);

impl UserNames {
    /// Waits up to [`NAME_TIMEOUT`] in all.
    pub(super) fn look_up(uids: impl IntoIterator<Item = u32>) -> Self {
        let until = Instant::now() + NAME_TIMEOUT;
        let mut names = HashMap::new();
        for uid in uids {
            names.entry(uid).or_insert_with(|| {
                name_within(uid, until.saturating_duration_since(Instant::now()))
            });
        }
        Self(names)
    }

    /// The user's name; one that was not looked up is given only if it is known already.
    pub(super) fn get(&self, uid: u32) -> String {
        let name = self.0.get(&uid).cloned();
        name.unwrap_or_else(|| name_within(uid, Duration::ZERO))
    }
}
