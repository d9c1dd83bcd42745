//! The content of a file as it can be had without waiting, or what to wait for first.

use std::time::{Duration, SystemTime};

use super::WaitOn;
use crate::error::Error;
use crate::manager::SecretVersion;
use crate::secret::SecretValue;

/// How fresh a content must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// A value that may be given to readers.
    Fresh,
    /// The last known value, for callers that have waited already, or that look at names and sizes only.
    LastKnown,
}

/// A file's content at one moment.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) value: SecretValue,
    /// When it last changed.
    pub(super) changed_at: SystemTime,
    /// For how long it may be given to readers if nothing changes.
    pub(super) fresh_for: Duration,
}

/// A file's content, or why there is none yet.
pub(super) enum Resolved {
    Content(Content),
    Missing,
    Failed(Error),
    /// The caller must wait for this first.
    Blocked(WaitOn),
}

impl Resolved {
    /// A secret's content.
    pub(super) fn of(version: SecretVersion, fresh_for: Duration) -> Self {
        Resolved::Content(Content {
            value: version.raw,
            changed_at: version.changed_at,
            fresh_for,
        })
    }

    /// Content that does not expire.
    pub(super) fn lasting(value: SecretValue, changed_at: SystemTime) -> Self {
        Resolved::Content(Content {
            value,
            changed_at,
            fresh_for: Duration::MAX,
        })
    }
}
