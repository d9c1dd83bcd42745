//! The named caches: their options, and the registry through which all of them are listed, cleared and invalidated.
//! Does not know their contents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{CacheOptions, CacheStats, TtlCache};
use crate::sync::RwLock;

const fn named(seconds: u64, max_size: usize) -> CacheOptions {
    CacheOptions {
        default_ttl: Duration::from_secs(seconds),
        max_size,
        cleanup_interval: Some(Duration::from_secs(60)),
    }
}

/// The options of the cache `provider_config`, keys `provider:{name}:config`: 300 s, 100 entries.
pub const PROVIDER_CONFIG: CacheOptions = named(300, 100);
/// The options of the cache `user_permission`, keys `user:{id}:...`: 60 s, 500 entries.
pub const USER_PERMISSION: CacheOptions = named(60, 500);
/// The options of the cache `secrets`, keys `secret:{key}`: 300 s, 1,000 entries.
pub const SECRETS: CacheOptions = named(300, 1000);
/// The options of the cache `hardware`, keys `hardware:...`: 300 s, 100 entries.
pub const HARDWARE: CacheOptions = named(300, 100);

/// The operations on a cache that do not depend on its values.
pub trait NamedCache: Send + Sync {
    /// The statistics.
    fn stats(&self) -> CacheStats;
    /// Removes all entries; returns how many there were.
    fn clear(&self) -> usize;
    /// Removes all entries whose keys begin with `prefix`; returns how many there were.
    fn invalidate_prefix(&self, prefix: &str) -> usize;
}

impl<V: Clone + Send + Sync + 'static> NamedCache for TtlCache<V> {
    fn stats(&self) -> CacheStats {
        TtlCache::stats(self)
    }
    fn clear(&self) -> usize {
        TtlCache::clear(self)
    }
    fn invalidate_prefix(&self, prefix: &str) -> usize {
        TtlCache::invalidate_prefix(self, prefix)
    }
}

/// Caches by name, in the order of registration. Clones share the same registry.
#[derive(Clone, Default)]
pub struct CacheRegistry(Arc<RwLock<Vec<Named>>>);

type Named = (String, Arc<dyn NamedCache>);

impl CacheRegistry {
    /// Adds a cache, or replaces the one of this name.
    pub fn register(&self, name: impl Into<String>, cache: Arc<dyn NamedCache>) {
        let name = name.into();
        let mut caches = self.0.write();
        match caches.iter_mut().find(|(held, _)| *held == name) {
            Some((_, held)) => *held = cache,
            None => caches.push((name, cache)),
        }
    }

    /// The names, in the order of registration.
    pub fn names(&self) -> Vec<String> {
        self.all().into_iter().map(|(name, _)| name).collect()
    }

    /// The cache of a name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn NamedCache>> {
        let mut all = self.all().into_iter();
        all.find(|(held, _)| held == name).map(|(_, cache)| cache)
    }

    /// The statistics of all caches, by name.
    pub fn stats(&self) -> BTreeMap<String, CacheStats> {
        self.all()
            .into_iter()
            .map(|(name, cache)| (name, cache.stats()))
            .collect()
    }

    /// Clears all caches; returns how many entries there were.
    pub fn clear(&self) -> usize {
        self.all().iter().map(|(_, cache)| cache.clear()).sum()
    }

    /// Removes the entries of all caches whose keys begin with `prefix`; returns how many there were.
    pub fn invalidate_prefix(&self, prefix: &str) -> usize {
        self.all()
            .iter()
            .map(|(_, cache)| cache.invalidate_prefix(prefix))
            .sum()
    }

    // A copy, so that the registry is not locked while its caches are used.
    fn all(&self) -> Vec<Named> {
        self.0.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_of_any_type_are_reached_by_name_in_the_order_of_registration() {
        let (texts, numbers) = (TtlCache::new(SECRETS), TtlCache::new(HARDWARE));
        let registry = CacheRegistry::default();
        registry.register("texts", Arc::new(texts.clone()));
        registry.register("numbers", Arc::new(numbers.clone()));
        registry.register("alone", Arc::new(TtlCache::<()>::new(PROVIDER_CONFIG)));
        assert_eq!(registry.names(), ["texts", "numbers", "alone"]);

        texts.set("a:1", "one".to_owned());
        texts.set("a:2", "two".to_owned());
        numbers.set("a:1", 1);
        numbers.set("b:1", 2);
        assert_eq!(registry.stats()["texts"].size, 2);
        assert_eq!(registry.stats()["numbers"].max_size, 100);
        assert_eq!(registry.invalidate_prefix("a:"), 3);
        assert_eq!(registry.get("numbers").unwrap().invalidate_prefix("a:"), 0);
        assert!(registry.get("none").is_none());
        assert_eq!(registry.clear(), 1);
        assert!(texts.is_empty() && numbers.is_empty());
    }

    #[test]
    fn a_name_that_is_registered_again_keeps_its_position() {
        let registry = CacheRegistry::default();
        for name in ["one", "two", "one"] {
            registry.register(name, Arc::new(TtlCache::<()>::new(USER_PERMISSION)));
        }
        assert_eq!(registry.names(), ["one", "two"]);
    }
}
