//! What the file provider holds of the file: the last good document, whether it is still good, and what changed since
//! it was last asked. Touches no file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::place::Look;
use super::view::FileView;
use super::{Document, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange, ProviderReport, Refreshed, rfc3339};
use crate::secret::SecretName;
use crate::settings::files::Stamp;

/// What was looked at when the file was last read.
#[derive(Clone, Default, PartialEq, Eq)]
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

#[derive(Clone, Default)]
pub(super) struct State {
    seen: Seen,
    held: Option<Arc<Document>>,
    /// When the held document was last known to be what the file holds.
    good_at: Option<Instant>,
    /// When the first document was read; a key that has no time of its own has this one.
    first_modified: Option<SystemTime>,
    changed_at: Arc<HashMap<SecretName, SystemTime>>,
    failure: Option<Arc<Error>>,
    /// What encrypted values were last opened with.
    cipher: Option<Arc<CredentialCipher>>,
    /// Where the file lies, for people.
    pub(super) source: String,
    /// Whether it was told that the held document has grown too old to be served.
    told_too_old: bool,
    /// Changes that `refresh` has not told yet; `Some` of nothing: the provider failed, or came back.
    untold: Option<Vec<NameChange>>,
    untold_all: bool,
    /// What we wrote ourselves since that was last told.
    own: Vec<NameChange>,
    /// What readers see of this; `None`: it changed since.
    view: Option<Arc<FileView>>,
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
    pub(super) fn take_in(&mut self, seen: Seen, mut document: Document, modified: SystemTime) {
        self.view = None;
        self.seen = seen;
        let came_back = self.failure.take().is_some();
        self.told_too_old = false;
        match &self.held {
            Some(held) => {
                let changes = held.changes_to(&document);
                document.take_opened(held);
                self.note(&changes, modified);
                if came_back || !changes.is_empty() {
                    self.untold.get_or_insert_default().extend(changes);
                }
            }
            None => {
                self.first_modified = Some(modified);
                self.untold_all |= came_back;
            }
        }
        self.held = Some(Arc::new(document));
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
        self.view = None;
        self.note(changes, modified);
        self.own.extend_from_slice(changes);
        self.seen = seen;
        self.held = Some(Arc::new(document));
        self.good_at = Some(Instant::now());
        self.last_success = Some(SystemTime::now());
    }

    fn note(&mut self, changes: &[NameChange], modified: SystemTime) {
        if changes.is_empty() {
            return;
        }
        let times = Arc::make_mut(&mut self.changed_at);
        for change in changes {
            match change.kind {
                ChangeKind::Set | ChangeKind::Rotated => {
                    times.insert(change.name.clone(), modified)
                }
                ChangeKind::Deleted => times.remove(&change.name),
            };
        }
    }

    /// Notes what encrypted values are opened with; nothing where that is not known.
    pub(super) fn open_with(&mut self, cipher: Option<&Arc<CredentialCipher>>) {
        let is_same = match (&self.cipher, cipher) {
            (Some(held), Some(cipher)) => Arc::ptr_eq(held, cipher),
            (held, cipher) => held.is_none() && cipher.is_none(),
        };
        if !is_same {
            self.untold_all |= self.cipher.is_some();
            self.cipher = cipher.cloned();
            self.view = None;
        }
    }

    /// The file could not be read.
    pub(super) fn fail(&mut self, seen: Seen, error: Error, max_stale: Duration) {
        self.view = None;
        self.seen = seen;
        self.last_error = Some((error.to_string(), SystemTime::now()));
        if self.failure.replace(Arc::new(error)).is_none() {
            self.untold.get_or_insert_default();
        }
        self.tell_if_too_old(max_stale);
    }

    /// A document that may not be served any more may not be served out of a cache either.
    fn tell_if_too_old(&mut self, max_stale: Duration) {
        if !self.told_too_old && self.held.is_some() && !self.is_usable(max_stale) {
            self.told_too_old = true;
            self.view = None;
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

    /// What we wrote ourselves since this was last called.
    pub(super) fn take_own_changes(&mut self) -> Vec<NameChange> {
        std::mem::take(&mut self.own)
    }

    /// What readers see.
    pub(super) fn view(&mut self, max_stale: Duration) -> Arc<FileView> {
        if let Some(view) = &self.view {
            return view.clone();
        }
        let state = Self {
            untold: None,
            own: Vec::new(),
            ..self.clone()
        };
        let view = FileView::new(state, max_stale);
        self.view.insert(view).clone()
    }

    pub(super) fn cipher(&self) -> Option<&Arc<CredentialCipher>> {
        self.cipher.as_ref()
    }

    /// For how long what is held may be served, as things stand.
    pub(super) fn usable_for(&self, max_stale: Duration) -> Duration {
        match (&self.failure, self.good_at) {
            (None, _) => Duration::MAX,
            (Some(_), Some(at)) => max_stale.saturating_sub(at.elapsed()),
            (Some(_), None) => Duration::ZERO,
        }
    }

    /// The state, for people.
    pub(super) fn report(&self, max_stale: Duration) -> ProviderReport {
        let time = |time: &Option<SystemTime>| time.map(rfc3339);
        ProviderReport {
            name: "file".to_owned(),
            configured: true,
            available: !self.is_failed(),
            source: self.source.clone(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            skipped_keys: self.skipped(),
            last_success: time(&self.last_success),
            last_error: self.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_at: self.last_error.as_ref().map(|(_, at)| rfc3339(*at)),
            latency_ms: self.latency.map(|took| took.as_micros() as f64 / 1000.0),
            stale: self.is_failed() && self.is_usable(max_stale),
            ..ProviderReport::default()
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
        held.flat_map(|held| held.names()).cloned().collect()
    }

    pub(super) fn has(&self, name: &SecretName) -> bool {
        self.held.as_ref().is_some_and(|held| held.contains(name))
    }

    pub(super) fn skipped(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.skipped())
    }
}
