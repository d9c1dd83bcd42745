//! One provider in the chain, with the last value of each key where the provider keeps no document itself.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Event;
use crate::error::Error;
use crate::provider::{
    Held, NameChange, Provided, Provider, ProviderReport, Refreshed, Standing, View, Viewed,
};
use crate::secret::SecretName;
use crate::settings::Ttl;

/// How many keys' last values are kept of a provider that keeps none itself.
const LAST_VALUES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// One provider in the chain.
pub(super) struct Link {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) name: Arc<str>,
    /// Whether `provider_down` was told last.
    pub(super) is_down: AtomicBool,
    ttl: Arc<Ttl>,
    /// A leaf lock.
    last: Mutex<LastValues>,
}

/// The last value of each key, for a provider that keeps no documents itself.
struct LastValues {
    values: LruCache<SecretName, Provided>,
    /// Counts invalidations: an answer that was begun before one is out of date.
    epoch: u64,
    view: Option<Arc<KeyView>>,
}

impl Link {
    pub(super) fn new(provider: Arc<dyn Provider>, ttl: Arc<Ttl>) -> Self {
        Self {
            name: provider.name().into(),
            provider,
            is_down: AtomicBool::new(false),
            ttl,
            last: Mutex::new(LastValues {
                values: LruCache::new(LAST_VALUES),
                epoch: 0,
                view: None,
            }),
        }
    }

    fn last(&self) -> MutexGuard<'_, LastValues> {
        self.last.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is known of the keys that begin with `names` is to be asked for anew.
    pub(super) fn forget(&self, names: &str) {
        self.provider.expire();
        let mut last = self.last();
        last.epoch += 1;
        last.view = None;
        let forgotten = last.values.iter().map(|(name, _)| name.clone());
        let forgotten: Vec<SecretName> = forgotten
            .filter(|name| name.as_str().starts_with(names))
            .collect();
        for name in forgotten {
            last.values.pop(&name);
        }
    }

    /// What the provider holds, what changed without us, and what we changed.
    pub(super) fn take_news(&self) -> (Arc<dyn View>, Refreshed, Vec<NameChange>) {
        let news = self.provider.take_news();
        let view = news.view.unwrap_or_else(|| self.key_view());
        (view, news.changes, news.own)
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

    /// These names changed somewhere in the chain: a provider that was asked for one is asked anew. Gives its view where
    /// that became another.
    pub(super) fn outdate(&self, names: &[SecretName]) -> Option<Arc<dyn View>> {
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

    /// Asks the provider, which may wait. For one that keeps no documents, a value that is young enough stands in for
    /// a failure.
    pub(super) fn ask(&self, name: &SecretName, max_stale: Duration) -> Held {
        let epoch = self.last().epoch;
        let answer = Held::of(self.provider.get(name));
        if self.provider.keeps_documents() {
            return answer;
        }
        let mut last = self.last();
        match answer {
            Held::Value(provided) => {
                let mut kept = provided.clone();
                kept.as_of.is_stale |= last.epoch != epoch;
                last.view = None;
                last.values.put(name.clone(), kept);
                Held::Value(provided)
            }
            Held::Absent { as_of } => {
                last.view = None;
                last.values.pop(name);
                Held::Absent { as_of }
            }
            Held::Failed(error) if !error.ends_chain() => match last.values.get(name) {
                Some(provided) if provided.as_of.at.elapsed() < max_stale => {
                    let mut provided = provided.clone();
                    provided.as_of.is_stale = true;
                    Held::Value(provided)
                }
                _ => Held::Failed(error),
            },
            other => other,
        }
    }

    /// The event, if the provider failed or came back since the last one.
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

/// What was last heard of the keys of a provider that can only be asked key by key.
struct KeyView {
    provider: Arc<dyn Provider>,
    ttl: Arc<Ttl>,
    values: HashMap<SecretName, Provided>,
}

impl View for KeyView {
    fn find(&self, name: &SecretName, now: Instant) -> Viewed {
        let Some(provided) = self.values.get(name) else {
            return Viewed::Unknown;
        };
        let ttl = *self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
        let left = ttl.saturating_sub(now.saturating_duration_since(provided.as_of.at));
        Viewed::Value {
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

    fn standing(&self, _now: Instant) -> Standing {
        self.provider.standing()
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        self.provider.report()
    }
}
