//! The system's user database, as `nsswitch.conf` has it: files, LDAP, whatever there is. Its answers lie in the cache
//! `user_permission`. Every question may wait for the network, as long as the database's own timeouts allow: only for
//! threads that may.

use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{self, Uid};
use serde_json::Value;

use crate::cache::{TtlCache, USER_PERMISSION};

/// What the user database said, one cache for the whole process: keys `user:{id}:...`, 60 s, 500 entries.
pub fn user_permission_cache() -> &'static TtlCache<Value> {
    static CACHE: OnceLock<TtlCache<Value>> = OnceLock::new();
    CACHE.get_or_init(|| TtlCache::new(USER_PERMISSION))
}

/// Drops a user's entries from [`user_permission_cache`]; how many there were.
pub fn invalidate_user_cache(uid: u32) -> usize {
    user_permission_cache().invalidate_prefix(&format!("user:{uid}:"))
}

fn name_key(uid: u32) -> String {
    format!("user:{uid}:name")
}

/// The name of a user, to be shown; `None` also where the database gave no answer, which is held like any other, so that
/// whoever shows many waits for it once.
pub fn user_name(uid: u32) -> Option<String> {
    let ask = || {
        let user = found(unistd::User::from_uid(Uid::from_raw(uid)));
        let name = user.ok().flatten().map(|user| user.name);
        Ok::<_, std::convert::Infallible>(name.map_or(Value::Null, Value::String))
    };
    let Ok(held) = user_permission_cache().get_or_set(&name_key(uid), ask);
    held.as_str().map(ToOwned::to_owned)
}

/// What [`user_name`] gives without waiting; the outer `None`: the database must be asked first.
pub fn known_user_name(uid: u32) -> Option<Option<String>> {
    let held = user_permission_cache().get(&name_key(uid))?;
    Some(held.as_str().map(ToOwned::to_owned))
}

/// Some databases say "not there" by these errors (getpwnam(3), "ERRORS").
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
    fn root_is_known_by_number_and_nobody_by_a_number_that_nobody_has() {
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
