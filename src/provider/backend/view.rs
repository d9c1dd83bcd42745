//! What readers see of a backend at one moment. Knows nothing of the current attempt.

use std::sync::Arc;
use std::time::Instant;

use super::state::{Rules, State};
use crate::error::Result;
use crate::provider::{ListingState, ProviderReport, View, ViewLookup};
use crate::secret::{SecretName, SecretValue};

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
        self.state.find(name, &self.rules, now)
    }

    fn find_by_key(&self, key: &str, now: Instant) -> Result<Option<SecretValue>> {
        match self.listing_state(now) {
            ListingState::Failed(error) => Err(error),
            _ => {
                let document = self.state.document();
                Ok(document.and_then(|document| document.get_by_key(key).cloned()))
            }
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
