//! Pending retries: threads that got ESTALE, and what their second lookup is for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Place;

/// How long a thread may take for its second lookup.
const LIFETIME: Duration = Duration::from_secs(60);
/// The same for callers of another pid namespace, who share the number 0.
const UNSEEN_LIFETIME: Duration = Duration::from_secs(1);
/// With more retries than this, expired ones are dropped.
const MANY: usize = 1000;

/// What a thread was sent round for.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// To write; else to read.
    pub to_write: bool,
    at: Instant,
}

impl Retry {
    fn is_over(&self, tid: u32) -> bool {
        let lifetime = match tid {
            0 => UNSEEN_LIFETIME,
            _ => LIFETIME,
        };
        self.at.elapsed() >= lifetime
    }
}

/// The name under which a retry counts for every name.
pub(super) fn anywhere() -> Place {
    Place::new(0, "")
}

/// The pending retries, by thread and name.
#[derive(Default)]
pub(super) struct Retries(HashMap<(u32, Place), Retry>);

impl Retries {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put(&mut self, tid: u32, place: Place, to_write: bool) {
        if self.0.len() >= MANY {
            self.0.retain(|(tid, _), retry| !retry.is_over(*tid));
        }
        let at = Instant::now();
        self.0.insert((tid, place), Retry { to_write, at });
    }

    /// What a thread was sent round for, under this name or any.
    pub(super) fn find(&self, tid: u32, place: &Place) -> Option<Retry> {
        if self.0.is_empty() {
            return None;
        }
        let retry = |place| self.0.get(&(tid, place));
        let retry = retry(place.clone()).or_else(|| retry(anywhere()))?;
        (!retry.is_over(tid)).then_some(*retry)
    }

    /// Ends a retry; whether there was one. Callers who share the number 0 share their retries, which expire.
    pub(super) fn remove(&mut self, tid: u32, place: &Place) -> bool {
        tid != 0 && !self.0.is_empty() && self.0.remove(&(tid, place.clone())).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Place, bool)> {
        let retries = self.0.iter();
        retries.map(|((tid, place), retry)| (*tid, place, retry.to_write))
    }
}
