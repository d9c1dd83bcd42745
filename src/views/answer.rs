//! What the tree of views answers, and what an operation may have to wait for.

use std::time::{Duration, SystemTime};

use super::owner::FileOwner;
use crate::error::Error;
use crate::manager::Lookup;
use crate::secret::SecretName;

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewAttr {
    /// The inode's number.
    pub ino: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Who may read it.
    pub owner: FileOwner,
    /// Bytes.
    pub size: u64,
    /// When the content changed, or the names in the folder.
    pub changed_at: SystemTime,
    /// How many names lead to it.
    pub nlink: u32,
    /// For how long the kernel may keep this.
    pub valid: Duration,
}

/// What a lookup gives for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub attr: ViewAttr,
    /// For how long the kernel may take the name for this inode without asking.
    pub valid: Duration,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The offset of the name: listings continue behind it.
    pub offset: u64,
    /// Its inode's number, as far as there is one.
    pub ino: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// The name.
    pub name: String,
}

/// Why an operation has no result (yet).
#[derive(Debug)]
pub enum ViewError {
    /// It failed, for a reason that is worth logging.
    Error(Error),
    /// It failed in an expected way.
    Errno(i32),
    /// The caller waits for this, and repeats the operation with the answer.
    Ask(Ask),
}

/// What an operation has to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One secret.
    Secret(SecretName),
    /// All providers.
    All,
    /// The first read of the secrets file.
    Store,
}

/// What was waited for.
#[derive(Debug)]
pub enum Answer {
    /// What the providers have for the secret.
    Secret(Lookup),
    /// The manager's snapshot has it.
    InSnapshot,
}
