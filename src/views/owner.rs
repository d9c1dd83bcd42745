//! Who owns a view's files, as the kernel checks it. The owner is part of the name under which `versions` keeps a file, so that the
//! attributes of an inode never change: with another owner, a name leads to another inode.

use std::fmt;

use super::definition::{ViewDefinition, parse_id};
use crate::users;
use crate::versions::DirEntry;

/// The user or group of a definition that the user database does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The user.
    User(String),
    /// The group.
    Group(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::User(user) => write!(f, "there is no user {user:?}"),
            Missing::Group(group) => write!(f, "there is no group {group:?}"),
        }
    }
}

/// The owner, the group and the permission bits of a view's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The permission bits of the files.
    pub mode: u16,
}

impl FileOwner {
    /// The owner that a definition names, and warnings: a name that the user database does not have stands for the user or group
    /// of `mounting`, so that nobody else may read. Asks the user database, which may take some seconds.
    pub(super) fn of(definition: &ViewDefinition, mounting: FileOwner) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut id = |text: &Option<String>, kind: &str, default, find: fn(&str) -> Option<u32>| {
            let Some(text) = text else { return default };
            parse_id(text).or_else(|| find(text)).unwrap_or_else(|| {
                warnings.push(format!(
                    "there is no {kind} {text:?} here, so only the user who mounts can read its files"
                ));
                default
            })
        };
        let uid = id(&definition.user, "user", mounting.uid, users::uid_of);
        let gid = id(&definition.group, "group", mounting.gid, users::gid_of);
        // A group that does not exist gives nobody the right to read.
        let mode = match warnings.is_empty() {
            true => definition.mode,
            false => 0o400,
        };
        (Self { uid, gid, mode }, warnings)
    }

    /// The permission bits of the folder: who may read a file may also list and enter the folder.
    pub fn dir_mode(&self) -> u16 {
        self.mode | self.mode >> 2
    }

    /// Where `versions` keeps the file of this name in a folder.
    pub(super) fn dir_entry(&self, folder: u64, file: &str) -> DirEntry {
        let Self { uid, gid, mode } = self;
        DirEntry::new(folder, &format!("{uid}/{gid}/{mode:o}/{file}"))
    }

    /// The file's name in such an entry.
    pub(super) fn file_of(dir_entry: &DirEntry) -> &str {
        // No file's name has a slash.
        dir_entry.name.rsplit('/').next().unwrap_or_default()
    }

    /// The owner that is part of such a name.
    pub(super) fn of_dir_entry(dir_entry: &DirEntry) -> Option<Self> {
        let mut parts = dir_entry.name.splitn(4, '/');
        Some(Self {
            uid: parts.next()?.parse().ok()?,
            gid: parts.next()?.parse().ok()?,
            mode: u16::from_str_radix(parts.next()?, 8).ok()?,
        })
    }
}

impl ViewDefinition {
    /// The user and the group that are named and do not exist. Asks the user database, which may take some seconds.
    pub fn missing(&self) -> Vec<Missing> {
        let is_missing = |text: &&String, find: fn(&str) -> Option<u32>| {
            parse_id(text).is_none() && find(text).is_none()
        };
        let user = self
            .user
            .as_ref()
            .filter(|user| is_missing(user, users::uid_of));
        let group = self
            .group
            .as_ref()
            .filter(|group| is_missing(group, users::gid_of));
        let user = user.cloned().map(Missing::User).into_iter();
        user.chain(group.cloned().map(Missing::Group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_again_in_the_name_of_a_file() {
        let owner = FileOwner {
            uid: u32::MAX - 1,
            gid: 0,
            mode: 0o440,
        };
        let dir_entry = owner.dir_entry(7, "token");
        assert_eq!(
            (dir_entry.dir, &*dir_entry.name),
            (7, "4294967294/0/440/token")
        );
        assert_eq!(FileOwner::of_dir_entry(&dir_entry), Some(owner));
        assert_eq!(owner.dir_mode(), 0o550);
    }

    #[test]
    fn a_user_that_does_not_exist_gives_nobody_else_the_right_to_read() {
        let mounting = FileOwner {
            uid: 1,
            gid: 2,
            mode: 0,
        };
        let mut definition = ViewDefinition::empty();
        definition.mode = 0o444;
        definition.user = Some("3999999999".into());
        let (owner, warnings) = FileOwner::of(&definition, mounting);
        assert_eq!(
            (owner.uid, owner.gid, owner.mode),
            (3_999_999_999, 2, 0o444)
        );
        assert!(warnings.is_empty());
        definition.group = Some("no-such-group".into());
        let (owner, warnings) = FileOwner::of(&definition, mounting);
        assert_eq!((owner.gid, owner.mode), (2, 0o400));
        assert!(warnings[0].contains("no group \"no-such-group\""));
    }
}
