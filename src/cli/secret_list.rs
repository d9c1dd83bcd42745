//! A secret as `ls` lists it, whether the mount or the store gave it.

use std::time::SystemTime;

use crate::secret::SecretName;

/// A secret in the list.
pub(super) struct ListedSecret {
    pub(super) name: SecretName,
    pub(super) provider: Option<String>,
    /// In bytes; only for [`Detail::All`], if the value can be read.
    pub(super) size: Option<u64>,
    pub(super) changed_at: Option<SystemTime>,
    /// Why the value cannot be read; only for [`Detail::All`].
    pub(super) problem: Option<String>,
}

/// What `ls` shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Names,
    /// Also providers, sizes and times, which may wait for a backend.
    All,
}

/// Why a provider gave no names that has never answered.
pub(super) const NO_ANSWER: &str = "it has not answered yet";

/// A provider whose names are missing in the list.
pub(super) struct Unlisted {
    pub(super) provider: String,
    /// Why it did not give them.
    pub(super) reason: String,
}
