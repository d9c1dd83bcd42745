//! The place in the chain of a provider that the settings do not name: it has nothing, and says what to set.

use super::{Held, Provided, Provider, ProviderReport};
use crate::error::Result;
use crate::secret::SecretName;

/// A provider that is not set.
pub struct NotConfigured {
    name: &'static str,
    /// What would set it.
    setting: &'static str,
}

impl NotConfigured {
    /// The provider of this name, which this setting would bring to life.
    pub fn new(name: &'static str, setting: &'static str) -> Self {
        Self { name, setting }
    }
}

impl Provider for NotConfigured {
    fn name(&self) -> &str {
        self.name
    }

    fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
        Ok(None)
    }

    fn held(&self, _name: &SecretName) -> Held {
        Held::of(Ok(None))
    }

    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn report(&self) -> ProviderReport {
        ProviderReport {
            name: self.name.to_owned(),
            source: format!("{} is not set", self.setting),
            ..ProviderReport::default()
        }
    }
}
