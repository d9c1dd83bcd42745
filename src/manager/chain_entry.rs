//! One provider in the chain, and whether it is known to be down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Event;
use crate::clock::Instant;
use crate::error::Error;
use crate::provider::{Provider, View};

/// One provider in the chain.
pub(super) struct ChainEntry {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) name: Arc<str>,
    /// Whether the last event was `provider_down`.
    is_down: AtomicBool,
}

impl ChainEntry {
    pub(super) fn new(provider: Arc<dyn Provider>) -> Self {
        Self {
            name: provider.name().into(),
            provider,
            is_down: AtomicBool::new(false),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// The event, if the provider has failed or recovered since the last one.
    pub(super) fn check_health(&self, view: &Arc<dyn View>) -> Option<Event> {
        let report = view.report(Instant::now());
        let is_down = report.configured && report.available == Some(false);
        let was_down = self.is_down.swap(is_down, Ordering::Relaxed);
        let event = match (was_down, is_down) {
            (false, true) => "provider_down",
            (true, false) => "provider_up",
            _ => return None,
        };
        Some(Event::new(event, None, Some(&self.name)))
    }
}

/// Adds a provider's failure to those of a key.
pub(super) fn add_failure(failure: &mut Option<Error>, provider: &str, name: &str, error: &Error) {
    let reason = error.reason();
    match failure {
        Some(Error::ProviderFailed { others, .. }) => others.push((provider.to_owned(), reason)),
        _ => {
            *failure = Some(Error::ProviderFailed {
                name: name.to_owned(),
                provider: provider.to_owned(),
                reason,
                others: Vec::new(),
            });
        }
    }
}
