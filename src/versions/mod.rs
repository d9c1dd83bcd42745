//! The state of a mount that outlives its server: which bytes each inode holds that the kernel knows, what writers have
//! written and not closed yet, and which file each name leads to. The module `live` decides what happens to it. Here, a
//! folder is a number and a content is bytes: nothing is known of secrets, providers or FUSE.
//!
//! - A [`File`] is what users see under a name: its name (or none any more), a stable `st_ino`, its current version.
//! - A [`Version`] is an inode whose bytes never change. A name leads to the current one until something changes. An
//!   open never checks whether a version is current.
//! - A placeholder is an inode without bytes, for a name whose content a provider must be asked for first. Opening
//!   it waits for the answer and then returns ESTALE, so that the kernel looks the name up again and finds the version.
//! - A [`WriteInode`] belongs to one writer (or to one scratch file): a buffer that nobody else sees before it is
//!   committed.
//! - A pending file has no first value yet: only the process that creates it finds it.
//! - A [`Retry`] records that a thread got ESTALE for a name, and whether the thread wants to read or to write. The kernel
//!   then looks the name up again, and gets an inode for that.
//!
//! Every change also makes a [`Record`]. The journal appends the records of an operation before the operation is
//! answered, so that the next server can continue.

mod closing;
mod epoch;
mod file;
mod inode;
mod journal;
mod log;
mod lookups;
mod names;
mod record;
mod restore;
mod retries;
mod state;
mod writers;

pub use epoch::KernelNames;
pub use file::File;
pub use inode::{Buffer, Handle, Inode, Opener, Unavailable, Version, WriteInode};
pub use journal::Journal;
pub use log::Log;
pub use record::{Record, Timestamp};
pub use restore::Restored;
pub use retries::Retry;
pub use state::State;

use serde::{Deserialize, Serialize};

/// A directory entry: a name in a folder, whether a file has it or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirEntry {
    /// The folder's inode number.
    pub dir: u64,
    /// The name in it.
    pub name: String,
}

/// The name and the number that a placeholder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// The name.
    pub dir_entry: DirEntry,
    /// The `st_ino` of its file.
    pub st_ino: u64,
}

impl DirEntry {
    /// The entry of this name in this folder.
    pub fn new(dir: u64, name: &str) -> Self {
        Self {
            dir,
            name: name.into(),
        }
    }

    /// A hash of the folder and the name, in the range of files' inode numbers: the `st_ino` of a file that is created here, unless
    /// it is taken, and the offset of the name in a listing. The same in every server.
    pub fn hashed_ino(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write_u64(self.dir);
        hasher.write(self.name.as_bytes());
        // Without the top bit: listings use it as an offset too, and offsets are signed.
        (hasher.finish() >> 1).max(FIRST_FILE)
    }
}

/// Inode numbers below this one are folders'.
pub const FIRST_FILE: u64 = 1 << 16;

#[cfg(test)]
mod tests;
