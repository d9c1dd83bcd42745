//! One computation for all who want the same key: who computes, who waits, and who takes over when a computation came to
//! nothing. Knows no cache.
//!
//! Made by hand rather than from tokio's locks because threads and tasks wait here side by side, under any runtime or none.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// The flights under way, by key.
pub(super) struct Flights<V>(HashMap<Box<str>, (Arc<Flight<V>>, usize)>);

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> Flights<V> {
    /// The key's flight, begun if there is none. To be followed by one `leave`.
    pub(super) fn join(&mut self, key: &str) -> Arc<Flight<V>> {
        if let Some((flight, members)) = self.0.get_mut(key) {
            *members += 1;
            return flight.clone();
        }
        let flight = Arc::new(Flight(Mutex::new(Inner {
            busy: false,
            outcome: None,
            waiting: BTreeMap::new(),
            next: 0,
        })));
        self.0.insert(key.into(), (flight.clone(), 1));
        flight
    }

    /// One member less; with the last the flight goes too, unless it was detached before.
    pub(super) fn leave(&mut self, key: &str, flight: &Arc<Flight<V>>) {
        if let Some((held, members)) = self.0.get_mut(key)
            && Arc::ptr_eq(held, flight)
        {
            *members -= 1;
            if *members == 0 {
                self.0.remove(key);
            }
        }
    }

    /// Whether those who ask for the key now still join this flight. If not, its value is of the past.
    pub(super) fn is_current(&self, key: &str, flight: &Arc<Flight<V>>) -> bool {
        let held = self.0.get(key);
        held.is_some_and(|(held, _)| Arc::ptr_eq(held, flight))
    }

    /// Lets nobody join the key's flight any more.
    pub(super) fn detach(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.remove(key);
        }
    }

    /// The same for all keys that begin with `prefix`.
    pub(super) fn detach_prefix(&mut self, prefix: &str) {
        self.0.retain(|key, _| !key.starts_with(prefix));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn is_computing(&self, key: &str) -> bool {
        self.0
            .get(key)
            .is_some_and(|(flight, _)| flight.lock().busy)
    }

    #[cfg(test)]
    pub(super) fn members(&self, key: &str) -> usize {
        self.0.get(key).map_or(0, |(_, members)| *members)
    }
}

/// An error of a type that its waiters know.
pub(super) type Failure = Arc<dyn Any + Send + Sync>;

/// How a flight ended for all its members.
#[derive(Clone)]
pub(super) enum Outcome<V> {
    Value(V),
    Failure(Failure),
}

/// One round of one key: its members compute in turn, never two at once, until one has an outcome for all.
pub(super) struct Flight<V>(Mutex<Inner<V>>);

struct Inner<V> {
    busy: bool,
    outcome: Option<Outcome<V>>,
    /// By order of arrival.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl<V> Flight<V> {
    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for the outcome, or else for the turn to compute.
    pub(super) fn turn(self: &Arc<Self>) -> Waiting<V> {
        Waiting {
            flight: self.clone(),
            place: None,
        }
    }

    /// Wakes whoever can go on now: all if there is an outcome, else the one who came first.
    fn wake(&self) {
        let mut inner = self.lock();
        if inner.outcome.is_some() {
            let waiting = std::mem::take(&mut inner.waiting);
            drop(inner);
            waiting.into_values().for_each(Waker::wake);
        } else if !inner.busy
            && let Some((_, waker)) = inner.waiting.pop_first()
        {
            drop(inner);
            waker.wake();
        }
    }
}

pub(super) struct Waiting<V> {
    flight: Arc<Flight<V>>,
    /// Once it has had to wait.
    place: Option<u64>,
}

impl<V: Clone> Future for Waiting<V> {
    type Output = Result<Turn<V>, Outcome<V>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut inner = this.flight.lock();
        if let Some(outcome) = &inner.outcome {
            return Poll::Ready(Err(outcome.clone()));
        }
        if inner.busy {
            let place = *this.place.get_or_insert(inner.next);
            inner.next = inner.next.max(place + 1);
            inner.waiting.insert(place, context.waker().clone());
            return Poll::Pending;
        }
        inner.busy = true;
        if let Some(place) = this.place.take() {
            inner.waiting.remove(&place);
        }
        Poll::Ready(Ok(Turn(this.flight.clone())))
    }
}

impl<V> Drop for Waiting<V> {
    fn drop(&mut self) {
        if let Some(place) = self.place
            && self.flight.lock().waiting.remove(&place).is_none()
        {
            // It was woken and will not go on, so the next must be.
            self.flight.wake();
        }
    }
}

/// The right to compute. Dropped without an outcome (the computation failed, panicked or was cancelled), it goes to the
/// next.
pub(super) struct Turn<V>(Arc<Flight<V>>);

impl<V> Turn<V> {
    pub(super) fn end(self, outcome: Outcome<V>) {
        self.0.lock().outcome = Some(outcome);
    }
}

impl<V> Drop for Turn<V> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.wake();
    }
}
