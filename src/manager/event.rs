//! Events about secrets. They contain names, never values.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::provider::rfc3339;
use crate::sync::RwLock;

/// One event, as in a line of the file `events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it was noticed: RFC 3339 in UTC.
    pub at: String,
    /// `set`, `deleted`, `rotated`, `invalidated`, `shadowed`, `encrypted`, `key_rotated`, `provider_down` or
    /// `provider_up`.
    pub event: &'static str,
    /// The key, or the prefix that was invalidated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The provider of the key, or the one that failed or recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl Event {
    /// An event that happens now.
    pub fn new(event: &'static str, key: Option<&str>, provider: Option<&str>) -> Self {
        Self {
            at: rfc3339(SystemTime::now()),
            event,
            key: key.map(ToOwned::to_owned),
            provider: provider.map(ToOwned::to_owned),
        }
    }
}

/// Called for each event.
pub type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// The event listeners. They run without a lock held, so they may use the manager, even to add listeners.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Vec<Arc<Listener>>>);

impl Listeners {
    pub(super) fn add(&self, listener: Listener) {
        let mut all = self.0.write();
        all.push(Arc::new(listener));
    }

    pub(super) fn emit(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let all = self.0.read().clone();
        for event in events {
            all.iter().for_each(|listener| listener(event));
        }
    }
}
