//! The file provider's state: the document that was read last, the key, and what a check must know. Touches no file.

use std::sync::Arc;
use std::time::Duration;

use super::readable::{Key, Readable};
use super::reader::{LoadedDocument, Observed, ReadOutcome};
use super::watch::Watch;
use crate::clock::Instant;
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::files::place::Place;
use crate::logging::PROVIDER_FAILURES;
use crate::provider::KeyChange;
use crate::provider::cached_source::CachedSource;
use crate::provider::source_view::{Rules, SourceDocument};

const HANGS: &str = "the filesystem of the secrets file does not respond";

pub(super) struct State {
    pub(super) source: CachedSource<Readable>,
    loaded: Option<LoadedDocument>,
    /// Decrypts the encrypted values.
    key: Key,
    observed: Observed,
    /// Whether a write of this provider is replacing the file just now.
    pub(super) is_writing: bool,
    /// Counts this provider's own writes.
    pub(super) writes: u64,
    /// Why the last check for a writer found that no write can succeed.
    pub(super) refusal: Option<Arc<Error>>,
}

impl State {
    /// `timeout`: how long a check of the file may take before it counts as hanging.
    pub(super) fn new(watch: Arc<Watch>, timeout: Duration, max_stale: Duration) -> Self {
        let hangs = move |now| {
            let since = watch
                .checking_since()
                .filter(|since| now >= *since + timeout)?;
            Some((since, HANGS))
        };
        Self {
            source: CachedSource::new(Rules {
                provider: "file".to_owned(),
                ttl: None,
                max_stale,
                hangs: Box::new(hangs),
            }),
            loaded: None,
            key: Key::default(),
            observed: Observed::default(),
            is_writing: false,
            writes: 0,
            refusal: None,
        }
    }

    /// Whether the file at this location is the one that was read last.
    pub(super) fn is_current(&self, located: &Place) -> bool {
        !matches!(self.observed, Observed::Young(..)) && self.seems_current(located)
    }

    /// Whether the file at this location seems to be the one that was read last: enough to know whether it can be written.
    pub(super) fn seems_current(&self, located: &Place) -> bool {
        self.observed.seems_to_be(located)
    }

    /// A check read the file, and began `started`. `key`: the key then, if readers need one.
    pub(super) fn apply_read(
        &mut self,
        read: ReadOutcome,
        key: Option<Result<Arc<CredentialCipher>>>,
        started: Instant,
    ) {
        self.observed = read.observed;
        self.source.current_mut().source = read.source;
        match read.loaded {
            Ok(loaded) => {
                self.apply_loaded(loaded, key);
                self.source.current_mut().latency = Some(started.elapsed());
            }
            Err(error) => {
                self.source.fail(error, None);
                self.apply_key(key);
            }
        }
    }

    /// The file has this document, which another program wrote. Readers get it together with the key of the same moment: while a
    /// rotation replaces both, no other key decrypts it.
    pub(super) fn apply_loaded(
        &mut self,
        loaded: LoadedDocument,
        key: Option<Result<Arc<CredentialCipher>>>,
    ) {
        if let Some(key) = key {
            self.change_key(key);
        }
        let readable = self.readable(&loaded).into();
        match loaded.content {
            Some(_) => self.source.apply(readable, Instant::now(), loaded.modified),
            None => {
                // A file that is not there is no error.
                self.source.current_mut().last_error = None;
                self.source.apply_absence(readable, Instant::now());
            }
        }
        self.loaded = Some(loaded);
    }

    /// A write of this provider succeeded. The caller knows `changes`, so they are no pending changes.
    pub(super) fn apply_own_write(
        &mut self,
        observed: Observed,
        written: LoadedDocument,
        changes: &[KeyChange],
    ) {
        self.observed = observed;
        let readable = self.readable(&written).into();
        self.source
            .apply_own_write(readable, written.modified, changes);
        self.loaded = Some(written);
    }

    fn readable(&self, loaded: &LoadedDocument) -> Readable {
        Readable {
            document: loaded.document.clone(),
            key: self.key.clone(),
        }
    }

    /// A reader needs to decrypt: the next check gets the key.
    pub(super) fn request_key(&mut self) {
        if matches!(self.key, Key::Unused) {
            self.key = Key::Requested;
        }
    }

    /// The next check gets the key if the file has encrypted values.
    pub(super) fn request_key_if_encrypted(&mut self) {
        let document = self.loaded.as_ref().map(|loaded| &loaded.document);
        if document.is_some_and(|document| document.encrypted().next().is_some()) {
            self.request_key();
        }
    }

    pub(super) fn needs_key(&self) -> bool {
        !matches!(self.key, Key::Unused)
    }

    /// Whether this is the key that readers have.
    pub(super) fn has_key(&self, cipher: &Arc<CredentialCipher>) -> bool {
        matches!(&self.key, Key::Usable(usable) if Arc::ptr_eq(usable, cipher))
    }

    /// Sets the cipher for encrypted values, or why there is none; returns whether it is another one than before.
    fn change_key(&mut self, cipher: Result<Arc<CredentialCipher>>) -> bool {
        match (&self.key, &cipher) {
            (_, Ok(cipher)) if self.has_key(cipher) => return false,
            (Key::Unusable(before), Err(error)) if before.to_string() == error.to_string() => {
                return false;
            }
            _ => {}
        }
        self.key = match cipher {
            Ok(cipher) => Key::Usable(cipher),
            Err(error) => {
                tracing::warn!(target: PROVIDER_FAILURES, "{error}");
                Key::Unusable(Arc::new(error))
            }
        };
        true
    }

    /// The document is the one before, and the key may be another one.
    pub(super) fn apply_key(&mut self, key: Option<Result<Arc<CredentialCipher>>>) {
        let Some(key) = key else { return };
        let is_first = !self.has_key_or_error();
        if !self.change_key(key) {
            return;
        }
        if let Some(loaded) = &self.loaded {
            let readable = self.readable(loaded);
            let before = self.source.current().document();
            let is_same = match (&readable.key, before) {
                (Key::Usable(_), Some(before)) if matches!(before.key, Key::Usable(_)) => {
                    before.changes_to(&readable).is_empty()
                }
                _ => false,
            };
            self.source
                .replace_same(readable.into(), !is_first && !is_same);
        }
    }

    fn has_key_or_error(&self) -> bool {
        matches!(self.key, Key::Usable(_) | Key::Unusable(_))
    }

    pub(super) fn loaded(&self) -> Option<&LoadedDocument> {
        self.loaded.as_ref()
    }

    /// Whether the file was read so soon after a change that its stamp may not show the next one.
    pub(super) fn is_unsettled(&self) -> bool {
        let is_unsettled = matches!(self.observed, Observed::Unsettled | Observed::Young(..));
        is_unsettled && !self.source.is_failing()
    }
}
