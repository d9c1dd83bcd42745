//! The secret cache with single-flight fetches. An answer whose computation began before an invalidation is never
//! cached. Asks no provider.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Found, Version};
use crate::cache::{CacheOptions, CacheStats, NamedCache, SECRETS, TtlCache};
use crate::error::{Error, Result};
use crate::provider::AsOf;
use crate::secret::SecretName;
use crate::settings::Ttl;
use crate::sync::{Mutex, MutexGuard};

/// A value, and when it leaves the cache.
#[derive(Clone)]
pub(super) struct CachedVersion {
    pub(super) version: Version,
    /// `None`: it is not in the cache.
    expires: Option<Instant>,
}

impl CachedVersion {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            expires: None,
        }
    }

    /// How long it stays in the cache.
    pub(super) fn expires_in(&self) -> Duration {
        let left = |expires: Instant| expires.saturating_duration_since(Instant::now());
        self.expires.map(left).unwrap_or_default()
    }

    fn into_found(self) -> Found {
        Found {
            expires_in: self.expires_in(),
            fetched_at: self.version.fetched_at(),
            value: self.version.raw,
            provider: self.version.provider,
            changed_at: self.version.changed_at,
        }
    }
}

/// The chain's answer for a key.
#[derive(Clone)]
pub(super) enum ChainResult {
    Found(CachedVersion),
    Missing { as_of: AsOf },
    Failed(Arc<Error>),
}

impl ChainResult {
    /// The answer of a fetch that ended without one.
    pub(super) fn lost(name: &SecretName) -> Self {
        let error = std::io::Error::other("the provider ended unexpectedly");
        ChainResult::Failed(Error::io(format!("asking for {name}"), error).into())
    }

    pub(super) fn into_result(self, name: &SecretName) -> Result<Found> {
        match self {
            ChainResult::Found(cached) => Ok(cached.into_found()),
            ChainResult::Missing { .. } => Err(Error::NotFound {
                name: name.to_string(),
            }),
            ChainResult::Failed(error) => Err(error.duplicate()),
        }
    }
}

/// Called with the answer of a fetch.
pub(super) type Waiter = Box<dyn FnOnce(&ChainResult) + Send>;

/// The waiters of one fetch. Locked only while [`SecretCache::inner`] is locked.
pub(super) type Waiters = Mutex<Vec<Waiter>>;

pub(super) struct SecretCache {
    cache: TtlCache<ChainResult>,
    ttl: Arc<Ttl>,
    /// Held while an answer is inserted or removed, so that an insertion cannot cross an invalidation. Nothing waits
    /// under it; the locks of the cache and of a fetch's waiters are taken inside.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Counts invalidations. An answer is cached only if this has not changed since its computation began.
    invalidations: u64,
    fetches: HashMap<SecretName, Arc<Waiters>>,
}

fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(7 + name.len());
    key.push_str("secret:");
    key.push_str(name);
    key
}

impl SecretCache {
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
        self.inner.lock()
    }

    /// The cached answer.
    pub(super) fn get(&self, name: &SecretName) -> Option<ChainResult> {
        self.cache.get(&key_of(name.as_str()))
    }

    /// Counts a look-up as a hit or a miss; returns whether it is a hit.
    pub(super) fn record_lookup(&self, name: &SecretName) -> bool {
        self.get(name).is_some()
    }

    /// To be read before a provider is asked, for [`insert`](Self::insert).
    pub(super) fn invalidations(&self) -> u64 {
        self.inner().invalidations
    }

    /// Caches an answer, unless something was invalidated since `invalidations` was read. Returns the answer with its
    /// time to live.
    pub(super) fn insert(
        &self,
        name: &SecretName,
        answer: ChainResult,
        invalidations: u64,
    ) -> ChainResult {
        let inner = self.inner();
        if inner.invalidations == invalidations {
            self.insert_locked(name, answer)
        } else {
            answer
        }
    }

    fn insert_locked(&self, name: &SecretName, mut answer: ChainResult) -> ChainResult {
        let (ttl, as_of) = match &answer {
            ChainResult::Found(cached) => {
                let ttl = self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
                (*ttl, cached.version.as_of)
            }
            ChainResult::Missing { as_of } => (self.ttl.missing, *as_of),
            ChainResult::Failed(_) => return answer,
        };
        let left = ttl.saturating_sub(as_of.at.elapsed());
        if left.is_zero() || as_of.is_stale {
            return answer;
        }
        if let ChainResult::Found(cached) = &mut answer {
            // A time that no clock can reach stands for ever.
            cached.expires = as_of.at.checked_add(ttl);
        }
        self.cache
            .set_with_ttl(&key_of(name.as_str()), answer.clone(), left);
        answer
    }

    /// Adds a waiter to the running fetch of a name. If none runs, returns a new one; the caller must then fetch, and
    /// [`complete`](Self::complete) it.
    pub(super) fn join(&self, name: &SecretName, waiter: Waiter) -> Option<Arc<Waiters>> {
        let mut inner = self.inner();
        if let Some(waiters) = inner.fetches.get(name) {
            waiters.lock().push(waiter);
            return None;
        }
        let waiters = Arc::new(Mutex::new(vec![waiter]));
        inner.fetches.insert(name.clone(), waiters.clone());
        Some(waiters)
    }

    /// Ends a fetch: caches the answer if it is cacheable and the name was not invalidated meanwhile, then calls the
    /// waiters.
    pub(super) fn complete(
        &self,
        name: &SecretName,
        waiters: &Arc<Waiters>,
        mut answer: ChainResult,
        is_cacheable: bool,
    ) {
        let waiters = {
            let mut inner = self.inner();
            let current = inner.fetches.get(name);
            if current.is_some_and(|current| Arc::ptr_eq(current, waiters)) {
                inner.fetches.remove(name);
                if is_cacheable {
                    answer = self.insert_locked(name, answer);
                }
            }
            std::mem::take(&mut *waiters.lock())
        };
        waiters.into_iter().for_each(|waiter| waiter(&answer));
    }

    /// Invalidates a name. A running fetch still answers its waiters, but no new ones join it.
    pub(super) fn invalidate(&self, name: &SecretName) {
        let mut inner = self.inner();
        inner.invalidations += 1;
        inner.fetches.remove(name);
        self.cache.delete(&key_of(name.as_str()));
    }
}

impl NamedCache for SecretCache {
    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    fn clear(&self) -> usize {
        let mut inner = self.inner();
        inner.invalidations += 1;
        inner.fetches.clear();
        self.cache.clear()
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let mut inner = self.inner();
        inner.invalidations += 1;
        let stays = |name: &SecretName| !key_of(name.as_str()).starts_with(prefix);
        inner.fetches.retain(|name, _| stays(name));
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
    fn failed_lookups_leave_nothing_behind() {
        let manager = SecretsManager::builder()
            .with_provider(Arc::new(Failing))
            .build();
        for number in 0..500 {
            let name = SecretName::new(&format!("PROBED_{number}")).unwrap();
            let (answer, answered) = mpsc::channel();
            manager.find_async(&name, Box::new(move |lookup| answer.send(lookup).unwrap()));
            let lookup = answered.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(matches!(lookup, Lookup::Failed(_)), "{lookup:?}");
        }
        let inner = manager.cache.inner();
        assert!(inner.fetches.is_empty());
        assert_eq!(manager.cache.cache.stats().size, 0);
    }
}
