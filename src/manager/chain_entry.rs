//! One provider in the chain. For a provider that caches no documents, it also keeps the last value of each key.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Event;
use crate::error::Error;
use crate::provider::{
    Cached, Changes, KeyChange, ListingState, Provided, Provider, ProviderReport, View, ViewLookup,
};
use crate::secret::SecretName;
use crate::settings::Ttl;
use crate::sync::{Mutex, MutexGuard};

/// How many last values are kept for one provider.
const MAX_LAST_VALUES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// One provider in the chain.
pub(super) struct ChainEntry {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) name: Arc<str>,
    /// Whether the last event was `provider_down`.
    pub(super) is_down: AtomicBool,
    ttl: Arc<Ttl>,
    /// A leaf lock.
    last: Mutex<LastValues>,
}

/// The last value of each key.
struct LastValues {
    values: LruCache<SecretName, Provided>,
    /// Counts invalidations. An answer whose request began before one is stale.
    invalidations: u64,
    view: Option<Arc<KeyView>>,
}

impl ChainEntry {
    pub(super) fn new(provider: Arc<dyn Provider>, ttl: Arc<Ttl>) -> Self {
        Self {
            name: provider.name().into(),
            provider,
            is_down: AtomicBool::new(false),
            ttl,
            last: Mutex::new(LastValues {
                values: LruCache::new(MAX_LAST_VALUES),
                invalidations: 0,
                view: None,
            }),
        }
    }

    fn last(&self) -> MutexGuard<'_, LastValues> {
        self.last.lock()
    }

    /// Invalidates the keys that begin with `prefix`.
    pub(super) fn expire(&self, prefix: &str) {
        self.provider.expire();
        let mut last = self.last();
        last.invalidations += 1;
        last.view = None;
        let names = last.values.iter().map(|(name, _)| name.clone());
        let expired: Vec<SecretName> = names
            .filter(|name| name.as_str().starts_with(prefix))
            .collect();
        for name in expired {
            last.values.pop(&name);
        }
    }

    /// The provider's view, what other programs changed, and what this process wrote.
    pub(super) fn take_update(&self) -> (Arc<dyn View>, Changes, Vec<KeyChange>) {
        let update = self.provider.take_update();
        let view = update.view.unwrap_or_else(|| self.key_view());
        (view, update.changes, update.own_writes)
    }

    fn key_view(&self) -> Arc<dyn View> {
        let mut last = self.last();
        let LastValues { values, view, .. } = &mut *last;
        let view = view.get_or_insert_with(|| {
            let values = values.iter();
            Arc::new(KeyView {
                provider: self.provider.clone(),
                ttl: self.ttl.clone(),
                values: values
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            })
        });
        view.clone()
    }

    /// These names changed in some provider: their last values here become stale. Returns the new view if there were
    /// any.
    pub(super) fn mark_stale(&self, names: &[SecretName]) -> Option<Arc<dyn View>> {
        {
            let mut last = self.last();
            let mut is_changed = false;
            for name in names {
                if let Some(provided) = last.values.peek_mut(name) {
                    provided.as_of.is_stale = true;
                    is_changed = true;
                }
            }
            if !is_changed {
                return None;
            }
            last.view = None;
        }
        Some(self.key_view())
    }

    /// Asks the provider, which may wait. If a provider fails that caches no documents, its last value answers, if that
    /// is young enough.
    pub(super) fn get(&self, name: &SecretName, max_stale: Duration) -> Cached {
        let invalidations = self.last().invalidations;
        let answer = Cached::from_result(self.provider.get(name));
        if self.provider.keeps_documents() {
            return answer;
        }
        let mut last = self.last();
        match answer {
            Cached::Value(provided) => {
                let mut last_value = provided.clone();
                last_value.as_of.is_stale |= last.invalidations != invalidations;
                last.view = None;
                last.values.put(name.clone(), last_value);
                Cached::Value(provided)
            }
            Cached::Absent { as_of } => {
                last.view = None;
                last.values.pop(name);
                Cached::Absent { as_of }
            }
            Cached::Failed(error) if !error.ends_chain() => match last.values.get(name) {
                Some(provided) if provided.as_of.at.elapsed() < max_stale => {
                    let mut provided = provided.clone();
                    provided.as_of.is_stale = true;
                    Cached::Value(provided)
                }
                _ => Cached::Failed(error),
            },
            other => other,
        }
    }

    /// The event, if the provider has failed or recovered since the last one.
    pub(super) fn check_health(&self) -> Option<Event> {
        let is_down = !self.provider.report().available;
        let was_down = self.is_down.swap(is_down, Ordering::Relaxed);
        let event = match (was_down, is_down) {
            (false, true) => "provider_down",
            (true, false) => "provider_up",
            _ => return None,
        };
        Some(Event::new(event, None, Some(&self.name)))
    }
}

/// The error for a key whose provider failed.
pub(super) fn provider_failed(provider: &str, name: &str, error: &Error) -> Error {
    Error::ProviderFailed {
        name: name.to_owned(),
        provider: provider.to_owned(),
        reason: match error {
            Error::Unavailable { reason, .. } => reason.clone(),
            other => other.to_string(),
        },
    }
}

/// The last values of a provider that can only be asked key by key.
struct KeyView {
    provider: Arc<dyn Provider>,
    ttl: Arc<Ttl>,
    values: HashMap<SecretName, Provided>,
}

impl View for KeyView {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        let Some(provided) = self.values.get(name) else {
            return ViewLookup::Unknown;
        };
        let ttl = *self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
        let left = ttl.saturating_sub(now.saturating_duration_since(provided.as_of.at));
        ViewLookup::Value {
            valid_for: (!left.is_zero() && !provided.as_of.is_stale).then_some(left),
            provided: provided.clone(),
        }
    }

    fn names(&self) -> Vec<SecretName> {
        self.provider.names()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.provider.has(name)
    }

    fn listing_state(&self, _now: Instant) -> ListingState {
        self.provider.listing_state()
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        self.provider.report()
    }
}
