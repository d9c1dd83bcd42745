//! A file as users see it: one name and one `st_ino`, whatever inodes have its contents.

use std::time::SystemTime;

use super::DirEntry;
use crate::process::Process;

/// A file; its key in [`State`](super::State) is its `st_ino`.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name; `None`: it was removed or replaced, and only processes that have it open still reach it.
    pub dir_entry: Option<DirEntry>,
    /// Its last name.
    pub last: DirEntry,
    /// Its name before the last rename, as a thread may just have looked that up.
    pub(super) earlier: Option<DirEntry>,
    /// A lookup found no value under its name. It exists because a backend could not be asked at once. Opening it to
    /// write makes the file.
    pub(super) has_vanished: bool,
    /// The inode of its current version; `None`: none is known.
    pub current: Option<u64>,
    /// The write inode that its name leads to while it is pending or a scratch file.
    pub write_ino: Option<u64>,
    /// The process that creates it: it has no first value yet, and no other process finds it.
    pub pending: Option<Process>,
    /// An editor's scratch file: it is kept in memory, and never stored.
    pub is_scratch: bool,
    /// The modification time that was set for the content with this fingerprint.
    pub mtime: Option<(u64, SystemTime)>,
    /// How many inodes belong to it.
    pub(super) inodes: u32,
}

impl File {
    /// Whether it had this name before its last rename.
    pub fn was_at(&self, dir_entry: &DirEntry) -> bool {
        self.earlier.as_ref() == Some(dir_entry)
    }

    /// Whether it ever had another name.
    pub fn is_renamed(&self) -> bool {
        self.earlier.is_some()
    }

    pub(super) fn move_to(&mut self, dir_entry: &DirEntry) {
        if self.last != *dir_entry {
            self.earlier = Some(std::mem::replace(&mut self.last, dir_entry.clone()));
        }
    }
}
