//! The providers of secrets: the trait that the chain uses, and its implementations. Knows neither the order of the
//! chain nor its cache.

pub mod aws;
pub mod backend;
mod backend_variables;
mod backends;
mod cached_source;
pub mod command;
mod diagnosis;
pub mod environment;
pub mod file;
mod keyed;
mod not_configured;
mod source_view;
mod timestamp;
pub mod vault;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::metrics::CallCounters;
use crate::secret::{Change, SecretName, SecretValue};

pub(crate) use backend::to_bytes;
pub use backend_variables::{backend_variables, differing_variables};
pub(crate) use backends::in_order;
pub use backends::{BACKENDS, BackendKind, ChainLink, own_credentials, path_variables};
pub use command::variables as variables_of_programs;
pub use diagnosis::{Asking, Finding, Policy, Verdict, set_clock};
pub use environment::EnvironmentProvider;
pub use file::FileProvider;
pub(crate) use file::values_under_key;
pub use file::{Did, KeyRotationPlan, KeyRotationReport, KeyRotationRequest};
pub use file::{PastChange, Undo, UndoRequest};
pub use keyed::{KeyedProvider, KeyedSource};
pub use not_configured::NotConfigured;
pub use timestamp::{parse_rfc3339, rfc3339};
pub(crate) use timestamp::{rfc3339_in_microseconds, time_in_name};
pub use view::{ProviderChanges, ProviderUpdate, View, ViewLookup};

/// Keys that SimpleTuner itself reads; listed whenever the environment has them.
pub const WELL_KNOWN_KEYS: [&str; 3] = ["REPLICATE_API_TOKEN", "HF_TOKEN", "CLOUD_WEBHOOK_SECRET"];

/// A value from a provider.
#[derive(Clone, Debug)]
pub struct Provided {
    /// The value.
    pub value: SecretValue,
    /// When it last changed, as far as the provider knows.
    pub changed_at: SystemTime,
    /// When the provider was known to have this value: the start of its time to live.
    pub as_of: Instant,
}

impl Provided {
    /// A value that is current now.
    pub fn now(value: SecretValue, changed_at: SystemTime) -> Self {
        Self {
            value,
            changed_at,
            as_of: Instant::now(),
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

/// A callback for the end of a background operation.
pub type Done = Box<dyn FnOnce() + Send>;
/// A callback for something that happens again and again.
pub type Callback = Box<dyn Fn() + Send + Sync>;

/// Starts a background operation, and waits until it calls its [`Done`], or drops it.
pub(crate) fn wait_for(start: impl FnOnce(Done)) {
    let (done, ended) = mpsc::channel();
    start(Box::new(move || done.send(()).unwrap_or_default()));
    // An error means that the callback was dropped.
    let _ = ended.recv();
}

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

/// One provider of the chain. Readers get everything from its view; the methods here keep that view fresh.
pub trait Provider: Send + Sync {
    /// Its name in reports: `environment`, `file`, or any other.
    fn name(&self) -> &str;

    /// What readers see of it now; never waits, touches no disk. It is the same `Arc` until something changes.
    fn view(&self) -> Arc<dyn View>;

    /// The current view, and what changed since the last call; never waits, touches no disk.
    fn take_update(&self) -> ProviderUpdate {
        ProviderUpdate {
            view: self.view(),
            changes: ProviderChanges::default(),
        }
    }

    /// Refreshes the view in the background, so that it has a fresh answer for the key (`None`: for the list of names), or the
    /// last one if the provider fails. Then calls `done`, on any thread, within the provider's own timeouts. Concurrent
    /// callers share one request.
    fn ask(&self, _name: Option<&SecretName>, done: Done) {
        done();
    }

    /// Invalidates what is cached for the names that begin with `prefix`, or more: the next read asks again.
    fn expire(&self, _prefix: &str) {}

    /// These names changed, here or in another provider. Returns the new view if that invalidates an answer here.
    fn expire_names(&self, _names: &[SecretName]) -> Option<Arc<dyn View>> {
        None
    }

    /// What is counted of its calls, if it makes any.
    fn calls(&self) -> Option<&CallCounters> {
        None
    }

    /// A key was served to a reader.
    fn record_read(&self, _name: &SecretName) {}

    /// Registers a callback for when [`take_update`](Self::take_update) would return something new. It runs on any
    /// thread, without a lock held. Only the first one is registered.
    fn on_change(&self, _changed: Callback) {}

    /// The state that the next process needs; contains values.
    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    /// Restores the state that [`save`](Self::save) returned in another process; ignores that of another source.
    fn restore(&self, _saved: &[u8]) {}

    /// Registers a callback for when [`save`](Self::save) would return something new. It runs on any thread. Only the
    /// first one is registered.
    fn on_unsaved(&self, _changed: Callback) {}

    /// Gives back what it holds elsewhere, such as the token of a log-in. Called once, at the end; may wait for some
    /// seconds.
    fn close(&self) {}

    /// The store behind it, if it can be written to.
    fn store(&self) -> Option<&dyn SecretStore> {
        None
    }

    /// The value, or `None` if there is no such key. May wait, within the provider's own timeouts.
    ///
    /// # Errors
    /// Why the provider cannot answer.
    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        if let Some(store) = self.store() {
            store.check_for_changes(Duration::MAX);
        }
        wait_for(|done| self.ask(Some(name), done));
        match self.view().find(name, Instant::now()) {
            ViewLookup::Value { provided, .. } => Ok(Some(provided)),
            ViewLookup::Absent { .. } => Ok(None),
            ViewLookup::Failed { error, .. } => Err(error),
            ViewLookup::Unknown => Err(no_answer(self.name())),
        }
    }
}

/// The error for a provider that was asked and has no answer.
pub(crate) fn no_answer(provider: &str) -> Error {
    Error::Unavailable {
        provider: provider.to_owned(),
        reason: "it gave no answer in time".to_owned(),
    }
}

/// What became of a store's encrypted values.
#[derive(Debug, Default)]
pub struct Decrypted {
    /// Those that are plain text now.
    pub names: Vec<SecretName>,
    /// Those that stay as they are, and why.
    pub failed: Vec<(SecretName, Error)>,
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

    /// Makes the key with which values are encrypted, if there is none.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] if the store has values that need an old one.
    fn ensure_key(&self) -> Result<()> {
        Ok(())
    }

    /// What was done to the keys, as far as it is kept, the newest first.
    ///
    /// # Errors
    /// Why that cannot be read.
    fn history(&self) -> Result<Vec<PastChange>> {
        Ok(Vec::new())
    }

    /// What to set back. Changes nothing.
    ///
    /// # Errors
    /// Why that cannot be read.
    fn plan_undo(&self, _what: &UndoRequest) -> Result<Vec<Undo>> {
        Ok(Vec::new())
    }

    /// Sets keys back, all in one atomic write, or none.
    ///
    /// # Errors
    /// [`Error::Malformed`] if one of them has changed since it was planned; else why the write failed.
    fn undo(&self, _planned: &[Undo]) -> Result<()> {
        Ok(())
    }

    /// Writes all encrypted values in plain text, in one atomic write; with `dry_run` only says what it would do.
    ///
    /// # Errors
    /// Why the write failed.
    fn decrypt_all(&self, _dry_run: bool) -> Result<Decrypted> {
        Ok(Decrypted::default())
    }

    /// What a rotation of the key would do. Changes nothing.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] if there is no key file to replace; why the store cannot be read.
    fn plan_key_rotation(&self) -> Result<KeyRotationPlan> {
        Err(file::no_key())
    }

    /// Replaces the key as it was planned. Every value is encrypted anew in one atomic write.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the key has changed since; why something cannot be written.
    fn rotate_key(
        &self,
        _plan: &KeyRotationPlan,
        _request: &KeyRotationRequest,
    ) -> Result<KeyRotationReport> {
        Err(file::no_key())
    }

    /// The names of the values that are plain text, as the store is now.
    ///
    /// # Errors
    /// Why the store cannot be read.
    fn plain_names(&self) -> Result<Vec<SecretName>> {
        Ok(Vec::new())
    }

    /// Whether the key's value is encrypted, as the store was last read; `None`: it is not there.
    fn is_encrypted(&self, _name: &SecretName) -> Option<bool> {
        None
    }

    /// The keys that since the last call were encrypted in a file where SimpleTuner's server could read them before.
    fn take_hidden(&self) -> Vec<SecretName> {
        Vec::new()
    }

    /// Checks whether another program changed something, for [`Provider::take_update`] to return. Waits at
    /// most `timeout`.
    fn check_for_changes(&self, _timeout: Duration) {}

    /// From now on, a writer in any process returns only after the callback of [`Provider::on_change`] has run
    /// here for its write, or after a second.
    fn join_watchers(&self) {}

    /// Waits until all other watchers of the store have seen the last write: one second at most.
    fn wait_for_watchers(&self) {}

    /// Checks in the background whether a write could succeed now, for [`refusal`](Self::refusal); then calls `done`, on any
    /// thread. That can take for as long as the disk does.
    fn check_writable(&self, done: Done) {
        done();
    }

    /// Why the last [`check_writable`](Self::check_writable) found that no write can succeed. With a name, also why that
    /// key cannot be added. Never waits, touches no disk.
    fn refusal(&self, _name: Option<&SecretName>) -> Option<Error> {
        None
    }

    /// How long a caller may wait for the disk.
    fn timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// The path of the store.
    fn path(&self) -> PathBuf;
}

/// Keys whose values cannot be decrypted for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndecryptableKeys {
    /// Why.
    pub reason: String,
    /// The keys.
    pub keys: Vec<String>,
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
    /// Whether it answered when it was last asked; `None`: nobody has asked it yet.
    pub available: Option<bool>,
    /// The source of its values.
    pub source: String,
    /// The keys it lists.
    pub keys: Vec<String>,
    /// How many entries are not secrets: not a text, or without a valid name.
    pub skipped_keys: usize,
    /// The keys whose values cannot be decrypted; `None`: nobody has tried yet.
    pub undecryptable: Option<Vec<UndecryptableKeys>>,
    /// When it last answered.
    pub last_success: Option<String>,
    /// Why it fails, or has no secrets.
    pub last_error: Option<String>,
    /// When it said so last.
    pub last_error_at: Option<String>,
    /// How long its last answer took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Whether it serves an older document because it fails.
    pub stale: bool,
}
