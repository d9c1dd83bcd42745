//! Stands in the chain for a provider that is not configured: it has no keys, and its report says what to set.

use std::sync::Arc;
use std::time::Instant;

use super::{
    Cached, ListingState, Provided, Provider, ProviderReport, ProviderUpdate, View, ViewLookup,
};
use crate::error::Result;
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

    fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
        Ok(None)
    }

    fn cached(&self, _name: &SecretName) -> Cached {
        Cached::from_result(Ok(None))
    }

    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn take_update(&self) -> ProviderUpdate {
        ProviderUpdate::unchanged(self.0.clone())
    }

    fn report(&self) -> ProviderReport {
        self.0.report(Instant::now())
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

    fn listing_state(&self, _now: Instant) -> ListingState {
        ListingState::Complete
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        ProviderReport {
            name: self.name.to_owned(),
            source: format!("{} is not set", self.setting),
            ..ProviderReport::default()
        }
    }
}
