//! The providers of secrets: the trait that the chain uses, and its implementations. Knows neither the order of the
//! chain nor its cache.

pub mod aws;
pub mod backend;
mod backends;
pub mod environment;
pub mod file;
mod not_configured;
mod timestamp;
pub mod vault;
mod view;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::secret::{Change, SecretName, SecretValue};

pub(crate) use backend::to_bytes;
pub use backends::{BACKENDS, BackendKind, own_credentials, path_variables};
pub use environment::EnvironmentProvider;
pub use file::FileProvider;
pub use not_configured::NotConfigured;
pub use timestamp::{parse_rfc3339, rfc3339};
pub use view::{ProviderUpdate, View, ViewLookup};

/// Keys that SimpleTuner itself reads; listed whenever the environment has them.
pub const WELL_KNOWN: [&str; 3] = ["REPLICATE_API_TOKEN", "HF_TOKEN", "CLOUD_WEBHOOK_SECRET"];

/// A value from a provider.
#[derive(Clone, Debug)]
pub struct Provided {
    /// The value.
    pub value: SecretValue,
    /// When it last changed, as far as the provider can tell.
    pub changed_at: SystemTime,
    /// When the provider was known to have this value.
    pub as_of: AsOf,
}

impl Provided {
    /// A value that is current now.
    pub fn now(value: SecretValue, changed_at: SystemTime) -> Self {
        Self {
            value,
            changed_at,
            as_of: AsOf::now(),
        }
    }
}

/// When an answer was current, and whether it may be cached.
#[derive(Clone, Copy, Debug)]
pub struct AsOf {
    /// The start of its time to live.
    pub at: Instant,
    /// It is outdated, and served only because nothing newer is available. The next reader asks the provider again.
    pub is_stale: bool,
}

impl AsOf {
    /// Current now.
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            is_stale: false,
        }
    }

    /// For an answer that follows from two others: as old as the older one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            at: self.at.min(other.at),
            is_stale: self.is_stale || other.is_stale,
        }
    }
}

/// What a provider has cached for a key.
#[derive(Debug)]
pub enum Cached {
    /// The provider has the key.
    Value(Provided),
    /// The provider does not have the key.
    Absent {
        /// When that was known.
        as_of: AsOf,
    },
    /// The provider failed, and has no older answer that may be served.
    Failed(Error),
    /// The provider must be asked, which may wait.
    Unknown,
}

impl Cached {
    /// The result of [`Provider::get`].
    pub fn from_result(answer: Result<Option<Provided>>) -> Self {
        match answer {
            Ok(Some(provided)) => Cached::Value(provided),
            Ok(None) => Cached::Absent { as_of: AsOf::now() },
            Err(error) => Cached::Failed(error),
        }
    }
}

/// Whether a provider's list of names is complete.
#[derive(Debug)]
pub enum ListingState {
    /// It lists all its names.
    Complete,
    /// It lists the names of its last answer, which has expired.
    Outdated,
    /// It failed, and has no older list that may be served.
    Failed(Error),
    /// It has not answered yet.
    Unknown,
}

/// The callback of [`Provider::get_async`].
pub type GetDone = Box<dyn FnOnce(Cached) + Send>;
/// A callback for the end of a background operation.
pub type Done = Box<dyn FnOnce() + Send>;

/// How a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new, or has another value.
    Set,
    /// A backend returned another value than before.
    Rotated,
    /// It no longer exists.
    Deleted,
}

impl ChangeKind {
    /// The name of the event.
    pub fn event(self) -> &'static str {
        match self {
            ChangeKind::Set => "set",
            ChangeKind::Rotated => "rotated",
            ChangeKind::Deleted => "deleted",
        }
    }
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub name: SecretName,
    /// How it changed.
    pub kind: ChangeKind,
}

/// What other programs changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// Nothing.
    None,
    /// These keys. An empty list: no key, but the provider failed or recovered.
    Keys(Vec<KeyChange>),
    /// Perhaps any key.
    All,
}

/// A source of secrets.
pub trait Provider: Send + Sync {
    /// Its name in reports: `environment`, `file`, or any other.
    fn name(&self) -> &str;

    /// The value, or `None` if there is no such key. May wait, within the provider's own timeouts.
    ///
    /// # Errors
    /// Why the provider cannot answer. After [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] the chain asks no
    /// further provider.
    fn get(&self, name: &SecretName) -> Result<Option<Provided>>;

    /// The cached answer; never waits. A provider that is read without waiting always answers from here.
    fn cached(&self, _name: &SecretName) -> Cached {
        Cached::Unknown
    }

    /// Asks in the background, and calls `done` with the answer, on any thread and within the provider's own timeouts.
    /// Concurrent callers share one request. A provider that only has [`get`](Self::get) returns `done` unused.
    ///
    /// # Errors
    /// `done` itself.
    fn get_async(&self, _name: &SecretName, done: GetDone) -> Result<(), GetDone> {
        Err(done)
    }

    /// The value of a key that need not be a valid [`SecretName`] (`a/b`). May wait.
    ///
    /// # Errors
    /// As for [`get`](Self::get); [`Error::InvalidName`] if the provider has no such keys.
    fn get_by_key(&self, key: &str) -> Result<Option<SecretValue>> {
        let provided = self.get(&SecretName::new(key)?)?;
        Ok(provided.map(|provided| provided.value))
    }

    /// Whether [`names`](Self::names) is complete; never waits.
    fn listing_state(&self) -> ListingState {
        ListingState::Complete
    }

    /// Refreshes the cached document in the background, then calls `done`, even if it failed.
    fn refresh_async(&self, done: Done) {
        done();
    }

    /// Invalidates everything cached: the next read asks again.
    fn expire(&self) {}

    /// A cache in front of the provider served this key to a reader.
    fn record_read(&self, _name: &SecretName) {}

    /// Registers a callback for when [`take_update`](Self::take_update) would return something new. It runs on any
    /// thread, without a lock held. Only the first one is registered.
    fn on_change(&self, _changed: Box<dyn Fn() + Send + Sync>) {}

    /// The cached names, to be listed; never waits.
    fn names(&self) -> Vec<SecretName>;

    /// Whether the key is among the cached ones; never waits, and decrypts nothing.
    fn has(&self, name: &SecretName) -> bool {
        self.names().contains(name)
    }

    /// Checks whether another program changed something (for the file: one `statx`), and returns what.
    fn poll_changes(&self) -> Changes {
        Changes::None
    }

    /// Checks whether another program changed something, for [`take_update`](Self::take_update) to return. Waits at
    /// most `timeout`.
    fn check_for_changes(&self, _timeout: Duration) {}

    /// From now on, a writer in any process returns only after the callback of [`on_change`](Self::on_change) has run
    /// here for its write, or after a second.
    fn join_watchers(&self) {}

    /// The current view, and what changed since the last call; never waits, touches no disk.
    fn take_update(&self) -> ProviderUpdate {
        ProviderUpdate {
            view: None,
            changes: self.poll_changes(),
            own_writes: Vec::new(),
        }
    }

    /// Whether it serves its last document itself while it fails (the rule of `max_stale`). If not, the chain keeps the
    /// last value of each key.
    fn keeps_documents(&self) -> bool {
        false
    }

    /// The state that the next process needs; contains values.
    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    /// Restores the state that [`save`](Self::save) returned in another process; ignores that of another source.
    fn restore(&self, _saved: &[u8]) {}

    /// Registers a callback for when [`save`](Self::save) would return something new. It runs on any thread. Only the
    /// first one is registered.
    fn on_unsaved(&self, _changed: Box<dyn Fn() + Send + Sync>) {}

    /// The state, for people.
    fn report(&self) -> ProviderReport;

    /// The store behind it, if it can be written to.
    fn store(&self) -> Option<&dyn SecretStore> {
        None
    }
}

/// A provider that can be written to.
pub trait SecretStore: Send + Sync {
    /// Applies all changes in one atomic write, or none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a deleted key does not exist; else why the write failed.
    fn apply(&self, changes: &[Change]) -> Result<()>;

    /// Applies each batch atomically, in one write if possible; returns the result of each.
    fn apply_each(&self, batches: &[&[Change]]) -> Vec<Result<()>> {
        batches.iter().map(|changes| self.apply(changes)).collect()
    }

    /// Gives `from`'s value the name `to`, in one atomic write.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `from` does not exist; else why the write failed.
    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()>;

    /// Encrypts all plain values in one atomic write; returns how many.
    ///
    /// # Errors
    /// Why the write failed.
    fn encrypt_all(&self) -> Result<usize>;

    /// Waits until all other watchers of the store have seen the last write: one second at most.
    fn wait_for_watchers(&self) {}

    /// The path of the store.
    fn path(&self) -> PathBuf;
}

/// A provider's state, for people and for `providers/NAME` in the mount. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProviderReport {
    /// The provider's name.
    pub name: String,
    /// Its position in the chain, from 1; the chain sets it.
    pub priority: usize,
    /// Whether the settings name it.
    pub configured: bool,
    /// Whether it answered when it was last asked.
    pub available: bool,
    /// The source of its values.
    pub source: String,
    /// The keys it lists.
    pub keys: Vec<String>,
    /// How many entries are not secrets: not a text, or without a valid name.
    pub skipped_keys: usize,
    /// When it last answered.
    pub last_success: Option<String>,
    /// Why it last failed.
    pub last_error: Option<String>,
    /// When it last failed.
    pub last_error_at: Option<String>,
    /// How long its last answer took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Whether it serves an older document because it fails.
    pub stale: bool,
}
