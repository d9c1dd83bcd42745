//! The entries of a cache: each expires at its own time, and a full cache evicts the least recently used one. Does not know
//! how a missing value is computed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;

use super::cleaner::{Clean, Cleaner};
use super::clock::Clock;
use super::singleflight::Flights;
use super::{CacheOptions, CacheStats};
use crate::clock::Instant;
use crate::sync::{Mutex, MutexGuard};

/// What the clones of a cache share.
pub(super) struct Shared<V> {
    pub(super) options: CacheOptions,
    pub(super) clock: Clock,
    // Not an async mutex: held for some dozen nanoseconds, never across a call to anything but `V::clone`.
    state: Mutex<State<V>>,
    pub(super) cleaner: OnceLock<Cleaner>,
}

pub(super) struct State<V> {
    // Unbounded, because a full cache evicts its expired entries before the least recently used one.
    pub(super) entries: LruCache<Box<str>, Entry<V>>,
    /// No entry expires before this, so that a full cache is searched for expired entries only if there may be some.
    next_expiry: Option<Instant>,
    pub(super) flights: Flights<V>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

pub(super) struct Entry<V> {
    value: V,
    /// `None`: never.
    pub(super) expires: Option<Instant>,
}

impl<V> Entry<V> {
    fn is_expired(&self, now: impl FnOnce() -> Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

impl<V: Send + Sync + 'static> Shared<V> {
    /// The cleaner thread cleans it if the options have an interval.
    pub(super) fn new(options: CacheOptions, clock: Clock) -> Arc<Self> {
        let shared = Arc::new(Shared {
            options,
            clock,
            state: Mutex::new(State {
                entries: LruCache::unbounded(),
                next_expiry: None,
                flights: Flights::default(),
                hits: 0,
                misses: 0,
                evictions: 0,
            }),
            cleaner: OnceLock::new(),
        });
        if let Some(interval) = options.cleanup_interval {
            shared
                .cleaner
                .get_or_init(|| Cleaner::start(Arc::downgrade(&shared), interval));
        }
        shared
    }
}

impl<V> Shared<V> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock()
    }

    pub(super) fn stats(&self) -> CacheStats {
        let now = self.clock.now();
        let state = self.lock();
        let entries = state.entries.iter();
        let expired_count = entries
            .filter(|(_, entry)| entry.is_expired(|| now))
            .count();
        let (hits, misses) = (state.hits, state.misses);
        CacheStats {
            size: state.entries.len(),
            max_size: self.options.max_size,
            expired_count,
            default_ttl: self.options.default_ttl.as_secs_f64(),
            hits,
            misses,
            evictions: state.evictions,
            hit_rate: match hits + misses {
                0 => 0.0,
                lookups => hits as f64 / lookups as f64,
            },
        }
    }

    /// Sets a key, for the default time to live unless there is another. Returns the removed values, to be dropped outside
    /// the lock.
    #[must_use]
    pub(super) fn insert(
        &self,
        state: &mut State<V>,
        key: &str,
        value: V,
        ttl: Option<Duration>,
    ) -> Vec<V> {
        let ttl = ttl.unwrap_or(self.options.default_ttl);
        if ttl.is_zero() || self.options.max_size == 0 {
            // It would expire at once, so nothing is evicted for it.
            let replaced = state.entries.pop(key).map(|entry| entry.value);
            return replaced.into_iter().chain([value]).collect();
        }
        let now = self.clock.now();
        let expires = match ttl {
            Duration::MAX => None,
            ttl => now.checked_add(ttl),
        };
        if let Some(entry) = state.entries.get_mut(key) {
            entry.expires = expires;
            let replaced = std::mem::replace(&mut entry.value, value);
            state.lower_next_expiry(expires);
            return vec![replaced];
        }
        let mut removed = Vec::new();
        if state.entries.len() >= self.options.max_size {
            removed = state.take_expired(now);
        }
        if state.entries.len() >= self.options.max_size
            && let Some((_, entry)) = state.entries.pop_lru()
        {
            state.evictions += 1;
            removed.push(entry.value);
        }
        state.entries.put(key.into(), Entry { value, expires });
        // Last, because removing the expired entries recomputes `next_expiry`.
        state.lower_next_expiry(expires);
        removed
    }
}

impl<V: Clone> State<V> {
    /// The live value of a key, or else the removed expired entry, to be dropped outside the lock.
    pub(super) fn look_up(&mut self, key: &str, clock: &Clock) -> Result<V, Option<Entry<V>>> {
        // A hit hashes the key once, and reads the clock only if the entry can expire.
        let Some(entry) = self.entries.get(key) else {
            self.misses += 1;
            return Err(None);
        };
        if !entry.is_expired(|| clock.now()) {
            self.hits += 1;
            return Ok(entry.value.clone());
        }
        self.misses += 1;
        Err(self.entries.pop(key))
    }
}

impl<V> State<V> {
    fn lower_next_expiry(&mut self, expires: Option<Instant>) {
        self.next_expiry = self.next_expiry.into_iter().chain(expires).min();
    }

    /// Removes and returns the expired entries.
    fn take_expired(&mut self, now: Instant) -> Vec<V> {
        if self.next_expiry.is_none_or(|next_expiry| next_expiry > now) {
            return Vec::new();
        }
        let removed = self.take_where(|_, entry| entry.is_expired(|| now));
        self.next_expiry = self.entries.iter().filter_map(|(_, e)| e.expires).min();
        removed
    }

    pub(super) fn take_all(&mut self) -> LruCache<Box<str>, Entry<V>> {
        self.next_expiry = None;
        std::mem::replace(&mut self.entries, LruCache::unbounded())
    }

    pub(super) fn take_where(&mut self, condition: impl Fn(&str, &Entry<V>) -> bool) -> Vec<V> {
        let keys: Vec<Box<str>> = self
            .entries
            .iter()
            .filter(|(key, entry)| condition(key, entry))
            .map(|(key, _)| key.clone())
            .collect();
        keys.iter()
            .filter_map(|key| self.entries.pop(key))
            .map(|entry| entry.value)
            .collect()
    }
}

impl<V: Send + Sync + 'static> Clean for Shared<V> {
    fn clean(&self) {
        let now = self.clock.now();
        let _removed = self.lock().take_expired(now);
    }
}
