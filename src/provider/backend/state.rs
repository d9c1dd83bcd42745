//! A backend's current attempt, and what its outcome changes. Makes no call and never waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{BackendDocument, FetchError, Fetched, Retry};
use crate::clock::Instant;
use crate::provider::cached_source::CachedSource;
use crate::provider::source_view::{Rules, too_many_keys};
use crate::provider::{ListingState, View};
use crate::secret::SecretName;
use crate::text::printable;

/// The shortest pause between a failed attempt and the next.
pub(super) const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause that a backend may ask for (`Retry-After`).
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How long a reader waits for a backend whose last attempt failed: one that has recovered answers within this.
pub(in crate::provider) const FAILING_BACKEND_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct State {
    pub(super) source: CachedSource<BackendDocument>,
    max_keys: usize,
    /// When the current attempt began.
    attempt: Option<Instant>,
}

impl State {
    /// The state of a backend whose document may have `max_keys` keys.
    pub(super) fn new(rules: Rules, max_keys: usize) -> Self {
        Self {
            source: CachedSource::new(rules),
            max_keys,
            attempt: None,
        }
    }

    /// Whether no attempt was made yet.
    pub(super) fn is_unused(&self) -> bool {
        let view = self.source.current();
        view.cached.is_none() && view.failure.is_none() && self.attempt.is_none()
    }

    /// Whether a reader of a key (`None`: of the names) waits for an attempt. It does not wait long for a backend that
    /// has failed.
    pub(super) fn must_ask(&self, name: Option<&SecretName>, now: Instant) -> bool {
        let view = self.source.current();
        let is_outdated = match name {
            Some(name) => view.find(name, now).must_ask(),
            None => matches!(
                view.listing_state(now),
                ListingState::Outdated | ListingState::Unknown
            ),
        };
        is_outdated && !(self.source.is_failing() && self.is_slow(now))
    }

    /// Whether the current attempt takes longer than a healthy backend would.
    fn is_slow(&self, now: Instant) -> bool {
        self.attempt
            .is_some_and(|began| now.saturating_duration_since(began) >= FAILING_BACKEND_TIMEOUT)
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
        match (self.attempt, self.source.current().invalidated_at) {
            (Some(began), Some(invalidated_at)) => began >= invalidated_at,
            (began, _) => began.is_some(),
        }
    }

    /// Invalidates the document: it is served only if the backend fails.
    pub(super) fn expire(&mut self, now: Instant) {
        self.source.current_mut().invalidated_at = Some(now);
    }

    /// When to fetch the document again if its recently read keys live for `ttl`: before they expire, and ever more
    /// rarely while that fails.
    pub(super) fn refresh_at(&self, ttl: Duration) -> Option<Instant> {
        let view = self.source.current();
        let cached = view.cached.as_ref().filter(|_| self.attempt.is_none())?;
        let early = cached.as_of.checked_add(ttl.mul_f64(0.8))?;
        match &view.failure {
            None => Some(early),
            Some(failure) => {
                let pause = MIN_BACKOFF * 2u32.saturating_pow(failure.times.min(5)) / 2;
                Some(early.max(failure.retry_at? + pause))
            }
        }
    }

    /// A document with more keys than it may have counts as a failure: which of them are meant is not known here.
    fn bounded(&self, fetched: Fetched) -> Result<Fetched, FetchError> {
        match &fetched {
            Fetched::Document { document, .. } if document.len() > self.max_keys => {
                Err(FetchError::lasting(too_many_keys(self.max_keys)))
            }
            _ => Ok(fetched),
        }
    }

    /// Records the outcome of the attempt.
    pub(super) fn finish(&mut self, result: Result<Fetched, FetchError>, now: Instant) {
        let as_of = self.attempt.take().unwrap_or(now);
        let rules = self.source.current().rules.clone();
        let provider = &rules.provider;
        let is_configured = !matches!(result, Ok(Fetched::NotConfigured(_)));
        self.source.current_mut().is_configured = is_configured;
        let (document, changed_at, missing) = match result.and_then(|fetched| self.bounded(fetched))
        {
            Ok(Fetched::Document {
                document,
                changed_at,
            }) => (document, changed_at, None),
            Ok(Fetched::Missing(why) | Fetched::NotConfigured(why)) => {
                (BackendDocument::default(), None, Some(printable(&why)))
            }
            Err(FetchError { reason, retry }) => {
                let pause = match retry {
                    Retry::After(pause) => pause.clamp(MIN_BACKOFF, MAX_BACKOFF),
                    Retry::Soon | Retry::No => MIN_BACKOFF,
                };
                let error = self.source.current().rules.unavailable(&printable(&reason));
                return self.source.fail(error, Some(now + pause));
            }
        };
        let is_absent = missing.is_some();
        if let Some(why) = missing
            && self.source.record_error(&why)
        {
            tracing::warn!("the {provider} provider has no secrets: {why}");
        }
        let before = self.source.current().document();
        if document.skipped() != before.map_or(0, BackendDocument::skipped) {
            for (key, why) in document.skipped_keys() {
                let shown: String = key.chars().take(64).collect();
                tracing::warn!("the {provider} provider's key {shown:?} is left out: {why}");
            }
        }
        self.source.current_mut().latency = Some(now.saturating_duration_since(as_of));
        let document = Arc::new(document);
        match is_absent {
            true => self.source.apply_absence(document, as_of),
            false => {
                let changed_at = changed_at.unwrap_or_else(SystemTime::now);
                self.source.apply(document, as_of, changed_at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
