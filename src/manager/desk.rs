//! The cache of answers, the questions that are under way, and what keeps an answer from being kept when it was
//! invalidated while it was computed. Asks no provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{Found, Version};
use crate::cache::{CacheOptions, CacheStats, NamedCache, SECRETS, TtlCache};
use crate::error::{Error, Result};
use crate::provider::AsOf;
use crate::secret::SecretName;
use crate::settings::Ttl;

/// A value that was found.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) version: Version,
    /// `None`: it is not in the cache.
    until: Option<Instant>,
}

impl Kept {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            until: None,
        }
    }

    /// For how long it stays in the cache.
    pub(super) fn left(&self) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        self.until.map(left).unwrap_or_default()
    }

    fn found(self) -> Found {
        Found {
            expires_in: self.left(),
            fetched_at: self.version.fetched_at(),
            value: self.version.raw,
            provider: self.version.provider,
            changed_at: self.version.changed_at,
        }
    }
}

/// An answer of the chain.
#[derive(Clone)]
pub(super) enum Answered {
    Found(Kept),
    Missing { as_of: AsOf },
    Failed(Arc<Error>),
}

impl Answered {
    /// The answer to a question whose answer nobody gives any more.
    pub(super) fn lost(name: &SecretName) -> Self {
        let error = std::io::Error::other("the provider ended unexpectedly");
        Answered::Failed(Error::io(format!("asking for {name}"), error).into())
    }

    pub(super) fn into_result(self, name: &SecretName) -> Result<Found> {
        match self {
            Answered::Found(kept) => Ok(kept.found()),
            Answered::Missing { .. } => Err(Error::NotFound {
                name: name.to_string(),
            }),
            Answered::Failed(error) => Err(error.duplicate()),
        }
    }
}

/// What is called with the answer to a question that was asked in the background.
pub(super) type Told = Box<dyn FnOnce(&Answered) + Send>;

/// A question that is under way: who waits for its answer. Locked only where the desk's lock is held.
pub(super) type Flight = Mutex<Vec<Told>>;

pub(super) struct Desk {
    cache: TtlCache<Answered>,
    ttl: Arc<Ttl>,
    /// Held while an answer is put into the cache or taken out, so that the two cannot cross. Nothing waits under it,
    /// and only the cache's and a flight's own locks are taken inside.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Counts invalidations: an answer that was begun before one is not cached after it.
    epoch: u64,
    flights: HashMap<SecretName, Arc<Flight>>,
}

fn waiting(flight: &Flight) -> MutexGuard<'_, Vec<Told>> {
    flight.lock().unwrap_or_else(|e| e.into_inner())
}

fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(7 + name.len());
    key.push_str("secret:");
    key.push_str(name);
    key
}

impl Desk {
    pub(super) fn new(ttl: Arc<Ttl>) -> Self {
        Self {
            cache: TtlCache::new(CacheOptions {
                default_ttl: ttl.default,
                ..SECRETS
            }),
            ttl,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The answer in the cache.
    pub(super) fn cached(&self, name: &SecretName) -> Option<Answered> {
        self.cache.get(&key_of(name.as_str()))
    }

    /// Counts a look at the cache for a name: whether it was there.
    pub(super) fn count(&self, name: &SecretName) -> bool {
        self.cached(name).is_some()
    }

    /// To be taken before a provider is asked.
    pub(super) fn epoch(&self) -> u64 {
        self.inner().epoch
    }

    /// Caches an answer, unless something was invalidated since `epoch`; gives it with its time to live.
    pub(super) fn keep(&self, name: &SecretName, answer: Answered, epoch: u64) -> Answered {
        let inner = self.inner();
        if inner.epoch == epoch {
            self.cache_answer(name, answer)
        } else {
            answer
        }
    }

    fn cache_answer(&self, name: &SecretName, answer: Answered) -> Answered {
        let (ttl, as_of) = match &answer {
            Answered::Found(kept) => {
                let ttl = self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
                (*ttl, kept.version.as_of)
            }
            Answered::Missing { as_of } => (self.ttl.missing, *as_of),
            Answered::Failed(_) => return answer,
        };
        let left = ttl.saturating_sub(as_of.at.elapsed());
        if left.is_zero() || as_of.is_stale {
            return answer;
        }
        let mut answer = answer;
        if let Answered::Found(kept) = &mut answer {
            // A time beyond all clocks is for ever.
            kept.until = as_of.at.checked_add(ttl);
        }
        self.cache
            .set_with_ttl(&key_of(name.as_str()), answer.clone(), left);
        answer
    }

    /// Joins the question about a name: `told` is called when it is answered. Gives the question where it is a new one,
    /// which the caller must then [`land`](Self::land).
    pub(super) fn join(&self, name: &SecretName, told: Told) -> Option<Arc<Flight>> {
        let mut inner = self.inner();
        if let Some(flight) = inner.flights.get(name) {
            waiting(flight).push(told);
            return None;
        }
        let flight = Arc::new(Mutex::new(vec![told]));
        inner.flights.insert(name.clone(), flight.clone());
        Some(flight)
    }

    /// Ends a question: keeps the answer if it may be kept and was not invalidated meanwhile, and tells all who wait.
    pub(super) fn land(
        &self,
        name: &SecretName,
        flight: &Arc<Flight>,
        mut answer: Answered,
        cacheable: bool,
    ) {
        let told = {
            let mut inner = self.inner();
            let current = inner.flights.get(name);
            if current.is_some_and(|current| Arc::ptr_eq(current, flight)) {
                inner.flights.remove(name);
                if cacheable {
                    answer = self.cache_answer(name, answer);
                }
            }
            std::mem::take(&mut *waiting(flight))
        };
        told.into_iter().for_each(|told| told(&answer));
    }

    /// Drops what is known about a name. A question under way goes on for those who asked before.
    pub(super) fn drop_name(&self, name: &SecretName) {
        let mut inner = self.inner();
        inner.epoch += 1;
        inner.flights.remove(name);
        self.cache.delete(&key_of(name.as_str()));
    }
}

impl NamedCache for Desk {
    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    fn clear(&self) -> usize {
        let mut inner = self.inner();
        inner.epoch += 1;
        inner.flights.clear();
        self.cache.clear()
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let mut inner = self.inner();
        inner.epoch += 1;
        let stays = |name: &SecretName| !key_of(name.as_str()).starts_with(prefix);
        inner.flights.retain(|name, _| stays(name));
        self.cache.invalidate_prefix(prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::{Lookup, SecretsManager};
    use super::*;
    use crate::provider::{Provided, Provider, ProviderReport};

    struct Failing;

    impl Provider for Failing {
        fn name(&self) -> &str {
            "failing"
        }
        fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
            Err(Error::Unavailable {
                provider: "failing".to_owned(),
                reason: "it is down".to_owned(),
            })
        }
        fn names(&self) -> Vec<SecretName> {
            Vec::new()
        }
        fn report(&self) -> ProviderReport {
            ProviderReport::default()
        }
    }

    #[test]
    fn names_that_are_asked_for_while_a_provider_fails_leave_nothing_behind() {
        let manager = SecretsManager::builder()
            .with_provider(Arc::new(Failing))
            .build();
        for number in 0..500 {
            let name = SecretName::new(&format!("PROBED_{number}")).unwrap();
            let (answer, answered) = mpsc::channel();
            manager.ask(&name, Box::new(move |lookup| answer.send(lookup).unwrap()));
            let lookup = answered.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(matches!(lookup, Lookup::Failed(_)), "{lookup:?}");
        }
        let inner = manager.desk.inner();
        assert!(inner.flights.is_empty());
        assert_eq!(manager.desk.cache.stats().size, 0);
    }
}
