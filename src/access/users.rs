//! The system's user database, as `nsswitch.conf` has it: files, LDAP, whatever there is. Every call may wait for the
//! network, as long as the database's own timeouts allow.

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

/// Some databases say "not there" by these errors (getpwnam(3), "ERRORS").
fn found<T>(answer: nix::Result<Option<T>>) -> Result<Option<T>, String> {
    match answer {
        Ok(found) => Ok(found),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.desc().to_owned()),
    }
}
