//! What readers see of a source of documents: its last document, how long it is fresh, and what is served while the source
//! fails. The rules are the same for the file and for the backends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{
    ChangeKind, KeyChange, ListingState, Provided, ProviderReport, UndecryptableKeys, View,
    ViewLookup, rfc3339,
};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;

/// A document this young is fresh for a listing, whatever the time to live of its keys.
const MIN_LISTING_TTL: Duration = Duration::from_secs(1);

/// The secrets of a source at one moment.
pub(super) trait SourceDocument: Clone + Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// What a reader gets instead: [`ViewLookup::Failed`] or [`ViewLookup::Unknown`].
    fn value(&self, name: &SecretName) -> Result<Option<SecretValue>, ViewLookup>;

    /// The value of a key that is not a valid [`SecretName`].
    fn value_by_key(&self, _key: &str) -> Option<&SecretValue> {
        None
    }

    fn has(&self, name: &SecretName) -> bool;

    /// The names to list, sorted.
    fn names(&self) -> impl Iterator<Item = &SecretName>;

    /// How many entries are not secrets.
    fn skipped(&self) -> usize;

    /// The keys whose values cannot be decrypted; `None`: nobody has tried yet.
    fn undecryptable(&self) -> Option<Vec<UndecryptableKeys>> {
        Some(Vec::new())
    }

    fn changes_to(&self, newer: &Self) -> Vec<KeyChange>;
}

/// Why a document with more keys than `max_keys` is not used.
pub(super) fn too_many_keys(max_keys: usize) -> String {
    format!("it has more than {max_keys} keys, the most that the setting max_keys allows")
}

/// The rules for a source's document.
pub(super) struct Rules {
    pub(super) provider: String,
    /// How long answers are fresh; `None`: until the source itself reports a change.
    pub(super) ttl: Option<Ttl>,
    /// How long the last document is served while the source fails.
    pub(super) max_stale: Duration,
    /// Since when the source has not responded, and how to say that.
    pub(super) hangs: Box<dyn Fn(Instant) -> Option<(Instant, &'static str)> + Send + Sync>,
}

impl Rules {
    pub(super) fn ttl_of(&self, name: &SecretName) -> Duration {
        let ttl = self.ttl.as_ref();
        ttl.map_or(Duration::MAX, |ttl| ttl.of(name))
    }

    pub(super) fn unavailable(&self, reason: &str) -> Error {
        Error::Unavailable {
            provider: self.provider.clone(),
            reason: reason.to_owned(),
        }
    }

    fn missing_ttl(&self) -> Duration {
        self.ttl.as_ref().map_or(Duration::MAX, |ttl| ttl.missing)
    }
}

/// Why the last attempt to get the document failed.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: Arc<Error>,
    /// When a reader may ask again; `None`: the source reports by itself that it has recovered.
    pub(super) retry_at: Option<Instant>,
    /// How many attempts in a row failed.
    pub(super) times: u32,
}

/// Whether a source fails, and what that means for readers.
struct Status {
    failure: Option<Failure>,
    /// How long the source is not asked, so that readers get the cached document; `None`: it may be asked.
    backoff: Option<Duration>,
    /// How long the cached document may be served; zero: not at all.
    servable_for: Duration,
}

/// A document, with its times.
#[derive(Clone)]
pub(super) struct CachedDocument<D> {
    pub(super) document: Arc<D>,
    /// The source had no document. That is an answer as long as the source does not fail, and stands in for none then.
    pub(super) is_absent: bool,
    /// When the source was known to have this document: it may lack later changes there.
    pub(super) as_of: Instant,
    /// When the first document changed, as the source says: the time of a key that has not changed since.
    pub(super) changed_at: SystemTime,
    /// When single keys changed since the first document.
    pub(super) keys_changed_at: Arc<HashMap<SecretName, SystemTime>>,
}

impl<D> CachedDocument<D> {
    pub(super) fn record_change_times(&mut self, changes: &[KeyChange], changed_at: SystemTime) {
        if changes.is_empty() {
            return;
        }
        let times = Arc::make_mut(&mut self.keys_changed_at);
        for change in changes {
            match change.kind {
                ChangeKind::Deleted => times.remove(&change.name),
                ChangeKind::Set | ChangeKind::Rotated => {
                    times.insert(change.name.clone(), changed_at)
                }
            };
        }
    }
}

/// What readers see of a source.
#[derive(Clone)]
pub(super) struct SourceView<D> {
    pub(super) rules: Arc<Rules>,
    /// The source, for people.
    pub(super) source: String,
    /// Whether it has what it needs to be asked at all.
    pub(super) is_configured: bool,
    pub(super) cached: Option<CachedDocument<D>>,
    /// Documents from before this are invalidated: they are served only while the source fails.
    pub(super) invalidated_at: Option<Instant>,
    pub(super) failure: Option<Failure>,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) latency: Option<Duration>,
}

impl<D: SourceDocument> SourceView<D> {
    pub(super) fn document(&self) -> Option<&D> {
        self.cached.as_ref().map(|cached| &*cached.document)
    }

    /// The age of the document, unless it was invalidated.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        let as_of = self.cached.as_ref()?.as_of;
        let is_invalidated = self.invalidated_at.is_some_and(|at| as_of < at);
        (!is_invalidated).then(|| now.saturating_duration_since(as_of))
    }

    /// Since when there is a document that can be served while the source fails.
    fn bridges_since(&self) -> Option<Instant> {
        let document = self.cached.as_ref().filter(|cached| !cached.is_absent);
        document.map(|cached| cached.as_of)
    }

    fn status(&self, now: Instant) -> Status {
        let as_of = self.bridges_since();
        let (failure, as_of) = match (&self.failure, (self.rules.hangs)(now)) {
            (Some(failure), _) => (failure.clone(), as_of),
            (None, Some((since, reason))) => {
                let failure = Failure {
                    error: Arc::new(self.rules.unavailable(reason)),
                    retry_at: None,
                    times: 0,
                };
                (failure, as_of.map(|_| since))
            }
            (None, None) => {
                return Status {
                    failure: None,
                    backoff: None,
                    servable_for: Duration::MAX,
                };
            }
        };
        let backoff = failure.retry_at.map_or(Duration::MAX, |retry_at| {
            retry_at.saturating_duration_since(now)
        });
        Status {
            failure: Some(failure),
            backoff: (!backoff.is_zero()).then_some(backoff),
            servable_for: self.servable_for(as_of, now),
        }
    }

    fn servable_for(&self, as_of: Option<Instant>, now: Instant) -> Duration {
        let left = |as_of| {
            let age = now.saturating_duration_since(as_of);
            self.rules.max_stale.saturating_sub(age)
        };
        as_of.map(left).unwrap_or_default()
    }

    /// Whether the document may be served while the source fails.
    pub(super) fn is_servable(&self, now: Instant) -> bool {
        !self.servable_for(self.bridges_since(), now).is_zero()
    }
}

impl<D: SourceDocument> View for SourceView<D> {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        let Status {
            failure,
            backoff,
            servable_for,
        } = self.status(now);
        if let Some(failure) = failure
            && servable_for.is_zero()
        {
            return ViewLookup::Failed {
                error: failure.error.duplicate(),
                must_ask: backoff.is_none(),
            };
        }
        let Some(cached) = &self.cached else {
            return ViewLookup::Unknown;
        };
        let value = match cached.document.value(name) {
            Ok(value) => value,
            Err(instead) => return instead,
        };
        let fresh_for = |ttl: Duration| {
            let left = self.age(now).map(|age| ttl.saturating_sub(age));
            let left = left.filter(|left| !left.is_zero()).or(backoff);
            left.map(|left| left.min(servable_for))
        };
        let (ttl, missing) = (self.rules.ttl_of(name), self.rules.missing_ttl());
        match value {
            Some(value) => ViewLookup::Value {
                provided: Provided {
                    value,
                    changed_at: *cached
                        .keys_changed_at
                        .get(name)
                        .unwrap_or(&cached.changed_at),
                    as_of: match self.rules.ttl {
                        Some(_) => cached.as_of,
                        None => now,
                    },
                },
                valid_for: fresh_for(ttl),
            },
            None => ViewLookup::Absent {
                is_fresh: fresh_for(missing).is_some(),
                skip_for: fresh_for(ttl.max(missing)),
            },
        }
    }

    fn find_by_key(&self, key: &str, now: Instant) -> Result<Option<SecretValue>> {
        match self.listing_state(now) {
            ListingState::Failed(error) => Err(error),
            _ => Ok(self
                .document()
                .and_then(|document| document.value_by_key(key).cloned())),
        }
    }

    fn names(&self) -> Vec<SecretName> {
        let document = self.document().into_iter();
        document.flat_map(D::names).cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.document().is_some_and(|document| document.has(name))
    }

    fn listing_state(&self, now: Instant) -> ListingState {
        let ttl = self.rules.ttl.as_ref();
        let ttl = ttl.map_or(Duration::MAX, |ttl| ttl.default.max(MIN_LISTING_TTL));
        let is_young = self.age(now).is_some_and(|age| age < ttl);
        let status = self.status(now);
        let is_servable = !status.servable_for.is_zero();
        match status.failure {
            Some(failure) if !is_servable && status.backoff.is_some() => {
                ListingState::Failed(failure.error.duplicate())
            }
            // Its keys may not be served until it answers again.
            Some(_) if !is_servable => ListingState::Unknown,
            _ if self.cached.is_none() => ListingState::Unknown,
            _ if is_servable && (is_young || status.backoff.is_some()) => ListingState::Complete,
            _ => ListingState::Outdated,
        }
    }

    fn report(&self, now: Instant) -> ProviderReport {
        let status = self.status(now);
        // A source that hangs has reported no error.
        let hangs = (self.rules.hangs)(now).filter(|_| self.failure.is_none());
        let hangs = hangs.map(|(since, reason)| {
            let at = SystemTime::now().checked_sub(now.saturating_duration_since(since));
            (reason.to_owned(), at.unwrap_or(SystemTime::UNIX_EPOCH))
        });
        let last_error = hangs.as_ref().or(self.last_error.as_ref());
        let has_answered = self.last_success.is_some();
        ProviderReport {
            name: self.rules.provider.clone(),
            configured: self.is_configured,
            available: match status.failure {
                None if self.is_configured => has_answered.then_some(true),
                _ => Some(false),
            },
            source: self.source.clone(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            skipped_keys: self.document().map_or(0, D::skipped),
            undecryptable: match self.document() {
                Some(document) => document.undecryptable(),
                None => Some(Vec::new()),
            },
            last_success: self.last_success.map(rfc3339),
            last_error: last_error.map(|(text, _)| text.clone()),
            last_error_at: last_error.map(|(_, at)| rfc3339(*at)),
            latency_ms: self.latency.map(|took| took.as_micros() as f64 / 1000.0),
            stale: status.failure.is_some() && !status.servable_for.is_zero(),
            ..ProviderReport::default()
        }
    }
}
