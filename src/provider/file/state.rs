//! What the file provider holds of the file: the last good document, whether it is still good, and what changed since
//! it was last asked. Touches no file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::place::Look;
use super::view::FileView;
use super::watch::Watch;
use super::{Document, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange, ProviderReport, Refreshed, rfc3339};
use crate::secret::{SecretName, fingerprint};
use crate::settings::files::Stamp;

const HANGS: &str = "the filesystem of the secrets file does not answer";

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

/// A document as the file holds it.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) document: Arc<Document>,
    /// Tells the file's bytes from others; `None`: there is no file.
    pub(super) content: Option<ContentPrint>,
    pub(super) modified: SystemTime,
}

/// A file's bytes, told from others without being kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ContentPrint {
    path: PathBuf,
    len: usize,
    hash: u64,
}

impl ContentPrint {
    pub(super) fn of(path: &Path, bytes: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            len: bytes.len(),
            hash: fingerprint(bytes),
        }
    }
}

/// What is known of the key that values are encrypted with.
#[derive(Clone, Default)]
pub(super) enum Key {
    /// Nobody needs it.
    #[default]
    Unwanted,
    /// Somebody waits for it.
    Wanted,
    Usable(Arc<CredentialCipher>),
    Unusable(Arc<Error>),
}

#[derive(Clone, Default)]
pub(super) struct State {
    seen: Seen,
    held: Option<Loaded>,
    /// When the held document was last known to be what the file holds.
    good_at: Option<Instant>,
    /// When the first document was read; a key that has no time of its own has this one.
    first_modified: Option<SystemTime>,
    changed_at: Arc<HashMap<SecretName, SystemTime>>,
    failure: Option<Arc<Error>>,
    /// What encrypted values are opened with.
    key: Key,
    /// Who looks at the file, and how long a look may take.
    health: Option<(Arc<Watch>, Duration)>,
    /// A write of ours is being put in place.
    pub(super) is_writing: bool,
    /// Counts our own writes.
    pub(super) writes: u64,
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
    /// `patience`: how long a look may take before it hangs.
    pub(super) fn new(watch: Arc<Watch>, patience: Duration) -> Self {
        Self {
            health: Some((watch, patience)),
            ..Self::default()
        }
    }

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
    pub(super) fn take_in(&mut self, seen: Seen, loaded: Loaded) {
        self.view = None;
        self.seen = seen;
        let came_back = self.failure.take().is_some();
        self.told_too_old = false;
        match &self.held {
            Some(held) => {
                let changes = match Arc::ptr_eq(&held.document, &loaded.document) {
                    true => Vec::new(),
                    false => held.document.changes_to(&loaded.document),
                };
                self.note(&changes, loaded.modified);
                if came_back || !changes.is_empty() {
                    self.untold.get_or_insert_default().extend(changes);
                }
            }
            None => {
                self.first_modified = Some(loaded.modified);
                self.untold_all |= came_back;
            }
        }
        self.held = Some(loaded);
        self.good_at = Some(Instant::now());
        self.last_success = Some(SystemTime::now());
    }

    /// Takes in what we wrote ourselves: `changes` are known to who asked for them, so they are not told again.
    pub(super) fn take_own(&mut self, seen: Seen, loaded: Loaded, changes: &[NameChange]) {
        self.view = None;
        self.note(changes, loaded.modified);
        self.own.extend_from_slice(changes);
        self.seen = seen;
        self.held = Some(loaded);
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

    /// Somebody needs the key of encrypted values: the next look is to get it.
    pub(super) fn want_key(&mut self) {
        if matches!(self.key, Key::Unwanted) {
            self.key = Key::Wanted;
        }
    }

    pub(super) fn wants_key(&self) -> bool {
        !matches!(self.key, Key::Unwanted)
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Takes in what encrypted values are opened with from now on, or why they cannot be.
    pub(super) fn open_with(&mut self, cipher: Result<Arc<CredentialCipher>>) {
        let is_new = match (&self.key, &cipher) {
            (Key::Usable(held), Ok(cipher)) if Arc::ptr_eq(held, cipher) => return,
            (Key::Unusable(held), Err(error)) if held.to_string() == error.to_string() => return,
            (Key::Unwanted | Key::Wanted, _) => true,
            (Key::Usable(_) | Key::Unusable(_), _) => false,
        };
        self.untold_all |= !is_new;
        self.view = None;
        self.key = match cipher {
            Ok(cipher) => Key::Usable(cipher),
            Err(error) => {
                tracing::warn!("{error}");
                Key::Unusable(Arc::new(error))
            }
        };
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

    fn document(&self) -> Option<&Document> {
        self.held.as_ref().map(|held| &*held.document)
    }

    pub(super) fn loaded(&self) -> Option<&Loaded> {
        self.held.as_ref()
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

    /// Whether a look hangs: what is held cannot be known to be what the file holds.
    pub(super) fn is_hanging(&self) -> bool {
        let health = self.health.as_ref();
        health.is_some_and(|(watch, limit)| watch.hanging_for(Instant::now()) >= *limit)
    }

    /// Whether the file was read so shortly after a change that the next one may not show.
    pub(super) fn is_unsettled(&self) -> bool {
        self.seen == Seen::Unclear && self.failure.is_none()
    }

    /// For how long what is held may be served, as things stand.
    pub(super) fn usable_for(&self, max_stale: Duration) -> Duration {
        match self.good_at {
            _ if self.is_good() => Duration::MAX,
            Some(at) => max_stale.saturating_sub(at.elapsed()),
            None => Duration::ZERO,
        }
    }

    /// The state, for people.
    pub(super) fn report(&self, max_stale: Duration) -> ProviderReport {
        let time = |time: &Option<SystemTime>| time.map(rfc3339);
        ProviderReport {
            name: "file".to_owned(),
            configured: true,
            available: self.is_good(),
            source: self.source.clone(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            skipped_keys: self.skipped(),
            last_success: time(&self.last_success),
            last_error: match &self.last_error {
                _ if self.is_hanging() => Some(HANGS.to_owned()),
                last_error => last_error.as_ref().map(|(text, _)| text.clone()),
            },
            last_error_at: self.last_error.as_ref().map(|(_, at)| rfc3339(*at)),
            latency_ms: self.latency.map(|took| took.as_micros() as f64 / 1000.0),
            stale: !self.is_good() && self.is_usable(max_stale),
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
            && (self.is_good() || self.good_at.is_some_and(|at| at.elapsed() < max_stale))
    }

    /// Whether the file could be read when it was last looked at, and looks do not hang.
    pub(super) fn is_good(&self) -> bool {
        self.failure.is_none() && !self.is_hanging()
    }

    /// Why the file cannot be read, unless what it held before may be served.
    pub(super) fn failure(&self, max_stale: Duration) -> Option<Error> {
        if self.is_usable(max_stale) {
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

    /// The stored value and when it changed, by the failure rule.
    pub(super) fn find(
        &self,
        name: &SecretName,
        max_stale: Duration,
    ) -> Result<Option<(Stored, SystemTime)>> {
        if let Some(failure) = self.failure(max_stale) {
            return Err(failure);
        }
        let stored = self.document().and_then(|held| held.get(name));
        let changed = self.changed_at.get(name).copied();
        let changed = changed.or(self.first_modified);
        Ok(stored.map(|stored| (stored.clone(), changed.unwrap_or(SystemTime::UNIX_EPOCH))))
    }

    pub(super) fn names(&self) -> Vec<SecretName> {
        let held = self.document().into_iter();
        held.flat_map(|held| held.names()).cloned().collect()
    }

    pub(super) fn has(&self, name: &SecretName) -> bool {
        self.document().is_some_and(|held| held.contains(name))
    }

    pub(super) fn skipped(&self) -> usize {
        self.document().map_or(0, |held| held.skipped())
    }
}
