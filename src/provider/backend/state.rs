//! What is known of a backend: its document, the current attempt and the last failure; and what readers get from that.
//! Makes no call and never waits.

use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use super::cached_document::CachedDocument;
use super::saved::{Saved, WallTime, to_bytes};
use super::{BackendDocument, FetchError, Fetched, Retry};
use crate::error::Error;
use crate::provider::{KeyChange, ListingState, ProviderReport, ViewLookup, rfc3339};
use crate::secret::SecretName;
use crate::settings::Ttl;

/// The shortest pause between a failed attempt and the next.
pub(super) const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause that a backend may ask for (`Retry-After`).
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How long a reader waits for a backend whose last attempt failed: one that has recovered answers within this.
pub(super) const FAILING_BACKEND_TIMEOUT: Duration = Duration::from_millis(500);
/// A document this young is fresh for a listing, whatever the time to live of its keys.
const MIN_LISTING_TTL: Duration = Duration::from_secs(1);

/// The settings for a provider's document.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) provider: &'static str,
    pub(super) ttl: Ttl,
    pub(super) max_stale: Duration,
}

impl Rules {
    pub(super) fn ttl_of(&self, name: &SecretName) -> Duration {
        *self.ttl.keys.get(name).unwrap_or(&self.ttl.default)
    }
}

#[derive(Clone)]
struct Failure {
    reason: String,
    retry_at: Instant,
    /// How many attempts in a row failed.
    times: u32,
}

#[derive(Clone, Default)]
pub(super) struct State {
    cached: Option<CachedDocument>,
    /// Documents from calls that began before this are invalidated.
    invalidated_at: Option<Instant>,
    failure: Option<Failure>,
    /// When the current attempt began.
    attempt: Option<Instant>,
    /// Changes for [`take_changes`](Self::take_changes); an empty list: the backend failed or recovered.
    pending_changes: Option<Vec<KeyChange>>,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) latency: Option<Duration>,
}

impl State {
    /// Whether a reader of a key waits for an attempt.
    pub(super) fn must_ask(&self, name: &SecretName, rules: &Rules, now: Instant) -> bool {
        let is_absent = |cached: &CachedDocument| cached.document.get(name).is_none();
        let ttl = match self.cached.as_ref().is_some_and(is_absent) {
            true => rules.ttl.missing,
            false => rules.ttl_of(name),
        };
        !self.is_younger_than(ttl, now) && self.must_wait(now)
    }

    /// The answer for a key, and for how long: from the document if that may be served, else the failure.
    pub(super) fn find(&self, name: &SecretName, rules: &Rules, now: Instant) -> ViewLookup {
        let backoff = self.backoff_left(now);
        let cached = match (&self.cached, &self.failure) {
            (_, Some(failure)) if !self.is_servable(rules, now) => {
                return ViewLookup::Failed {
                    error: rules.failed(failure),
                    must_ask: backoff.is_none(),
                };
            }
            (Some(cached), _) => cached,
            (None, _) => return ViewLookup::Unknown,
        };
        let fresh_for = |ttl: Duration| {
            let left = self.age(now).map(|age| ttl.saturating_sub(age));
            left.filter(|left| !left.is_zero()).or(backoff)
        };
        let (ttl, missing) = (rules.ttl_of(name), rules.ttl.missing);
        match cached.get(name) {
            Some(provided) => ViewLookup::Value {
                provided,
                valid_for: fresh_for(ttl),
            },
            None => ViewLookup::Absent {
                is_fresh: fresh_for(missing).is_some(),
                skip_for: fresh_for(ttl.max(missing)),
            },
        }
    }

    /// Whether the names are complete.
    pub(super) fn listing_state(&self, rules: &Rules, now: Instant) -> ListingState {
        let longest = rules.ttl.default.max(MIN_LISTING_TTL);
        if self.is_younger_than(longest, now) {
            return ListingState::Complete;
        }
        match &self.failure {
            _ if self.must_wait(now) => match &self.cached {
                Some(_) => ListingState::Outdated,
                None => ListingState::Unknown,
            },
            Some(failure) if !self.is_servable(rules, now) => {
                ListingState::Failed(rules.failed(failure))
            }
            _ => ListingState::Complete,
        }
    }

    fn is_younger_than(&self, limit: Duration, now: Instant) -> bool {
        self.age(now).is_some_and(|age| age < limit)
    }

    /// Whether a reader waits for the backend: always while it is healthy. After a failure, only once a retry is due,
    /// and not for long.
    fn must_wait(&self, now: Instant) -> bool {
        match &self.failure {
            None => true,
            Some(_) if self.attempt.is_some() => !self.is_slow(now),
            Some(failure) => now >= failure.retry_at,
        }
    }

    /// Whether the current attempt takes longer than a healthy backend would.
    fn is_slow(&self, now: Instant) -> bool {
        self.attempt
            .is_some_and(|began| now.saturating_duration_since(began) >= FAILING_BACKEND_TIMEOUT)
    }

    /// Whether the document may be served while the backend fails.
    pub(super) fn is_servable(&self, rules: &Rules, now: Instant) -> bool {
        let cached = self.cached.as_ref();
        cached.is_some_and(|cached| cached.age(now) < rules.max_stale)
    }

    /// How long a backend that failed is not called, so that readers get the cached document; `None`: it may be called.
    fn backoff_left(&self, now: Instant) -> Option<Duration> {
        let failure = self.failure.as_ref()?;
        let left = failure.retry_at.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The age of the document, unless it was invalidated.
    fn age(&self, now: Instant) -> Option<Duration> {
        let cached = self.cached.as_ref()?;
        let is_invalidated = self
            .invalidated_at
            .is_some_and(|invalidated_at| cached.as_of < invalidated_at);
        (!is_invalidated).then(|| cached.age(now))
    }

    /// The record for the next process; `own` is the backend's own state.
    pub(super) fn save(
        &self,
        source: &str,
        own: Option<&[u8]>,
        now: Instant,
    ) -> Zeroizing<Vec<u8>> {
        let is_invalidated = self.age(now).is_none();
        let document = self.cached.as_ref();
        let document = document.map(|cached| cached.save(is_invalidated, now));
        let last_error = self.last_error.as_ref();
        to_bytes(&Saved {
            document,
            last_success: self.last_success.map(Into::into),
            last_error: last_error.map(|(why, at)| (why.as_str(), (*at).into())),
            failure: self.failure.as_ref().map(|failure| failure.reason.as_str()),
            own,
            ..Saved::new(source)
        })
    }

    /// Restores a record, unless this state is already in use.
    pub(super) fn restore(&mut self, saved: &Saved<'_>, now: Instant) {
        if self.cached.is_some() || self.failure.is_some() || self.attempt.is_some() {
            return;
        }
        if let Some(document) = &saved.document {
            let (cached, has_known_age) = CachedDocument::restore(document, now);
            self.cached = Some(cached);
            if document.is_invalidated || !has_known_age {
                self.invalidated_at = now.checked_add(Duration::from_nanos(1));
            }
        }
        self.last_success = saved.last_success.map(WallTime::time);
        self.last_error = saved
            .last_error
            .map(|(why, at)| (why.to_owned(), at.time()));
        // A retry is due at once, and readers wait for it no longer than for any backend that failed.
        self.failure = saved.failure.map(|reason| Failure {
            reason: reason.to_owned(),
            retry_at: now,
            times: 1,
        });
    }

    /// The state without its attempt and its pending changes.
    pub(super) fn settled(&self) -> Self {
        Self {
            attempt: None,
            pending_changes: None,
            ..self.clone()
        }
    }

    /// The state, for people.
    pub(super) fn report(&self, rules: &Rules, source: &str, now: Instant) -> ProviderReport {
        let names = self
            .document()
            .into_iter()
            .flat_map(|cached| cached.names());
        ProviderReport {
            name: rules.provider.to_owned(),
            configured: true,
            available: !self.is_failing(),
            source: source.to_owned(),
            keys: names.map(ToString::to_string).collect(),
            skipped_keys: self.skipped(),
            last_success: self.last_success.map(rfc3339),
            last_error: self.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_at: self.last_error.as_ref().map(|(_, at)| rfc3339(*at)),
            latency_ms: self.latency.map(|took| took.as_micros() as f64 / 1000.0),
            stale: self.is_failing() && self.is_servable(rules, now),
            ..ProviderReport::default()
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.attempt = Some(now);
    }

    pub(super) fn has_attempt(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether the attempt that began then still runs.
    pub(super) fn is_attempt_of(&self, began: Instant) -> bool {
        self.attempt == Some(began)
    }

    /// Whether the current attempt can answer a reader that asks now: it cannot if it began before an invalidation.
    pub(super) fn attempt_is_current(&self) -> bool {
        match (self.attempt, self.invalidated_at) {
            (Some(began), Some(invalidated_at)) => began >= invalidated_at,
            (began, _) => began.is_some(),
        }
    }

    /// Invalidates the document: it is served only if the backend fails.
    pub(super) fn expire(&mut self, now: Instant) {
        self.invalidated_at = Some(now);
    }

    /// When to fetch the document again if its recently read keys live for `ttl`: before they expire, and ever more
    /// rarely while that fails.
    pub(super) fn refresh_at(&self, ttl: Duration) -> Option<Instant> {
        let cached = self.cached.as_ref().filter(|_| self.attempt.is_none())?;
        let early = cached.as_of.checked_add(ttl.mul_f64(0.8))?;
        match &self.failure {
            None => Some(early),
            Some(failure) => {
                let pause = MIN_BACKOFF * 2u32.saturating_pow(failure.times.min(5)) / 2;
                Some(early.max(failure.retry_at + pause))
            }
        }
    }

    /// Records the outcome of the attempt.
    pub(super) fn finish(
        &mut self,
        result: Result<Fetched, FetchError>,
        rules: &Rules,
        now: Instant,
    ) {
        let as_of = self.attempt.take().unwrap_or(now);
        let provider = rules.provider;
        match result {
            Ok(fetched) => {
                self.latency = Some(now.saturating_duration_since(as_of));
                self.last_success = Some(SystemTime::now());
                if self.failure.take().is_some() {
                    tracing::info!("the {provider} provider answers again");
                    self.pending_changes.get_or_insert_default();
                }
                match fetched {
                    Fetched::Document {
                        document,
                        changed_at,
                    } => {
                        self.last_error = None;
                        self.apply_document(document, changed_at, as_of, rules);
                    }
                    Fetched::Missing(why) => {
                        if self.record_error(&why) {
                            tracing::warn!("the {provider} provider has no secrets: {why}");
                        }
                        self.apply_document(BackendDocument::default(), None, as_of, rules);
                    }
                }
            }
            Err(FetchError { reason, retry }) => {
                if self.record_error(&reason) || self.failure.is_none() {
                    let meanwhile = if self.is_servable(rules, now) {
                        "; its last document is served meanwhile"
                    } else {
                        ""
                    };
                    tracing::warn!("the {provider} provider failed: {reason}{meanwhile}");
                }
                let pause = match retry {
                    Retry::After(pause) => pause.clamp(MIN_BACKOFF, MAX_BACKOFF),
                    Retry::Soon | Retry::No => MIN_BACKOFF,
                };
                let times = self.failure.as_ref().map_or(0, |failure| failure.times);
                if times == 0 {
                    self.pending_changes.get_or_insert_default();
                }
                self.failure = Some(Failure {
                    reason,
                    retry_at: now + pause,
                    times: times.saturating_add(1),
                });
            }
        }
    }

    fn apply_document(
        &mut self,
        document: BackendDocument,
        changed_at: Option<SystemTime>,
        as_of: Instant,
        rules: &Rules,
    ) {
        let changed_at = changed_at.unwrap_or_else(SystemTime::now);
        let skipped_before = self.skipped();
        if document.skipped() != skipped_before {
            for (key, why) in document.skipped_keys() {
                let shown: String = key.chars().take(64).collect();
                tracing::warn!(
                    "the {} provider's key {shown:?} is left out: {why}",
                    rules.provider
                );
            }
        }
        match &mut self.cached {
            Some(cached) => {
                let changes = cached.replace(document, as_of, changed_at);
                if !changes.is_empty() {
                    self.pending_changes.get_or_insert_default().extend(changes);
                }
            }
            None => self.cached = Some(CachedDocument::new(document, as_of, changed_at)),
        }
    }

    /// Records why there was no answer; returns whether the reason is new.
    fn record_error(&mut self, reason: &str) -> bool {
        let is_new = self
            .last_error
            .as_ref()
            .is_none_or(|(last, _)| last != reason);
        self.last_error = Some((reason.to_owned(), SystemTime::now()));
        is_new
    }

    pub(super) fn take_changes(&mut self) -> Option<Vec<KeyChange>> {
        self.pending_changes.take()
    }

    pub(super) fn document(&self) -> Option<&BackendDocument> {
        self.cached.as_ref().map(|cached| &*cached.document)
    }

    pub(super) fn skipped(&self) -> usize {
        self.document().map_or(0, BackendDocument::skipped)
    }
}

impl Rules {
    fn failed(&self, failure: &Failure) -> Error {
        Error::Unavailable {
            provider: self.provider.to_owned(),
            reason: failure.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
