//! What readers see of the secrets file at one moment: the last good document, its age, and the failure. Touches no
//! file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::document::{Document, Stored};
use super::reader::LoadedDocument;
use super::watch::Watch;
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::{ListingState, Provided, ProviderReport, View, ViewLookup, rfc3339};
use crate::secret::SecretName;

const HANGS: &str = "the filesystem of the secrets file does not respond";

/// The credential key, as far as a reader needed it.
#[derive(Clone, Default)]
pub(super) enum Key {
    /// No reader needed it yet.
    #[default]
    Unused,
    /// A reader waits for it.
    Requested,
    Usable(Arc<CredentialCipher>),
    Unusable(Arc<Error>),
}

/// The state of the file provider that readers see.
#[derive(Clone)]
pub(super) struct FileView {
    pub(super) loaded: Option<LoadedDocument>,
    /// When the loaded document was last known to be what the file contains.
    pub(super) verified_at: Option<Instant>,
    /// When the first document was read: the time of a key that has not changed since.
    pub(super) first_modified: Option<SystemTime>,
    pub(super) changed_at: Arc<HashMap<SecretName, SystemTime>>,
    pub(super) failure: Option<Arc<Error>>,
    /// Decrypts the encrypted values.
    pub(super) key: Key,
    /// The file's path, for people.
    pub(super) source: String,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) latency: Option<Duration>,
    watch: Arc<Watch>,
    /// How long a check of the file may take before it counts as hanging.
    timeout: Duration,
    max_stale: Duration,
}

impl FileView {
    pub(super) fn new(watch: Arc<Watch>, timeout: Duration, max_stale: Duration) -> Self {
        Self {
            loaded: None,
            verified_at: None,
            first_modified: None,
            changed_at: Arc::default(),
            failure: None,
            key: Key::default(),
            source: String::new(),
            last_success: None,
            last_error: None,
            latency: None,
            watch,
            timeout,
            max_stale,
        }
    }

    fn document(&self) -> Option<&Document> {
        self.loaded.as_ref().map(|loaded| &*loaded.document)
    }

    /// Whether the file was neither read nor failed yet.
    fn is_unread(&self) -> bool {
        self.loaded.is_none() && self.failure.is_none()
    }

    /// Whether a check of the file hangs, so that the file may differ from the loaded document.
    fn is_hanging(&self) -> bool {
        self.watch.hanging_for(Instant::now()) >= self.timeout
    }

    /// Whether the last check could read the file, and no check hangs.
    fn is_healthy(&self) -> bool {
        self.failure.is_none() && !self.is_hanging()
    }

    /// Whether the loaded document may be served.
    pub(super) fn is_servable(&self) -> bool {
        let is_young = |at: Instant| at.elapsed() < self.max_stale;
        self.loaded.is_some() && (self.is_healthy() || self.verified_at.is_some_and(is_young))
    }

    /// How long the loaded document may still be served if nothing changes.
    fn servable_for(&self) -> Duration {
        match self.verified_at {
            _ if self.is_healthy() => Duration::MAX,
            Some(at) => self.max_stale.saturating_sub(at.elapsed()),
            None => Duration::ZERO,
        }
    }

    /// Why the file cannot be read, unless the loaded document may still be served.
    fn unservable(&self) -> Option<Error> {
        if self.is_servable() {
            return None;
        }
        match &self.failure {
            Some(failure) => Some(failure.duplicate()),
            None => self.is_hanging().then(|| Error::Unavailable {
                provider: "file".to_owned(),
                reason: HANGS.to_owned(),
            }),
        }
    }

    /// The stored value and when it changed.
    fn stored(&self, name: &SecretName) -> Result<Option<(Stored, SystemTime)>> {
        if let Some(failure) = self.unservable() {
            return Err(failure);
        }
        let stored = self.document().and_then(|document| document.get(name));
        let changed = self.changed_at.get(name).copied();
        let changed = changed.or(self.first_modified);
        Ok(stored.map(|stored| (stored.clone(), changed.unwrap_or(SystemTime::UNIX_EPOCH))))
    }
}

/// A failure that lasts until a check finds the file changed.
fn failed(error: Error) -> ViewLookup {
    ViewLookup::Failed {
        error,
        must_ask: false,
    }
}

impl View for FileView {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        if self.is_unread() && !self.is_hanging() {
            return ViewLookup::Unknown;
        }
        let valid_for = Some(self.servable_for());
        let (stored, changed_at) = match self.stored(name) {
            Ok(Some(found)) => found,
            Ok(None) => {
                return ViewLookup::Absent {
                    is_fresh: true,
                    skip_for: valid_for,
                };
            }
            Err(error) => return failed(error),
        };
        let value = match (stored, &self.key) {
            (Stored::Plain(value), _) => value,
            (Stored::Encrypted(_), Key::Unused | Key::Requested) => return ViewLookup::Unknown,
            (Stored::Encrypted(_), Key::Unusable(error)) => {
                return failed(error.duplicate());
            }
            (Stored::Encrypted(sealed), Key::Usable(cipher)) => {
                match sealed.open(name.as_str(), cipher) {
                    Ok(value) => value,
                    Err(error) => return failed(error),
                }
            }
        };
        ViewLookup::Value {
            provided: Provided {
                value,
                changed_at,
                as_of: now,
            },
            valid_for,
        }
    }

    fn names(&self) -> Vec<SecretName> {
        let document = self.document().into_iter();
        document.flat_map(Document::names).cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.document()
            .is_some_and(|document| document.contains(name))
    }

    fn listing_state(&self, _now: Instant) -> ListingState {
        match self.unservable() {
            Some(error) => ListingState::Failed(error),
            None if self.is_unread() => ListingState::Unknown,
            None => ListingState::Complete,
        }
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        ProviderReport {
            name: "file".to_owned(),
            configured: true,
            available: self.is_healthy(),
            source: self.source.clone(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            skipped_keys: self.document().map_or(0, Document::skipped),
            last_success: self.last_success.map(rfc3339),
            last_error: match &self.last_error {
                _ if self.is_hanging() => Some(HANGS.to_owned()),
                last_error => last_error.as_ref().map(|(text, _)| text.clone()),
            },
            last_error_at: self.last_error.as_ref().map(|(_, at)| rfc3339(*at)),
            latency_ms: self.latency.map(|took| took.as_micros() as f64 / 1000.0),
            stale: !self.is_healthy() && self.is_servable(),
            ..ProviderReport::default()
        }
    }
}
