//! `backup` and `restore`: everything of this program that is kept on the disk, in one tar archive that is encrypted in the age
//! format, so that `age -d FILE | tar -x` opens it without this program. Knows no mount and no terminal.
//!
//! - `manifest`: `backup.json`, the first file of an archive: its form, what it holds, of which key
//! - `collect`: reads all files and databases, each at one moment
//! - `archive`: the files as a tar stream, and back; refuses what this program does not write
//! - `envelope`: encrypts and decrypts the stream with a passphrase or with keys
//! - `check`: whether an archive can be used: every value can be decrypted, every file is what it should be
//! - `trails`: the audit trails go with their key, here and in what was replaced
//! - `plan`: what a restore would change; `apply`: changes it
//!
//! All of an archive is in memory before anything is written, so a restore begins only once all of it has been authenticated.

mod apply;
mod archive;
mod check;
mod collect;
mod compare;
mod envelope;
mod manifest;
mod plan;
mod trails;

use zeroize::Zeroizing;

pub use apply::Restored;
pub use archive::{read, write};
pub use check::Checked;
pub use collect::{Collected, Options, collect};
pub use compare::State;
pub use envelope::{Closed, Identities, Opened, Recipients, Seal, Sealing};
pub use manifest::{FORM, KeyInfo, Manifest, Part};
pub use plan::{Plan, Step, settings_after};
pub use trails::kept_trails;

use manifest::Role;

/// What follows the name of a file that a restore replaced; then the time of the restore.
pub(crate) const KEPT: &str = ".before-restore-";

/// A file of an archive.
pub(crate) struct Member {
    role: Role,
    bytes: Zeroizing<Vec<u8>>,
}

fn malformed(reason: impl Into<String>) -> crate::error::Error {
    crate::error::Error::Malformed {
        what: "the backup".to_owned(),
        reason: reason.into(),
    }
}
