//! The system's user database, as `nsswitch.conf` has it: files, LDAP, whatever there is. Every call may wait for the
//! network, as long as the database's own timeouts allow: only for threads that may.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{self, Uid};
use serde::{Deserialize, Serialize};

use crate::cache::USER_PERMISSION;

/// What the user database says of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name; `None`: it does not know him.
    pub name: Option<String>,
    /// The numbers of all his groups, the primary one too.
    pub groups: Vec<u32>,
}

/// The user of a number; nobody knows a user of a container, say, and that is no failure.
///
/// # Errors
/// Why the database gave no answer.
pub fn by_id(uid: u32) -> Result<User, String> {
    let Some(user) = found(unistd::User::from_uid(Uid::from_raw(uid)))? else {
        return Ok(User::default());
    };
    let name = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
    let groups = unistd::getgrouplist(&name, user.gid).map_err(|errno| errno.to_string())?;
    Ok(User {
        name: Some(user.name),
        groups: groups.into_iter().map(unistd::Gid::as_raw).collect(),
    })
}

crate::cached! {
    ttl = USER_PERMISSION.default_ttl, key_prefix = "user";
    /// The number of a user.
    ///
    /// # Errors
    /// Why the database gave no answer.
    pub fn user_id(name: &str) -> Result<Option<u32>, String> {
        let user = found(unistd::User::from_name(name))?;
        Ok(user.map(|user| user.uid.as_raw()))
    }
}

crate::cached! {
    ttl = USER_PERMISSION.default_ttl, key_prefix = "user";
    /// The number of a group.
    ///
    /// # Errors
    /// Why the database gave no answer.
    pub fn group_id(name: &str) -> Result<Option<u32>, String> {
        let group = found(unistd::Group::from_name(name))?;
        Ok(group.map(|group| group.gid.as_raw()))
    }
}

crate::cached! {
    ttl = USER_PERMISSION.default_ttl, key_prefix = "user";
    /// The name of a user, to be shown; `None` also where the database gave no answer, so that whoever shows many waits
    /// for it once.
    pub fn user_name(uid: u32) -> Option<String> {
        let user = found(unistd::User::from_uid(Uid::from_raw(uid)));
        Some(user.ok()??.name)
    }
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
    fn root_is_known_by_name_and_number_and_nobody_by_a_number_that_nobody_has() {
        let root = by_id(0).unwrap();
        assert_eq!(root.name.as_deref(), Some("root"));
        assert!(root.groups.contains(&0));
        assert_eq!(user_id("root"), Ok(Some(0)));
        assert_eq!(group_id("root"), Ok(Some(0)));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert!(user_name::cache().get("user:user_name:0").is_some());

        assert_eq!(by_id(3_999_999_999), Ok(User::default()));
        assert_eq!(user_name(3_999_999_999), None);
        assert_eq!(user_id("no-such-user"), Ok(None));
        assert_eq!(group_id("no-such-group"), Ok(None));
    }
}
