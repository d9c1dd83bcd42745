//! What is held of a backend at one moment, for readers who cannot wait. Knows nothing of attempts that are under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{Rules, State};
use crate::provider::{Held, ProviderReport, Standing, View, Viewed};
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
    fn find(&self, name: &SecretName, now: Instant) -> Viewed {
        let (state, rules) = (&self.state, &*self.rules);
        let spared = state.spared_for(now);
        if spared.is_some() && !state.is_usable(rules, now) {
            return match state.answer(name, rules, now) {
                Held::Failed(error) => Viewed::Failed(error),
                _ => Viewed::Unknown,
            };
        }
        let good_for = |ttl: Duration| {
            let left = state.age(now).map(|age| ttl.saturating_sub(age));
            left.filter(|left| !left.is_zero()).or(spared)
        };
        let (ttl, missing) = (rules.ttl_of(name), rules.ttl.missing);
        match state.answer(name, rules, now) {
            Held::Value(provided) => Viewed::Value {
                valid_for: good_for(ttl),
                provided,
            },
            Held::Absent { .. } => Viewed::Absent {
                is_answer: good_for(missing).is_some(),
                passed_for: good_for(ttl.max(missing)),
            },
            // After a failure that is worth another try.
            Held::Failed(_) | Held::Unknown => Viewed::Unknown,
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

    fn standing(&self, now: Instant) -> Standing {
        self.state.standing(&self.rules, now)
    }

    fn report(&self, now: Instant) -> ProviderReport {
        self.state.report(&self.rules, &self.source, now)
    }
}
