//! What readers see of a provider at one moment. A view ages but never changes, never waits, and touches no disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Changes, KeyChange, ListingState, Provided, ProviderReport};
use crate::error::Error;
use crate::secret::SecretName;

/// What a view has for a key.
#[derive(Debug)]
pub enum ViewLookup {
    /// The provider has it.
    Value {
        /// The value.
        provided: Provided,
        /// How long it may be served; `None`: the provider must be asked first.
        valid_for: Option<Duration>,
    },
    /// The provider has no such key.
    Absent {
        /// Whether that is fresh; else the provider must be asked before a reader is told "no such key".
        is_fresh: bool,
        /// How long the chain may serve a later provider's value; `None`: this provider must be asked first.
        skip_for: Option<Duration>,
    },
    /// The provider failed, and has no older answer that may be served.
    Failed(Error),
    /// The provider must be asked.
    Unknown,
}

impl ViewLookup {
    /// The key is absent until the provider changes.
    pub const ABSENT: Self = ViewLookup::Absent {
        is_fresh: true,
        skip_for: Some(Duration::MAX),
    };
}

/// What readers see of a provider at one moment.
pub trait View: Send + Sync {
    /// Looks a key up.
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup;

    /// The names to list, sorted.
    fn names(&self) -> Vec<SecretName>;

    /// Whether the provider has the key; decrypts nothing.
    fn has(&self, name: &SecretName) -> bool;

    /// Whether [`names`](Self::names) is complete.
    fn listing_state(&self, now: Instant) -> ListingState;

    /// The state, for people.
    fn report(&self, now: Instant) -> ProviderReport;
}

/// A provider's view and its changes since the last update, all of one moment.
pub struct ProviderUpdate {
    /// The current view; `None` for a provider that can only be asked key by key.
    pub view: Option<Arc<dyn View>>,
    /// What other programs changed.
    pub changes: Changes,
    /// What this process wrote.
    pub own_writes: Vec<KeyChange>,
}

impl ProviderUpdate {
    /// The update of a provider that never changes.
    pub(super) fn unchanged(view: Arc<dyn View>) -> Self {
        Self {
            view: Some(view),
            changes: Changes::None,
            own_writes: Vec::new(),
        }
    }
}
