//! `get_or_set` and its sisters: a missing value is computed once, whoever and however many ask for it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use super::TtlCache;
use super::flight::{Flight, Outcome};

impl<V: Clone + Send + Sync + 'static> TtlCache<V> {
    /// The live value of a key, else the one that `compute` gives, which is set for the default time to live. Threads
    /// (and tasks, see [`get_or_set_async`](Self::get_or_set_async)) that ask meanwhile wait and get the same value.
    ///
    /// - A computation that fails gives a clone of its error to all who waited for it (of the same error type; another
    ///   computes for itself): a thousand callers of a dead backend call it once. Who asks after that computes anew.
    /// - After one that panics, of those who wait the one who came first computes next.
    /// - A value that was computed while its key was set, deleted or invalidated goes to those who waited for it and is
    ///   not cached; who asks after that gets a new computation.
    /// - `compute` must not ask for its own key: it would wait for itself. And a task should use the asynchronous form,
    ///   because this one holds up its thread.
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

    /// [`get_or_set`](Self::get_or_set) with a time to live of its own for a value that is computed.
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

    /// [`get_or_set`](Self::get_or_set) for tasks of any runtime. When the future is dropped while it computes, the one
    /// who waits longest computes next.
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

    /// [`get_or_set_async`](Self::get_or_set_async) with a time to live of its own for a value that is computed.
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
            let member = match self.look_up_or_join(key) {
                Ok(value) => return Ok(value),
                Err(member) => member,
            };
            let turn = match member.flight.turn().await {
                Ok(turn) => turn,
                Err(Outcome::Value(value)) => return Ok(value),
                Err(Outcome::Failure(failure)) => match failure.downcast_ref::<E>() {
                    Some(error) => return Err(error.clone()),
                    None => continue,
                },
            };
            return match compute().await {
                Ok(value) => {
                    member.land(&value, ttl);
                    turn.end(Outcome::Value(value.clone()));
                    Ok(value)
                }
                Err(error) => {
                    member.detach();
                    turn.end(Outcome::Failure(Arc::new(error.clone())));
                    Err(error)
                }
            };
        }
    }

    /// The live value, or membership in the key's flight: in one step, so that a flight that lands in between is not
    /// missed.
    fn look_up_or_join<'a>(&'a self, key: &'a str) -> Result<V, Member<'a, V>> {
        let _expired;
        let mut state = self.0.lock();
        match state.look_up(key, self.0.clock()) {
            Ok(value) => return Ok(value),
            Err(expired) => _expired = expired,
        }
        let flight = state.flights.join(key);
        drop(state);
        Err(Member {
            cache: self,
            key,
            flight,
        })
    }
}

/// A caller in a flight; leaves it when dropped.
struct Member<'a, V: Clone + Send + Sync + 'static> {
    cache: &'a TtlCache<V>,
    key: &'a str,
    flight: Arc<Flight<V>>,
}

impl<V: Clone + Send + Sync + 'static> Member<'_, V> {
    /// Caches the value, unless something has happened to the key since.
    fn land(&self, value: &V, ttl: Option<Duration>) {
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

    /// Who asks from now on does not join this flight.
    fn detach(&self) {
        let mut state = self.cache.0.lock();
        if state.flights.is_current(self.key, &self.flight) {
            state.flights.detach(self.key);
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Member<'_, V> {
    fn drop(&mut self) {
        let mut state = self.cache.0.lock();
        state.flights.leave(self.key, &self.flight);
    }
}

/// Runs a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests;
