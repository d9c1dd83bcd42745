//! What a provider held at one moment. It never changes but for the passing of time, never waits, and touches no disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{NameChange, Provided, ProviderReport, Refreshed, Standing};
use crate::error::Error;
use crate::secret::SecretName;

/// What a view can say of a key.
#[derive(Debug)]
pub enum Viewed {
    /// The provider has it.
    Value {
        /// The value.
        provided: Provided,
        /// For how long it may be served; `None`: the provider must be asked first.
        valid_for: Option<Duration>,
    },
    /// The provider has no such key.
    Absent {
        /// Whether that answers "no such key"; else the provider must be asked first.
        is_answer: bool,
        /// For how long a provider further down the chain may be believed; `None`: this one must be asked first.
        passed_for: Option<Duration>,
    },
    /// The provider failed, and holds nothing that may be served.
    Failed(Error),
    /// The provider must be asked.
    Unknown,
}

impl Viewed {
    /// The key's absence, for as long as nothing changes.
    pub const ABSENT: Self = Viewed::Absent {
        is_answer: true,
        passed_for: Some(Duration::MAX),
    };
}

/// A provider's state at one moment.
pub trait View: Send + Sync {
    /// What can be said of a key.
    fn find(&self, name: &SecretName, now: Instant) -> Viewed;

    /// The keys to list, in order.
    fn names(&self) -> Vec<SecretName>;

    /// Whether the provider has the key; decrypts nothing.
    fn has(&self, name: &SecretName) -> bool;

    /// What can be said of all keys together.
    fn standing(&self, now: Instant) -> Standing;

    /// The state, for people.
    fn report(&self, now: Instant) -> ProviderReport;
}

/// What became of a provider since it was last asked for its news; all of one moment.
pub struct News {
    /// What it holds now; `None` for a provider that can only be asked key by key.
    pub view: Option<Arc<dyn View>>,
    /// What changed without us.
    pub changes: Refreshed,
    /// What we changed ourselves.
    pub own: Vec<NameChange>,
}

impl News {
    /// Of a provider that holds the same for as long as it lives.
    pub(super) fn none(view: Arc<dyn View>) -> Self {
        Self {
            view: Some(view),
            changes: Refreshed::Nothing,
            own: Vec::new(),
        }
    }
}
