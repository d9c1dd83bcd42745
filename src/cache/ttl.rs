//! The cache itself: each entry has a time to live, and a full cache evicts the least recently used entry. Does not
//! know how a missing value is computed.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;

use super::cleaner::{Clean, Cleaner};
use super::clock::Clock;
use super::singleflight::Flights;
use super::{CacheOptions, CacheStats};
use crate::clock::Instant;
use crate::sync::{Mutex, MutexGuard};

/// A thread-safe cache from texts to `V`. Clones share the same cache.
///
/// A look-up clones the value while the cache is locked, so a large `V` belongs into an `Arc`. Values are dropped
/// outside the lock. A change of a key (`set`, `delete`, `clear`, `invalidate_prefix`) wins over a running computation
/// of it: see [`get_or_set`](Self::get_or_set).
pub struct TtlCache<V>(pub(super) Arc<Shared<V>>);

pub(super) struct Shared<V> {
    options: CacheOptions,
    clock: Clock,
    // std's mutex: held for some dozen nanoseconds, never across a call to anything but `V::clone`.
    state: Mutex<State<V>>,
    cleaner: OnceLock<Cleaner>,
}

pub(super) struct State<V> {
    // Unbounded, because a full cache evicts its expired entries before the least recently used one.
    entries: LruCache<Box<str>, Entry<V>>,
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
    expires: Option<Instant>,
}

impl<V> Entry<V> {
    fn is_expired(&self, now: impl FnOnce() -> Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

impl<V> Clone for TtlCache<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> fmt::Debug for TtlCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TtlCache")
            .field("size", &self.0.lock().entries.len())
            .field("options", &self.0.options)
            .finish()
    }
}

impl<V: Clone + Send + Sync + 'static> TtlCache<V> {
    /// An empty cache. A cleanup interval needs the shared cleaner thread, which a forked process does not inherit.
    pub fn new(options: CacheOptions) -> Self {
        Self::with_clock(options, Clock::System)
    }

    pub(super) fn with_clock(options: CacheOptions, clock: Clock) -> Self {
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
        Self(shared)
    }

    /// The live value of a key, which becomes the most recently used. Removes an expired entry.
    pub fn get(&self, key: &str) -> Option<V> {
        let looked_up = self.0.lock().look_up(key, &self.0.clock);
        looked_up.ok()
    }

    /// How long the value of a key still lives; [`Duration::MAX`]: for ever. Does not count as a look-up or as a use.
    pub fn ttl_left(&self, key: &str) -> Option<Duration> {
        let state = self.0.lock();
        let entry = state.entries.peek(key)?;
        let Some(expires) = entry.expires else {
            return Some(Duration::MAX);
        };
        let left = expires.saturating_duration_since(self.0.clock.now());
        (!left.is_zero()).then_some(left)
    }

    /// Sets a key for the default time to live.
    pub fn set(&self, key: &str, value: V) {
        self.set_with_ttl(key, value, self.0.options.default_ttl);
    }

    /// Sets a key for this time to live; [`Duration::MAX`]: for ever.
    pub fn set_with_ttl(&self, key: &str, value: V, ttl: Duration) {
        let _removed = {
            let mut state = self.0.lock();
            state.flights.detach(key);
            self.0.insert(&mut state, key, value, ttl)
        };
    }

    /// Removes a key; returns whether there was an entry, even an expired one.
    pub fn delete(&self, key: &str) -> bool {
        let removed = {
            let mut state = self.0.lock();
            state.flights.detach(key);
            state.entries.pop(key)
        };
        removed.is_some()
    }

    /// Removes all entries; returns how many there were.
    pub fn clear(&self) -> usize {
        let removed = {
            let mut state = self.0.lock();
            state.flights.detach_prefix("");
            state.next_expiry = None;
            std::mem::replace(&mut state.entries, LruCache::unbounded())
        };
        removed.len()
    }

    /// Removes all entries whose keys begin with `prefix`; returns how many there were.
    pub fn invalidate_prefix(&self, prefix: &str) -> usize {
        let removed = {
            let mut state = self.0.lock();
            state.flights.detach_prefix(prefix);
            state.take_where(|key, _| key.starts_with(prefix))
        };
        removed.len()
    }

    /// The statistics.
    pub fn stats(&self) -> CacheStats {
        let now = self.0.clock.now();
        let state = self.0.lock();
        let entries = state.entries.iter();
        let expired_count = entries
            .filter(|(_, entry)| entry.is_expired(|| now))
            .count();
        let (hits, misses) = (state.hits, state.misses);
        CacheStats {
            size: state.entries.len(),
            max_size: self.0.options.max_size,
            expired_count,
            default_ttl: self.0.options.default_ttl.as_secs_f64(),
            hits,
            misses,
            evictions: state.evictions,
            hit_rate: match hits + misses {
                0 => 0.0,
                lookups => hits as f64 / lookups as f64,
            },
        }
    }

    /// The number of entries, expired ones included.
    pub fn len(&self) -> usize {
        self.0.lock().entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V> Shared<V> {
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock()
    }

    /// Sets a key, for the default time to live unless another is given. Returns the removed values, to be dropped
    /// outside the lock.
    #[must_use]
    pub(super) fn insert_computed(
        &self,
        state: &mut State<V>,
        key: &str,
        value: V,
        ttl: Option<Duration>,
    ) -> Vec<V> {
        self.insert(state, key, value, ttl.unwrap_or(self.options.default_ttl))
    }

    #[must_use]
    fn insert(&self, state: &mut State<V>, key: &str, value: V, ttl: Duration) -> Vec<V> {
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
            state.note_expiry(expires);
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
        state.note_expiry(expires);
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
    fn note_expiry(&mut self, expires: Option<Instant>) {
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

    fn take_where(&mut self, condition: impl Fn(&str, &Entry<V>) -> bool) -> Vec<V> {
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

#[cfg(test)]
mod tests;
