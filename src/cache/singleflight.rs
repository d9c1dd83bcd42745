//! Single flight: one computation for all callers of a key. One caller leads and computes, the others wait; if the
//! leader panics or is cancelled, the next one leads. Knows no cache.
//!
//! Not built on tokio's locks, because threads and tasks wait here side by side, under any runtime or none.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// The running flights, by key.
pub(super) struct Flights<V>(HashMap<Box<str>, (Arc<Flight<V>>, usize)>);

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> Flights<V> {
    /// Joins the key's flight, or starts one. Each `join` needs one `leave`.
    pub(super) fn join(&mut self, key: &str) -> Arc<Flight<V>> {
        if let Some((flight, participants)) = self.0.get_mut(key) {
            *participants += 1;
            return flight.clone();
        }
        let flight = Arc::new(Flight(Mutex::new(Inner {
            has_leader: false,
            outcome: None,
            waiting: BTreeMap::new(),
            next: 0,
        })));
        self.0.insert(key.into(), (flight.clone(), 1));
        flight
    }

    /// Leaves a flight. The last participant removes it, unless it was detached before.
    pub(super) fn leave(&mut self, key: &str, flight: &Arc<Flight<V>>) {
        if let Some((current, participants)) = self.0.get_mut(key)
            && Arc::ptr_eq(current, flight)
        {
            *participants -= 1;
            if *participants == 0 {
                self.0.remove(key);
            }
        }
    }

    /// Whether new callers still join this flight. If not, its value is outdated.
    pub(super) fn is_current(&self, key: &str, flight: &Arc<Flight<V>>) -> bool {
        let current = self.0.get(key);
        current.is_some_and(|(current, _)| Arc::ptr_eq(current, flight))
    }

    /// Lets no new caller join the key's flight.
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
            .is_some_and(|(flight, _)| flight.0.lock().has_leader)
    }

    #[cfg(test)]
    pub(super) fn participants(&self, key: &str) -> usize {
        self.0.get(key).map_or(0, |(_, participants)| *participants)
    }
}

/// The error of a computation; its waiters know its type.
pub(super) type Failure = Arc<dyn Any + Send + Sync>;

/// The outcome of a flight, for all its participants.
#[derive(Clone)]
pub(super) enum Outcome<V> {
    Value(V),
    Failure(Failure),
}

/// One flight: at most one participant computes at a time, until one of them has an outcome for all.
pub(super) struct Flight<V>(Mutex<Inner<V>>);

struct Inner<V> {
    has_leader: bool,
    outcome: Option<Outcome<V>>,
    /// By order of arrival.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl<V> Flight<V> {
    /// Waits for the outcome, or for this caller's turn to lead.
    pub(super) fn lead(self: &Arc<Self>) -> WaitToLead<V> {
        WaitToLead {
            flight: self.clone(),
            position: None,
        }
    }

    /// Wakes the waiters that can continue: all of them if there is an outcome, else the first.
    fn wake(&self) {
        let mut inner = self.0.lock();
        if inner.outcome.is_some() {
            let waiting = std::mem::take(&mut inner.waiting);
            drop(inner);
            waiting.into_values().for_each(Waker::wake);
        } else if !inner.has_leader
            && let Some((_, waker)) = inner.waiting.pop_first()
        {
            drop(inner);
            waker.wake();
        }
    }
}

pub(super) struct WaitToLead<V> {
    flight: Arc<Flight<V>>,
    /// Set once it has had to wait.
    position: Option<u64>,
}

impl<V: Clone> Future for WaitToLead<V> {
    type Output = Result<LeaderGuard<V>, Outcome<V>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut inner = this.flight.0.lock();
        if let Some(outcome) = &inner.outcome {
            return Poll::Ready(Err(outcome.clone()));
        }
        if inner.has_leader {
            let position = *this.position.get_or_insert(inner.next);
            inner.next = inner.next.max(position + 1);
            inner.waiting.insert(position, context.waker().clone());
            return Poll::Pending;
        }
        inner.has_leader = true;
        if let Some(position) = this.position.take() {
            inner.waiting.remove(&position);
        }
        Poll::Ready(Ok(LeaderGuard(this.flight.clone())))
    }
}

impl<V> Drop for WaitToLead<V> {
    fn drop(&mut self) {
        if let Some(position) = self.position
            && self.flight.0.lock().waiting.remove(&position).is_none()
        {
            // It was woken but is cancelled, so the next waiter must be woken instead.
            self.flight.wake();
        }
    }
}

/// The right to compute. If it is dropped without an outcome (a panic, or a cancelled task), the next waiter leads.
pub(super) struct LeaderGuard<V>(Arc<Flight<V>>);

impl<V> LeaderGuard<V> {
    pub(super) fn finish(self, outcome: Outcome<V>) {
        self.0.0.lock().outcome = Some(outcome);
    }
}

impl<V> Drop for LeaderGuard<V> {
    fn drop(&mut self) {
        self.0.0.lock().has_leader = false;
        self.0.wake();
    }
}
