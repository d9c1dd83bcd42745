//! What readers see of a provider at one moment. A view ages but never changes, never waits, and touches no disk.

use std::sync::Arc;
use std::time::Duration;

use super::{KeyChange, ListingState, Provided, ProviderReport};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};

/// What a view has for a key. Where a time is `None`, the provider must be asked first; a reader that has asked it gets
/// the answer as it is.
#[derive(Debug)]
pub enum ViewLookup {
    /// The provider has it.
    Value {
        /// The value.
        provided: Provided,
        /// How long it may be served.
        valid_for: Option<Duration>,
    },
    /// The provider has no such key.
    Absent {
        /// Whether a reader may get "no such key"; else the provider must be asked first.
        is_fresh: bool,
        /// How long the chain may serve a later provider's value.
        skip_for: Option<Duration>,
    },
    /// The provider failed, and has no older answer that may be served.
    Failed {
        /// Why.
        error: Error,
        /// Whether it must be asked again first.
        must_ask: bool,
    },
    /// The provider must be asked.
    Unknown,
}

impl ViewLookup {
    /// The key is absent until the provider changes.
    pub const ABSENT: Self = ViewLookup::Absent {
        is_fresh: true,
        skip_for: Some(Duration::MAX),
    };

    /// Whether the provider must be asked before a reader gets this answer.
    pub(super) fn must_ask(&self) -> bool {
        match self {
            ViewLookup::Value { valid_for, .. } => valid_for.is_none(),
            ViewLookup::Absent { is_fresh, .. } => !is_fresh,
            ViewLookup::Failed { must_ask, .. } => *must_ask,
            ViewLookup::Unknown => true,
        }
    }
}

/// What readers see of a provider at one moment.
pub trait View: Send + Sync {
    /// Looks a key up.
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup;

    /// The names to list, sorted.
    fn names(&self) -> Vec<SecretName>;

    /// Whether the provider has the key; decrypts nothing.
    fn has(&self, name: &SecretName) -> bool;

    /// The value of a key that is not a valid [`SecretName`] (`a/b`).
    ///
    /// # Errors
    /// Why the provider cannot answer.
    fn find_by_key(&self, _key: &str, _now: Instant) -> Result<Option<SecretValue>> {
        Ok(None)
    }

    /// Whether [`names`](Self::names) is complete.
    fn listing_state(&self, _now: Instant) -> ListingState {
        ListingState::Complete
    }

    /// The state, for people.
    fn report(&self, now: Instant) -> ProviderReport;
}

/// A provider's view and its changes since the last update, all of one moment.
pub struct ProviderUpdate {
    /// The current view.
    pub view: Arc<dyn View>,
    /// What changed since the last update.
    pub changes: ProviderChanges,
}

/// What changed in a provider.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProviderChanges {
    /// The keys that others changed.
    pub keys: Vec<KeyChange>,
    /// The keys that this process wrote.
    pub own: Vec<KeyChange>,
    /// Whether the provider failed or recovered.
    pub health: bool,
    /// Whether any other value may have changed, too.
    pub any: bool,
    /// Whether the key that the values are encrypted with was replaced by a rotation.
    pub key_rotated: bool,
}
