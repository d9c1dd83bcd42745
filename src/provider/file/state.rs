//! What the file provider holds of the file: the last good document, whether it is still good, and what changed since
//! it was last asked. Touches no file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::place::Look;
use super::{Document, Stored};
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange, Refreshed};
use crate::secret::SecretName;
use crate::settings::files::Stamp;

/// What was looked at when the file was last read.
#[derive(Default, PartialEq, Eq)]
pub(super) enum Seen {
    /// It must be read again.
    #[default]
    Unclear,
    Missing(PathBuf),
    File(PathBuf, Stamp),
}

impl Seen {
    /// A file that was read: unless it changed so lately that its stamp may lie.
    pub(super) fn after(path: &Path, stamp: Stamp) -> Self {
        if stamp.may_repeat() {
            Seen::Unclear
        } else {
            Seen::File(path.to_owned(), stamp)
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    seen: Seen,
    held: Option<Document>,
    /// When the held document was last known to be what the file holds.
    good_at: Option<Instant>,
    /// When the first document was read; a key that has no time of its own has this one.
    first_modified: Option<SystemTime>,
    changed_at: HashMap<SecretName, SystemTime>,
    failure: Option<Error>,
    /// Whether it was told that the held document has grown too old to be served.
    told_too_old: bool,
    /// Changes that `refresh` has not told yet; `Some` of nothing: the provider failed, or came back.
    untold: Option<Vec<NameChange>>,
    untold_all: bool,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) latency: Option<Duration>,
}

impl State {
    pub(super) fn is_current(&self, look: &Look<'_>) -> bool {
        match (&self.seen, look.stat()) {
            (Seen::Missing(path), None) => path == look.path(),
            (Seen::File(path, stamp), Some(stat)) => {
                *stamp == Stamp::of(stat) && path == look.path()
            }
            _ => false,
        }
    }

    /// The file is as it was when it was last read.
    pub(super) fn confirm(&mut self, max_stale: Duration) {
        if self.failure.is_none() {
            self.good_at = Some(Instant::now());
        } else {
            self.tell_if_too_old(max_stale);
        }
    }

    /// Takes in a document that was read.
    pub(super) fn take_in(&mut self, seen: Seen, document: Document, modified: SystemTime) {
        self.seen = seen;
        let came_back = self.failure.take().is_some();
        self.told_too_old = false;
        match &self.held {
            Some(held) => {
                let changes = held.changes_to(&document);
                for change in &changes {
                    self.note(change, modified);
                }
                if came_back || !changes.is_empty() {
                    self.untold.get_or_insert_default().extend(changes);
                }
            }
            None => {
                self.first_modified = Some(modified);
                self.untold_all |= came_back;
            }
        }
        self.held = Some(document);
        self.good_at = Some(Instant::now());
        self.last_success = Some(SystemTime::now());
    }

    /// Takes in what we wrote ourselves: `changes` are known to who asked for them, so they are not told again.
    pub(super) fn take_own(
        &mut self,
        seen: Seen,
        document: Document,
        changes: &[NameChange],
        modified: SystemTime,
    ) {
        for change in changes {
            self.note(change, modified);
        }
        self.seen = seen;
        self.held = Some(document);
        self.good_at = Some(Instant::now());
        self.last_success = Some(SystemTime::now());
    }

    fn note(&mut self, change: &NameChange, modified: SystemTime) {
        match change.kind {
            ChangeKind::Set | ChangeKind::Rotated => {
                self.changed_at.insert(change.name.clone(), modified)
            }
            ChangeKind::Deleted => self.changed_at.remove(&change.name),
        };
    }

    /// The file could not be read.
    pub(super) fn fail(&mut self, seen: Seen, error: Error, max_stale: Duration) {
        self.seen = seen;
        self.last_error = Some((error.to_string(), SystemTime::now()));
        if self.failure.replace(error).is_none() {
            self.untold.get_or_insert_default();
        }
        self.tell_if_too_old(max_stale);
    }

    /// A document that may not be served any more may not be served out of a cache either.
    fn tell_if_too_old(&mut self, max_stale: Duration) {
        if !self.told_too_old && self.held.is_some() && !self.is_usable(max_stale) {
            self.told_too_old = true;
            self.untold_all = true;
        }
    }

    pub(super) fn take_refreshed(&mut self) -> Refreshed {
        if std::mem::take(&mut self.untold_all) {
            self.untold = None;
            return Refreshed::All;
        }
        match self.untold.take() {
            Some(changes) => Refreshed::Names(changes),
            None => Refreshed::Nothing,
        }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.held.is_none() && self.failure.is_none()
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether what is held may be served.
    pub(super) fn is_usable(&self, max_stale: Duration) -> bool {
        self.held.is_some()
            && (self.failure.is_none() || self.good_at.is_some_and(|at| at.elapsed() < max_stale))
    }

    /// Why the file cannot be read, unless what it held before may be served.
    pub(super) fn failure(&self, max_stale: Duration) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        (!self.is_usable(max_stale)).then(|| failure.duplicate())
    }

    /// The stored value and when it changed, by the failure rule.
    pub(super) fn find(
        &self,
        name: &SecretName,
        max_stale: Duration,
    ) -> Result<Option<(Stored, SystemTime)>> {
        if let Some(failure) = self.failure(max_stale) {
            return Err(failure);
        }
        let stored = self.held.as_ref().and_then(|held| held.get(name));
        let changed = self.changed_at.get(name).copied();
        let changed = changed.or(self.first_modified);
        Ok(stored.map(|stored| (stored.clone(), changed.unwrap_or(SystemTime::UNIX_EPOCH))))
    }

    pub(super) fn names(&self) -> Vec<SecretName> {
        let held = self.held.iter();
        held.flat_map(Document::names).cloned().collect()
    }

    pub(super) fn has(&self, name: &SecretName) -> bool {
        self.held.as_ref().is_some_and(|held| held.contains(name))
    }

    pub(super) fn skipped(&self) -> usize {
        self.held.as_ref().map_or(0, Document::skipped)
    }
}
