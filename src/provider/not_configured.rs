//! The place in the chain of a provider that the settings do not name: it has nothing, and says what to set.

use std::sync::Arc;
use std::time::Instant;

use super::{Held, News, Provided, Provider, ProviderReport, Standing, View, Viewed};
use crate::error::Result;
use crate::secret::SecretName;

/// A provider that is not set.
pub struct NotConfigured(Arc<Unset>);

struct Unset {
    name: &'static str,
    /// What would set it.
    setting: &'static str,
}

impl NotConfigured {
    /// The provider of this name, which this setting would bring to life.
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

    fn held(&self, _name: &SecretName) -> Held {
        Held::of(Ok(None))
    }

    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn take_news(&self) -> News {
        News::none(self.0.clone())
    }

    fn report(&self) -> ProviderReport {
        self.0.report(Instant::now())
    }
}

impl View for Unset {
    fn find(&self, _name: &SecretName, _now: Instant) -> Viewed {
        Viewed::ABSENT
    }

    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn has(&self, _name: &SecretName) -> bool {
        false
    }

    fn standing(&self, _now: Instant) -> Standing {
        Standing::Whole
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        ProviderReport {
            name: self.name.to_owned(),
            source: format!("{} is not set", self.setting),
            ..ProviderReport::default()
        }
    }
}
