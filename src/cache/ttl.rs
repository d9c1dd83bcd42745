//! The cache that users hold: look up, set, compute, invalidate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::compute::{block_on, get_or_compute};
use super::state::Shared;
use super::{CacheOptions, CacheStats};

/// A thread-safe cache from texts to `V`. Clones share the same cache.
///
/// A look-up clones the value while the cache is locked, so a large `V` belongs in an `Arc`. Values are dropped
/// outside the lock. A change of a key (`set`, `delete`, `clear`, `invalidate_prefix`) wins over a running computation
/// of it: see [`get_or_set`](Self::get_or_set).
pub struct TtlCache<V>(pub(super) Arc<Shared<V>>);

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
        Self(Shared::new(options, clock))
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

    /// The live value of a key. If there is none, computes it and caches it for the default time to live. Concurrent
    /// callers, threads and tasks alike ([`get_or_set_async`](Self::get_or_set_async)), wait and get the same value.
    ///
    /// - If the computation fails, all waiters with the same error type get a clone of the error, and one with another
    ///   error type computes for itself: a thousand callers of a dead backend call it once. Later callers compute
    ///   again.
    /// - If it panics, the longest waiting caller computes next.
    /// - If the key is set, deleted or invalidated meanwhile, the waiters get the value, but it is not cached; later
    ///   callers compute again.
    /// - `compute` must not ask for its own key: it would wait for itself. A task should use the asynchronous form,
    ///   because this one blocks its thread.
    ///
    /// # Errors
    /// The error of `compute`, or of the computation that this caller waited for.
    pub fn get_or_set<E: Clone + Send + Sync + 'static>(
        &self,
        key: &str,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let compute = || std::future::ready(compute());
        block_on(get_or_compute(&self.0, key, None, compute))
    }

    /// [`get_or_set`](Self::get_or_set) with a time to live for a computed value.
    ///
    /// # Errors
    /// The error of `compute`, or of the computation that this caller waited for.
    pub fn get_or_set_with_ttl<E: Clone + Send + Sync + 'static>(
        &self,
        key: &str,
        ttl: Duration,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let compute = || std::future::ready(compute());
        block_on(get_or_compute(&self.0, key, Some(ttl), compute))
    }

    /// [`get_or_set`](Self::get_or_set) for tasks of any runtime. If the future is dropped while it computes, the
    /// longest waiting caller computes next.
    ///
    /// # Errors
    /// The error of `compute`, or of the computation that this caller waited for.
    pub async fn get_or_set_async<E, F, Fut>(&self, key: &str, compute: F) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        get_or_compute(&self.0, key, None, compute).await
    }

    /// [`get_or_set_async`](Self::get_or_set_async) with a time to live for a computed value.
    ///
    /// # Errors
    /// The error of `compute`, or of the computation that this caller waited for.
    pub async fn get_or_set_async_with_ttl<E, F, Fut>(
        &self,
        key: &str,
        ttl: Duration,
        compute: F,
    ) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        get_or_compute(&self.0, key, Some(ttl), compute).await
    }

    /// Sets a key for the default time to live.
    pub fn set(&self, key: &str, value: V) {
        self.insert(key, value, None);
    }

    /// Sets a key for this time to live; [`Duration::MAX`]: for ever.
    pub fn set_with_ttl(&self, key: &str, value: V, ttl: Duration) {
        self.insert(key, value, Some(ttl));
    }

    fn insert(&self, key: &str, value: V, ttl: Option<Duration>) {
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
            state.take_all()
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
        self.0.stats()
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

#[cfg(test)]
mod tests;
