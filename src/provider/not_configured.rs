//! Stands in the chain for a provider that is not configured: it has no keys, and its report says what to set.

use std::sync::Arc;

use super::{Provider, ProviderReport, View, ViewLookup};
use crate::clock::Instant;
use crate::secret::SecretName;

/// A provider that is not configured.
pub struct NotConfigured(Arc<Unset>);

struct Unset {
    name: &'static str,
    /// The setting that configures it.
    setting: &'static str,
}

impl NotConfigured {
    /// The provider of this name, which `setting` configures.
    pub fn new(name: &'static str, setting: &'static str) -> Self {
        Self(Arc::new(Unset { name, setting }))
    }
}

impl Provider for NotConfigured {
    fn name(&self) -> &str {
        self.0.name
    }

    fn view(&self) -> Arc<dyn View> {
        self.0.clone()
    }
}

impl View for Unset {
    fn find(&self, _name: &SecretName, _now: Instant) -> ViewLookup {
        ViewLookup::ABSENT
    }

    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn has(&self, _name: &SecretName) -> bool {
        false
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        ProviderReport {
            name: self.name.to_owned(),
            available: Some(false),
            source: format!("{} is not set", self.setting),
            undecryptable: Some(Vec::new()),
            ..ProviderReport::default()
        }
    }
}
