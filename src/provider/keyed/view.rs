//! What readers see of a source that answers key by key: its last answers, and how long each is fresh.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{CachedAnswer, LastCall, Rules};
use crate::clock::Instant;
use crate::error::Error;
use crate::provider::{ProviderReport, View, ViewLookup, rfc3339};
use crate::secret::SecretName;

impl CachedAnswer {
    /// What a reader gets.
    pub(super) fn find(&self, name: &SecretName, rules: &Rules, now: Instant) -> ViewLookup {
        let age = now.saturating_duration_since(self.as_of);
        let fresh_for = |ttl: Duration| {
            let left = ttl.saturating_sub(age);
            (!left.is_zero() && !self.is_stale).then_some(left)
        };
        // Until it may be asked again, the last answer counts.
        let pause = self.retry_at.map(|at| at.saturating_duration_since(now));
        let pause = pause.filter(|pause| !pause.is_zero());
        let ttl = rules.ttl.of(name);
        let is_servable = |error: &Error| age < rules.max_stale && !error.ends_chain();
        match (&self.provided, &self.failure) {
            (Some(provided), failure)
                if failure.as_ref().is_none_or(|error| is_servable(error)) =>
            {
                ViewLookup::Value {
                    provided: provided.clone(),
                    valid_for: match failure {
                        None => fresh_for(ttl),
                        Some(_) => pause.map(|pause| pause.min(rules.max_stale - age)),
                    },
                }
            }
            (_, Some(error)) => ViewLookup::Failed {
                error: error.duplicate(),
                must_ask: pause.is_none(),
            },
            _ => ViewLookup::Absent {
                is_fresh: fresh_for(rules.ttl.missing).is_some(),
                skip_for: fresh_for(ttl.max(rules.ttl.missing)),
            },
        }
    }
}

/// The last answers of a source.
pub(super) struct KeyedView {
    pub(super) rules: Arc<Rules>,
    pub(super) answers: HashMap<SecretName, CachedAnswer>,
    pub(super) last: LastCall,
}

impl View for KeyedView {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        let answer = self.answers.get(name);
        answer.map_or(ViewLookup::Unknown, |answer| {
            answer.find(name, &self.rules, now)
        })
    }

    fn names(&self) -> Vec<SecretName> {
        self.rules.source.names()
    }

    fn has(&self, name: &SecretName) -> bool {
        let answer = self.answers.get(name);
        answer.is_some_and(|answer| answer.provided.is_some()) || self.names().contains(name)
    }

    fn report(&self, now: Instant) -> ProviderReport {
        let last = &self.last;
        let last_error = last.error.as_ref();
        let is_stale = |(name, answer): (&SecretName, &CachedAnswer)| {
            let found = answer.find(name, &self.rules, now);
            answer.failure.is_some() && matches!(found, ViewLookup::Value { .. })
        };
        ProviderReport {
            name: self.rules.source.name().to_owned(),
            configured: true,
            available: match (&last.failure, last.success) {
                (Some(_), _) => Some(false),
                (None, Some(_)) => Some(true),
                (None, None) => None,
            },
            source: self.rules.source.source(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            last_success: last.success.map(rfc3339),
            last_error: last_error.map(|(text, _)| text.clone()),
            last_error_at: last_error.map(|(_, at)| rfc3339(*at)),
            latency_ms: last.took.map(|took| took.as_micros() as f64 / 1000.0),
            stale: self.answers.iter().any(is_stale),
            undecryptable: Some(Vec::new()),
            ..ProviderReport::default()
        }
    }
}
