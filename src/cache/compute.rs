//! `get_or_set` and its variants: a missing value is computed once for all concurrent callers.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::TtlCache;
use super::singleflight::{Flight, Outcome};
use crate::sync::{self, Thread};

impl<V: Clone + Send + Sync + 'static> TtlCache<V> {
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
        block_on(self.get_or_compute(key, None, compute))
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
        block_on(self.get_or_compute(key, Some(ttl), compute))
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
        self.get_or_compute(key, None, compute).await
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
        self.get_or_compute(key, Some(ttl), compute).await
    }

    async fn get_or_compute<E, F, Fut>(
        &self,
        key: &str,
        ttl: Option<Duration>,
        compute: F,
    ) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        loop {
            let participant = match self.look_up_or_join(key) {
                Ok(value) => return Ok(value),
                Err(participant) => participant,
            };
            let leader = match participant.flight.lead().await {
                Ok(leader) => leader,
                Err(Outcome::Value(value)) => return Ok(value),
                Err(Outcome::Failure(failure)) => match failure.downcast_ref::<E>() {
                    Some(error) => return Err(error.clone()),
                    None => continue,
                },
            };
            return match compute().await {
                Ok(value) => {
                    participant.complete(&value, ttl);
                    leader.finish(Outcome::Value(value.clone()));
                    Ok(value)
                }
                Err(error) => {
                    participant.detach();
                    leader.finish(Outcome::Failure(Arc::new(error.clone())));
                    Err(error)
                }
            };
        }
    }

    /// The live value, or participation in the key's flight; under one lock, so that a flight that completes in between
    /// is not missed.
    fn look_up_or_join<'a>(&'a self, key: &'a str) -> Result<V, Participant<'a, V>> {
        let _expired;
        let mut state = self.0.lock();
        match state.look_up(key, self.0.clock()) {
            Ok(value) => return Ok(value),
            Err(expired) => _expired = expired,
        }
        let flight = state.flights.join(key);
        drop(state);
        Err(Participant {
            cache: self,
            key,
            flight,
        })
    }
}

/// A caller in a flight. Dropping it leaves the flight.
struct Participant<'a, V: Clone + Send + Sync + 'static> {
    cache: &'a TtlCache<V>,
    key: &'a str,
    flight: Arc<Flight<V>>,
}

impl<V: Clone + Send + Sync + 'static> Participant<'_, V> {
    /// Caches the value, unless the key was changed since the flight began.
    fn complete(&self, value: &V, ttl: Option<Duration>) {
        let value = value.clone();
        let shared = &self.cache.0;
        let _removed = {
            let mut state = shared.lock();
            if !state.flights.is_current(self.key, &self.flight) {
                return;
            }
            state.flights.detach(self.key);
            shared.insert_computed(&mut state, self.key, value, ttl)
        };
    }

    /// Lets no new caller join this flight.
    fn detach(&self) {
        let mut state = self.cache.0.lock();
        if state.flights.is_current(self.key, &self.flight) {
            state.flights.detach(self.key);
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Participant<'_, V> {
    fn drop(&mut self) {
        let mut state = self.cache.0.lock();
        state.flights.leave(self.key, &self.flight);
    }
}

/// Runs a future on this thread, without a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(sync::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => sync::park(),
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
#[cfg(test)]
mod tests;
