//! A missing value is computed once for all concurrent callers. Does not know when an entry expires.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::singleflight::{Flight, Outcome};
use super::state::Shared;
use crate::sync::{self, Thread};

/// The live value of a key, or the one that the first of all concurrent callers computes. `None`: the default time to live.
pub(super) async fn get_or_compute<V, E, F, Fut>(
    shared: &Shared<V>,
    key: &str,
    ttl: Option<Duration>,
    compute: F,
) -> Result<V, E>
where
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<V, E>>,
{
    loop {
        let participant = match look_up_or_join(shared, key) {
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
fn look_up_or_join<'a, V: Clone>(
    shared: &'a Shared<V>,
    key: &'a str,
) -> Result<V, Participant<'a, V>> {
    let _expired;
    let mut state = shared.lock();
    match state.look_up(key, &shared.clock) {
        Ok(value) => return Ok(value),
        Err(expired) => _expired = expired,
    }
    let flight = state.flights.join(key);
    drop(state);
    Err(Participant {
        shared,
        key,
        flight,
    })
}

/// A caller in a flight. Dropping it leaves the flight.
struct Participant<'a, V> {
    shared: &'a Shared<V>,
    key: &'a str,
    flight: Arc<Flight<V>>,
}

impl<V: Clone> Participant<'_, V> {
    /// Caches the value, unless the key was changed since the flight began.
    fn complete(&self, value: &V, ttl: Option<Duration>) {
        let value = value.clone();
        let shared = self.shared;
        let _removed = {
            let mut state = shared.lock();
            if !state.flights.is_current(self.key, &self.flight) {
                return;
            }
            state.flights.detach(self.key);
            shared.insert(&mut state, self.key, value, ttl)
        };
    }

    /// Lets no new caller join this flight.
    fn detach(&self) {
        let mut state = self.shared.lock();
        if state.flights.is_current(self.key, &self.flight) {
            state.flights.detach(self.key);
        }
    }
}

impl<V> Drop for Participant<'_, V> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.flights.leave(self.key, &self.flight);
    }
}

/// Runs a future on this thread, without a runtime.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
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
