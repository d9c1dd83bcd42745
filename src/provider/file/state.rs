//! The file provider's state: what readers see, and which changes the chain has not taken yet. Touches no file.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::reader::{LoadedDocument, Observed};
use super::view::{FileView, Key};
use super::watch::Watch;
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::files::Stamp;
use crate::files::place::Place;
use crate::provider::{ChangeKind, Changes, KeyChange};

pub(super) struct State {
    current: FileView,
    /// A copy of `current` that readers share; `None` if `current` has changed since.
    published: Option<Arc<FileView>>,
    observed: Observed,
    /// Whether a write of this provider is replacing the file just now.
    pub(super) is_writing: bool,
    /// Counts this provider's own writes.
    pub(super) writes: u64,
    /// Whether the chain was told that the document is older than `max_stale`.
    expiry_reported: bool,
    /// Changes for [`take_changes`](Self::take_changes); an empty list: the provider failed or recovered.
    pending_changes: Option<Vec<KeyChange>>,
    all_changed: bool,
    /// This provider's own changes for [`take_own_writes`](Self::take_own_writes).
    own_writes: Vec<KeyChange>,
}

impl State {
    /// `timeout`: how long a check of the file may take before it counts as hanging.
    pub(super) fn new(watch: Arc<Watch>, timeout: Duration, max_stale: Duration) -> Self {
        Self {
            current: FileView::new(watch, timeout, max_stale),
            published: None,
            observed: Observed::default(),
            is_writing: false,
            writes: 0,
            expiry_reported: false,
            pending_changes: None,
            all_changed: false,
            own_writes: Vec::new(),
        }
    }

    /// What readers see now.
    pub(super) fn current(&self) -> &FileView {
        &self.current
    }

    /// The same, shared. It is the same `Arc` until something changes.
    pub(super) fn view(&mut self) -> Arc<FileView> {
        let current = &self.current;
        let published = &mut self.published;
        published
            .get_or_insert_with(|| Arc::new(current.clone()))
            .clone()
    }

    fn change(&mut self) -> &mut FileView {
        self.published = None;
        &mut self.current
    }

    /// Whether the file at this location is the one that was read last.
    pub(super) fn is_current(&self, located: &Place) -> bool {
        match (&self.observed, located.stat()) {
            (Observed::Missing(path), None) => path == located.path(),
            (Observed::File(path, stamp), Some(stat)) => {
                *stamp == Stamp::of(stat) && path == located.path()
            }
            _ => false,
        }
    }

    /// A check found the file unchanged.
    pub(super) fn confirm_unchanged(&mut self) {
        if self.current.failure.is_none() {
            // Keeps the published view: a new one every second would be a new snapshot every second.
            self.current.verified_at = Some(Instant::now());
        } else {
            self.report_expiry();
        }
    }

    /// A check read this document.
    pub(super) fn apply_read(&mut self, observed: Observed, loaded: LoadedDocument) {
        self.observed = observed;
        let has_recovered = self.change().failure.take().is_some();
        self.expiry_reported = false;
        match &self.current.loaded {
            Some(before) => {
                let changes = match Arc::ptr_eq(&before.document, &loaded.document) {
                    true => Vec::new(),
                    false => before.document.changes_to(&loaded.document),
                };
                self.record_change_times(&changes, loaded.modified);
                if has_recovered || !changes.is_empty() {
                    self.pending_changes.get_or_insert_default().extend(changes);
                }
            }
            None => {
                self.current.first_modified = Some(loaded.modified);
                self.all_changed |= has_recovered;
            }
        }
        self.replace_document(loaded);
    }

    /// A write of this provider succeeded. The caller knows `changes`, so they are no pending changes.
    pub(super) fn apply_own_write(
        &mut self,
        observed: Observed,
        loaded: LoadedDocument,
        changes: &[KeyChange],
    ) {
        self.record_change_times(changes, loaded.modified);
        self.own_writes.extend_from_slice(changes);
        self.observed = observed;
        self.replace_document(loaded);
    }

    fn replace_document(&mut self, loaded: LoadedDocument) {
        let current = self.change();
        current.loaded = Some(loaded);
        current.verified_at = Some(Instant::now());
        current.last_success = Some(SystemTime::now());
    }

    fn record_change_times(&mut self, changes: &[KeyChange], modified: SystemTime) {
        if changes.is_empty() {
            return;
        }
        let times = Arc::make_mut(&mut self.current.changed_at);
        for change in changes {
            match change.kind {
                ChangeKind::Set | ChangeKind::Rotated => {
                    times.insert(change.name.clone(), modified)
                }
                ChangeKind::Deleted => times.remove(&change.name),
            };
        }
    }

    /// A check could not read the file.
    pub(super) fn apply_failure(&mut self, observed: Observed, error: Error) {
        self.observed = observed;
        let current = self.change();
        current.last_error = Some((error.to_string(), SystemTime::now()));
        if current.failure.replace(Arc::new(error)).is_none() {
            self.pending_changes.get_or_insert_default();
        }
        self.report_expiry();
    }

    /// Values of a document that may no longer be served must also leave the caches.
    fn report_expiry(&mut self) {
        if !self.expiry_reported && self.current.loaded.is_some() && !self.current.is_servable() {
            self.expiry_reported = true;
            self.all_changed = true;
            self.published = None;
        }
    }

    pub(super) fn set_source(&mut self, source: String) {
        self.current.source = source;
    }

    pub(super) fn set_latency(&mut self, latency: Duration) {
        self.current.latency = Some(latency);
    }

    /// A reader needs to decrypt: the next check gets the key.
    pub(super) fn request_key(&mut self) {
        if matches!(self.current.key, Key::Unused) {
            self.current.key = Key::Requested;
        }
    }

    pub(super) fn needs_key(&self) -> bool {
        !matches!(self.current.key, Key::Unused)
    }

    /// Sets the cipher for encrypted values, or why there is none.
    pub(super) fn set_key(&mut self, cipher: Result<Arc<CredentialCipher>>) {
        let is_first = match (&self.current.key, &cipher) {
            (Key::Usable(before), Ok(cipher)) if Arc::ptr_eq(before, cipher) => return,
            (Key::Unusable(before), Err(error)) if before.to_string() == error.to_string() => {
                return;
            }
            (Key::Unused | Key::Requested, _) => true,
            (Key::Usable(_) | Key::Unusable(_), _) => false,
        };
        self.all_changed |= !is_first;
        self.change().key = match cipher {
            Ok(cipher) => Key::Usable(cipher),
            Err(error) => {
                tracing::warn!("{error}");
                Key::Unusable(Arc::new(error))
            }
        };
    }

    /// What other programs changed since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        if std::mem::take(&mut self.all_changed) {
            self.pending_changes = None;
            return Changes::All;
        }
        match self.pending_changes.take() {
            Some(changes) => Changes::Keys(changes),
            None => Changes::None,
        }
    }

    /// What this provider wrote since the last call.
    pub(super) fn take_own_writes(&mut self) -> Vec<KeyChange> {
        std::mem::take(&mut self.own_writes)
    }

    pub(super) fn loaded(&self) -> Option<&LoadedDocument> {
        self.current.loaded.as_ref()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.current.failure.is_some()
    }

    /// Whether the file was read so soon after a change that its stamp may not show the next one.
    pub(super) fn is_unsettled(&self) -> bool {
        self.observed == Observed::Unsettled && self.current.failure.is_none()
    }
}
