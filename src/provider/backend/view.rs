//! What readers see of a backend at one moment. Knows nothing of the current attempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{Rules, State};
use crate::provider::{Cached, ListingState, ProviderReport, View, ViewLookup};
use crate::secret::SecretName;

/// A backend's document with its times and its health.
pub(super) struct BackendView {
    state: State,
    rules: Arc<Rules>,
    source: String,
}

impl BackendView {
    pub(super) fn new(state: &State, rules: &Arc<Rules>, source: String) -> Arc<Self> {
        Arc::new(Self {
            state: state.settled(),
            rules: rules.clone(),
            source,
        })
    }
}

impl View for BackendView {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        let (state, rules) = (&self.state, &*self.rules);
        let backoff = state.backoff_left(now);
        if backoff.is_some() && !state.is_servable(rules, now) {
            return match state.settled_answer(name, rules, now) {
                Cached::Failed(error) => ViewLookup::Failed(error),
                _ => ViewLookup::Unknown,
            };
        }
        let fresh_for = |ttl: Duration| {
            let left = state.age(now).map(|age| ttl.saturating_sub(age));
            left.filter(|left| !left.is_zero()).or(backoff)
        };
        let (ttl, missing) = (rules.ttl_of(name), rules.ttl.missing);
        match state.settled_answer(name, rules, now) {
            Cached::Value(provided) => ViewLookup::Value {
                valid_for: fresh_for(ttl),
                provided,
            },
            Cached::Absent { .. } => ViewLookup::Absent {
                is_fresh: fresh_for(missing).is_some(),
                skip_for: fresh_for(ttl.max(missing)),
            },
            // The last attempt failed, and a retry is due.
            Cached::Failed(_) | Cached::Unknown => ViewLookup::Unknown,
        }
    }

    fn names(&self) -> Vec<SecretName> {
        let names = self.state.document().map(|document| document.names());
        names.into_iter().flatten().cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        let document = self.state.document();
        document.is_some_and(|document| document.get(name).is_some())
    }

    fn listing_state(&self, now: Instant) -> ListingState {
        self.state.listing_state(&self.rules, now)
    }

    fn report(&self, now: Instant) -> ProviderReport {
        self.state.report(&self.rules, &self.source, now)
    }
}
