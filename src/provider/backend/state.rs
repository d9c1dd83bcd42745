//! What is held of a backend and what is known of its health, and what follows for who asks. Makes no call and waits
//! for nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::saved::{Saved, SavedDocument, WallTime, to_bytes};
use super::{BackendDocument, FetchError, Fetched, Retry};
use crate::error::Error;
use crate::provider::{
    AsOf, ChangeKind, Held, NameChange, Provided, ProviderReport, Standing, rfc3339,
};
use crate::secret::SecretName;
use crate::settings::Ttl;

/// Between the end of an attempt that failed and the next one, at least.
pub(super) const BACKOFF: Duration = Duration::from_secs(1);
/// How long a backend may ask to be left alone (`Retry-After`) before it is tried again all the same.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long who reads waits for a backend that failed the last time: one that has recovered answers within it.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// An answer that is this young counts as fresh for a listing whatever its keys' time to live.
const JUST_NOW: Duration = Duration::from_secs(1);

/// What holds for a provider's documents, by the settings.
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
struct HeldDocument {
    document: Arc<BackendDocument>,
    /// When the call that gave it began: what changed at the backend since may not be in it.
    as_of: Instant,
    changed_at: SystemTime,
}

#[derive(Clone)]
struct Failure {
    reason: String,
    retry_at: Instant,
    /// How many attempts failed, one after the other.
    times: u32,
}

#[derive(Clone, Default)]
pub(super) struct State {
    held: Option<HeldDocument>,
    /// Documents of calls that began earlier were invalidated.
    void_before: Option<Instant>,
    failure: Option<Failure>,
    /// When the attempt under way began.
    attempt: Option<Instant>,
    /// When single keys changed since the first document.
    changed_at: Arc<HashMap<SecretName, SystemTime>>,
    /// Changes that have not been told yet; `Some` of nothing: the backend failed, or came back.
    untold: Option<Vec<NameChange>>,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) latency: Option<Duration>,
}

impl State {
    /// What a reader gets of a key; `Unknown`: he is to wait for an attempt.
    pub(super) fn held(&self, name: &SecretName, rules: &Rules, now: Instant) -> Held {
        if self.is_fresh(name, rules, now) {
            self.by_document(name, false)
        } else if self.must_wait(now) {
            Held::Unknown
        } else {
            self.answer(name, rules, now)
        }
    }

    /// The answer after an attempt, good or bad: by the document if it may be served, else the failure.
    pub(super) fn answer(&self, name: &SecretName, rules: &Rules, now: Instant) -> Held {
        match &self.failure {
            Some(failure) if !self.is_usable(rules, now) => Held::Failed(rules.failed(failure)),
            failure => self.by_document(name, failure.is_some()),
        }
    }

    /// What can be said of all keys together.
    pub(super) fn standing(&self, rules: &Rules, now: Instant) -> Standing {
        let longest = rules.ttl.default.max(JUST_NOW);
        if self.is_younger_than(longest, now) {
            return Standing::Whole;
        }
        match &self.failure {
            _ if self.must_wait(now) => match &self.held {
                Some(_) => Standing::Outdated,
                None => Standing::Unknown,
            },
            Some(failure) if !self.is_usable(rules, now) => Standing::Failed(rules.failed(failure)),
            _ => Standing::Whole,
        }
    }

    fn by_document(&self, name: &SecretName, is_stale: bool) -> Held {
        let Some(held) = &self.held else {
            return Held::Unknown;
        };
        let as_of = AsOf {
            at: held.as_of,
            is_stale,
        };
        match held.document.get(name) {
            Some(value) => Held::Value(Provided {
                value: value.clone(),
                changed_at: *self.changed_at.get(name).unwrap_or(&held.changed_at),
                as_of,
            }),
            None => Held::Absent { as_of },
        }
    }

    fn is_fresh(&self, name: &SecretName, rules: &Rules, now: Instant) -> bool {
        let Some(held) = &self.held else { return false };
        let ttl = match held.document.get(name) {
            Some(_) => rules.ttl_of(name),
            None => rules.ttl.missing,
        };
        self.is_younger_than(ttl, now)
    }

    fn is_younger_than(&self, limit: Duration, now: Instant) -> bool {
        self.age(now).is_some_and(|age| age < limit)
    }

    /// Whether an answer is worth waiting for: one always is from a backend in good health; from one that failed, when
    /// it is time to try again, and then not for long.
    fn must_wait(&self, now: Instant) -> bool {
        match &self.failure {
            None => true,
            Some(_) if self.attempt.is_some() => !self.is_slow(now),
            Some(failure) => now >= failure.retry_at,
        }
    }

    /// Whether an attempt is under way that a healthy backend would have answered by now.
    fn is_slow(&self, now: Instant) -> bool {
        self.attempt
            .is_some_and(|begun| now.saturating_duration_since(begun) >= PATIENCE)
    }

    pub(super) fn is_usable(&self, rules: &Rules, now: Instant) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| now.saturating_duration_since(held.as_of) < rules.max_stale)
    }

    /// For how long a backend that failed is left alone, and who reads served by what is held; `None`: it may be asked.
    pub(super) fn spared_for(&self, now: Instant) -> Option<Duration> {
        let failure = self.failure.as_ref()?;
        let left = failure.retry_at.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// How old the held document is, unless it was invalidated.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        let held = self.held.as_ref()?;
        let is_void = self.void_before.is_some_and(|void| held.as_of < void);
        (!is_void).then(|| now.saturating_duration_since(held.as_of))
    }

    /// What must outlive this process, as bytes; `own` is the backend's.
    pub(super) fn save(
        &self,
        source: &str,
        own: Option<&[u8]>,
        now: Instant,
    ) -> Zeroizing<Vec<u8>> {
        let wall = SystemTime::now();
        let document = self.held.as_ref().map(|held| {
            let (entries, left_out) = held.document.parts();
            let age = now.saturating_duration_since(held.as_of);
            let changed = self.changed_at.iter();
            SavedDocument {
                as_of: wall.checked_sub(age).unwrap_or(UNIX_EPOCH).into(),
                is_void: self.age(now).is_none(),
                changed_at: held.changed_at.into(),
                entries,
                left_out,
                changed: changed
                    .map(|(name, at)| (name.as_str(), (*at).into()))
                    .collect(),
            }
        });
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

    /// Takes up what was saved, unless something is held already.
    pub(super) fn restore(&mut self, saved: &Saved<'_>, now: Instant) {
        if self.held.is_some() || self.failure.is_some() || self.attempt.is_some() {
            return;
        }
        if let Some(document) = &saved.document {
            // What seems to be from the future was saved before the clock was set: nobody knows how old it is.
            let age = document.as_of.age();
            let as_of = now.checked_sub(age.unwrap_or_default());
            self.held = Some(HeldDocument {
                document: Arc::new(BackendDocument::from_parts(
                    &document.entries,
                    &document.left_out,
                )),
                as_of: as_of.unwrap_or(now),
                changed_at: document.changed_at.time(),
            });
            if document.is_void || age.is_none() || as_of.is_none() {
                self.void_before = now.checked_add(Duration::from_nanos(1));
            }
            let changed = document.changed.iter();
            self.changed_at = Arc::new(
                changed
                    .filter_map(|(key, at)| Some((SecretName::new(key).ok()?, at.time())))
                    .collect(),
            );
        }
        self.last_success = saved.last_success.map(WallTime::time);
        self.last_error = saved
            .last_error
            .map(|(why, at)| (why.to_owned(), at.time()));
        // It may be tried at once, and nobody waits for it longer than for any that failed.
        self.failure = saved.failure.map(|reason| Failure {
            reason: reason.to_owned(),
            retry_at: now,
            times: 1,
        });
    }

    /// The state without what is under way or still to be told.
    pub(super) fn settled(&self) -> Self {
        Self {
            attempt: None,
            untold: None,
            ..self.clone()
        }
    }

    /// The state, for people.
    pub(super) fn report(&self, rules: &Rules, source: &str, now: Instant) -> ProviderReport {
        let names = self.document().into_iter().flat_map(|held| held.names());
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
            stale: self.is_failing() && self.is_usable(rules, now),
            ..ProviderReport::default()
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.attempt = Some(now);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether the attempt that began then is still under way.
    pub(super) fn is_attempt_of(&self, begun: Instant) -> bool {
        self.attempt == Some(begun)
    }

    /// Whether the attempt under way will answer who asks now: not if it began before an invalidation.
    pub(super) fn attempt_counts(&self) -> bool {
        match (self.attempt, self.void_before) {
            (Some(begun), Some(void)) => begun >= void,
            (begun, _) => begun.is_some(),
        }
    }

    /// What is held is not to be served as fresh any more.
    pub(super) fn expire(&mut self, now: Instant) {
        self.void_before = Some(now);
    }

    /// When the held document should be fetched anew, if the keys that were read lately live for `ttl`: before it ends,
    /// and ever more rarely while that fails.
    pub(super) fn refresh_at(&self, ttl: Duration) -> Option<Instant> {
        let held = self.held.as_ref().filter(|_| self.attempt.is_none())?;
        let early = held.as_of.checked_add(ttl.mul_f64(0.8))?;
        match &self.failure {
            None => Some(early),
            Some(failure) => {
                let pause = BACKOFF * 2u32.saturating_pow(failure.times.min(5)) / 2;
                Some(early.max(failure.retry_at + pause))
            }
        }
    }

    /// Takes in what came of the attempt.
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
                    self.untold.get_or_insert_default();
                }
                match fetched {
                    Fetched::Document {
                        document,
                        changed_at,
                    } => {
                        self.last_error = None;
                        self.take_in(document, changed_at, as_of, rules);
                    }
                    Fetched::Missing(why) => {
                        if self.note_error(&why) {
                            tracing::warn!("the {provider} provider has no secrets: {why}");
                        }
                        self.take_in(BackendDocument::default(), None, as_of, rules);
                    }
                }
            }
            Err(FetchError { reason, retry }) => {
                if self.note_error(&reason) || self.failure.is_none() {
                    let meanwhile = if self.is_usable(rules, now) {
                        "; meanwhile what it gave last is served"
                    } else {
                        ""
                    };
                    tracing::warn!("the {provider} provider failed: {reason}{meanwhile}");
                }
                let pause = match retry {
                    Retry::After(pause) => pause.clamp(BACKOFF, LONGEST_BACKOFF),
                    Retry::Soon | Retry::No => BACKOFF,
                };
                let times = self.failure.as_ref().map_or(0, |failure| failure.times);
                if times == 0 {
                    self.untold.get_or_insert_default();
                }
                self.failure = Some(Failure {
                    reason,
                    retry_at: now + pause,
                    times: times.saturating_add(1),
                });
            }
        }
    }

    fn take_in(
        &mut self,
        document: BackendDocument,
        changed_at: Option<SystemTime>,
        as_of: Instant,
        rules: &Rules,
    ) {
        let changed_at = changed_at.unwrap_or_else(SystemTime::now);
        let skipped_before = self.skipped();
        let mut first_changed_at = changed_at;
        if let Some(held) = &self.held {
            first_changed_at = held.changed_at;
            let changes = held.document.changes_to(&document);
            if !changes.is_empty() {
                let times = Arc::make_mut(&mut self.changed_at);
                for change in &changes {
                    match change.kind {
                        ChangeKind::Deleted => times.remove(&change.name),
                        _ => times.insert(change.name.clone(), changed_at),
                    };
                }
                self.untold.get_or_insert_default().extend(changes);
            }
        }
        if document.skipped() != skipped_before {
            for (key, why) in document.what_is_skipped() {
                let shown: String = key.chars().take(64).collect();
                tracing::warn!(
                    "the {} provider's key {shown:?} is left out: {why}",
                    rules.provider
                );
            }
        }
        self.held = Some(HeldDocument {
            document: Arc::new(document),
            as_of,
            changed_at: first_changed_at,
        });
    }

    /// Notes why there was no answer; whether it is another reason than before.
    fn note_error(&mut self, reason: &str) -> bool {
        let is_new = self
            .last_error
            .as_ref()
            .is_none_or(|(last, _)| last != reason);
        self.last_error = Some((reason.to_owned(), SystemTime::now()));
        is_new
    }

    pub(super) fn take_untold(&mut self) -> Option<Vec<NameChange>> {
        self.untold.take()
    }

    pub(super) fn document(&self) -> Option<&BackendDocument> {
        self.held.as_ref().map(|held| &*held.document)
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
