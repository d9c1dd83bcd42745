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

/// The error for a key whose provider failed.
pub(super) fn provider_failed(provider: &str, name: &str, error: &Error) -> Error {
    Error::ProviderFailed {
        name: name.to_owned(),
        provider: provider.to_owned(),
        reason: error.reason(),
    }
}
