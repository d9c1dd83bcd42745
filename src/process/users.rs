//! The system's user database as `nsswitch.conf` configures it (files, LDAP, ...). The cache `user_permission` keeps its
//! answers. A query can wait for the network until the database's own timeout, so it belongs on threads that may block.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{self, Group, Uid, User};
use serde_json::Value;

use crate::cache::{TtlCache, USER_PERMISSION};
use crate::sync::{self, Condvar, LARGE_STACK, Mutex};

/// The most lookups at once.
const MAX_LOOKUPS: usize = 16;
/// How long a message waits for a user's name.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a name's number is waited for.
const ID_TIMEOUT: Duration = Duration::from_secs(2);

/// The users that are being looked up, and since when.
static LOOKUPS: Mutex<BTreeMap<u32, Instant>> = Mutex::new(BTreeMap::new());
static LOOKED_UP: Condvar = Condvar::new();

/// The answers of the user database, one cache for the whole process: keys `user:{id}:...`, 60 s, 500 entries.
pub fn user_permission_cache() -> &'static TtlCache<Value> {
    static CACHE: OnceLock<TtlCache<Value>> = OnceLock::new();
    CACHE.get_or_init(|| TtlCache::new(USER_PERMISSION))
}

/// Drops a user's entries from [`user_permission_cache`] and returns their number.
pub fn invalidate_user_cache(uid: u32) -> usize {
    user_permission_cache().invalidate_prefix(&format!("user:{uid}:"))
}

fn name_key(uid: u32) -> String {
    format!("user:{uid}:name")
}

/// A user's name, for display. `None` also if the database failed: a failure is cached like an answer, so that a long
/// list waits for it once only.
pub fn user_name(uid: u32) -> Option<String> {
    let ask = || {
        let user = found(unistd::User::from_uid(Uid::from_raw(uid)));
        let name = user.ok().flatten().map(|user| user.name);
        Ok::<_, std::convert::Infallible>(name.map_or(Value::Null, Value::String))
    };
    let Ok(cached) = user_permission_cache().get_or_set(&name_key(uid), ask);
    cached.as_str().map(ToOwned::to_owned)
}

/// The cached answer of [`user_name`], without waiting. The outer `None`: nothing is cached, the database must be asked.
pub fn known_user_name(uid: u32) -> Option<Option<String>> {
    let cached = user_permission_cache().get(&name_key(uid))?;
    Some(cached.as_str().map(ToOwned::to_owned))
}

/// A user's name, from a database that may hang: a thread of its own asks. `None`: there is none, or the database does not
/// answer in time. After a lookup has run into the timeout, nobody waits for it again.
pub(crate) fn name_within(uid: u32, timeout: Duration) -> Option<String> {
    let now = Instant::now();
    let mut lookups = LOOKUPS.lock();
    loop {
        if let Some(name) = known_user_name(uid) {
            return name;
        }
        let since = match lookups.get(&uid) {
            Some(since) => *since,
            None if lookups.len() < MAX_LOOKUPS && look_up(uid) => {
                *lookups.entry(uid).or_insert(now)
            }
            None => return None,
        };
        let until = (since + timeout).min(now + timeout);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        lookups = LOOKED_UP.wait_timeout(lookups, left);
    }
}

/// Whether the lookup has started. NSS modules may need a large stack.
fn look_up(uid: u32) -> bool {
    let look_up = move || {
        user_name(uid);
        let mut lookups = LOOKUPS.lock();
        lookups.remove(&uid);
        drop(lookups);
        LOOKED_UP.notify_all();
    };
    sync::spawn("user-names", LARGE_STACK, look_up).is_ok()
}

/// The number of a user, by name; `None` also if the database does not answer within two seconds.
pub(crate) fn uid_of(name: &str) -> Option<u32> {
    let name = name.to_owned();
    within(ID_TIMEOUT, move || {
        Some(User::from_name(&name).ok()??.uid.as_raw())
    })
}

/// The number of a group, by name; `None` also if the database does not answer within two seconds.
pub(crate) fn gid_of(name: &str) -> Option<u32> {
    let name = name.to_owned();
    within(ID_TIMEOUT, move || {
        Some(Group::from_name(&name).ok()??.gid.as_raw())
    })
}

/// Asks the database on a thread of its own.
fn within<T: Send + 'static>(
    timeout: Duration,
    ask: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = channel();
    let run = move || drop(sender.send(ask()));
    sync::spawn("user-names", LARGE_STACK, run).ok()?;
    receiver.recv_timeout(timeout).ok()?
}

/// A user in a message: the name, or the number if the database does not have it at once.
pub(crate) fn display_name(uid: u32) -> String {
    name_within(uid, MESSAGE_TIMEOUT).unwrap_or_else(|| uid.to_string())
}

/// Some databases report a missing user by these errors (getpwnam(3), "ERRORS").
fn found<T>(answer: nix::Result<Option<T>>) -> Result<Option<T>, String> {
    match answer {
        Ok(found) => Ok(found),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.desc().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_name_is_cached_and_so_is_a_number_without_a_user() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_permission_cache().get("user:0:name").unwrap(), "root");
        assert_eq!(known_user_name(0), Some(Some("root".to_owned())));

        assert_eq!(known_user_name(3_999_999_999), None);
        assert_eq!(user_name(3_999_999_999), None);
        assert_eq!(known_user_name(3_999_999_999), Some(None));
        assert_eq!(invalidate_user_cache(3_999_999_999), 1);
        assert_eq!(known_user_name(3_999_999_999), None);
    }
}
