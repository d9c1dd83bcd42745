//! The system's user database as `nsswitch.conf` configures it (files, LDAP, ...). The cache `user_permission` keeps its
//! answers. A query can wait for the network until the database's own timeout, so it belongs on threads that may block.

use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{self, Uid};
use serde_json::Value;

use crate::cache::{TtlCache, USER_PERMISSION};

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
