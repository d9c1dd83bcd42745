//! What inodes hold: readers' versions, writers' buffers, and the handles through which writers write.

use std::time::SystemTime;

use crate::process::Process;
use crate::secret::{SecretBuffer, SecretValue};

/// An inode whose bytes never change.
#[derive(Clone, Debug)]
pub struct Version {
    /// The file it belongs to.
    pub file: u64,
    /// The bytes.
    pub value: SecretValue,
    /// The modification time: when the bytes became the file's content, or what a program set.
    pub mtime: SystemTime,
    /// The change time: when the bytes became the file's content, or a program set the modification time.
    pub changed_at: SystemTime,
}

/// An inode.
#[derive(Debug)]
pub enum Inode {
    /// An inode that readers share.
    Version(Version),
    /// An inode of one writer.
    Write(WriteInode),
}

/// Why the bytes are not known with which a writer's buffer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// A provider must be asked for it.
    Unknown,
    /// It cannot be read or written: the operation fails with this errno.
    Failed(i32),
}

/// The process that opened a file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opener {
    /// The process.
    pub process: Process,
    /// Its user.
    pub uid: u32,
    /// Its program, for the audit trail.
    pub program: Option<String>,
}

/// What a writer has written.
#[derive(Debug)]
pub struct Buffer {
    /// The bytes.
    pub data: Result<SecretBuffer, Unavailable>,
    /// The number of changes made to it.
    pub changes: u64,
    /// The number of changes that have been committed.
    pub committed: u64,
    /// The process that opened it.
    pub opener: Opener,
    /// The opener has closed a descriptor since it wrote last. Where it has not, another of its threads may just be
    /// opening the file.
    pub is_flushed: bool,
    /// The opener has closed its last descriptor.
    pub is_closed: bool,
    /// A signal killed the opener before it closed its last descriptor.
    pub is_killed: bool,
    /// What it held when it was last fsynced, if that was after the last commit.
    pub synced: Option<SecretBuffer>,
    /// The modification time that was set.
    pub mtime: Option<SystemTime>,
}

impl Buffer {
    /// Whether it has changes that are not committed.
    pub fn is_dirty(&self) -> bool {
        self.changes != self.committed
    }

    /// Whether a provider must be asked for what it began with.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.data, Err(Unavailable::Unknown))
    }
}

/// A writer's inode, or a scratch file's.
#[derive(Debug)]
pub struct WriteInode {
    /// The file it belongs to.
    pub file: u64,
    /// What the file held when the inode was made.
    pub base: Result<SecretValue, Unavailable>,
    /// `None`: it has not been opened to write yet.
    pub buffer: Option<Buffer>,
    /// How many handles write to it.
    pub writers: u32,
    /// How many commits of it are under way.
    pub commits: u32,
    /// It was opened to read, and the kernel keeps pages with `base`: it is never written to.
    pub is_read: bool,
    /// Its buffer was opened to read, and is kept for those readers after the last writer has closed it.
    pub is_viewed: bool,
    /// When its bytes last changed.
    pub changed_at: SystemTime,
}

impl WriteInode {
    /// Whether a handle or a commit needs it.
    pub(super) fn is_held(&self) -> bool {
        self.writers > 0 || self.commits > 0
    }

    /// How many bytes it keeps.
    pub(super) fn bytes_held(&self) -> usize {
        let base = self.base.as_ref().map_or(0, SecretValue::len);
        let buffer = self.buffer.as_ref().map_or(0, |buffer| {
            let data = buffer.data.as_ref().map_or(0, SecretBuffer::len);
            data + buffer.synced.as_ref().map_or(0, SecretBuffer::len)
        });
        base + buffer
    }

    /// Its length in bytes; 0 where that is not known.
    pub fn len(&self) -> usize {
        match &self.buffer {
            Some(buffer) => buffer.data.as_ref().map_or(0, SecretBuffer::len),
            None => self.base.as_ref().map_or(0, SecretValue::len),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its opener has written to it and not closed it.
    pub fn is_unclosed(&self) -> bool {
        self.writers > 0
            && self
                .buffer
                .as_ref()
                .is_some_and(|buffer| !buffer.is_closed && !buffer.is_killed && buffer.is_dirty())
    }
}

/// An open file with a handle number. Readers of versions have none, because the inode is enough.
#[derive(Debug)]
pub enum Handle {
    /// It writes to this inode.
    Write {
        /// The inode.
        ino: u64,
        /// The request that opened it.
        request: u64,
        /// The last write request and how many bytes it wrote, as the kernel may send it again.
        last_write: Option<(u64, u32)>,
    },
    /// It reads what a generated file held when it was opened.
    Snapshot {
        /// The request that opened it.
        request: u64,
        /// The bytes.
        value: SecretValue,
    },
}
