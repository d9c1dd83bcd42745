//! The links of the chain: one trait, and the local providers behind it. Knows neither the chain's order nor its cache.

pub mod aws;
pub mod backend;
mod timestamp;
pub mod environment;
pub mod file;
mod not_configured;
pub mod vault;
mod view;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::secret::{Change, SecretName, SecretValue};

pub(crate) use backend::to_bytes;
pub use timestamp::{parse_rfc3339, rfc3339};
pub use environment::EnvironmentProvider;
pub use file::FileProvider;
pub use not_configured::NotConfigured;
pub use view::{News, View, Viewed};

/// Keys that SimpleTuner itself asks for; listed wherever the environment has them.
pub const WELL_KNOWN: [&str; 3] = ["REPLICATE_API_TOKEN", "HF_TOKEN", "CLOUD_WEBHOOK_SECRET"];

/// A value as a provider gave it.
#[derive(Clone, Debug)]
pub struct Provided {
    /// The value.
    pub value: SecretValue,
    /// When it last changed, as far as the provider can tell.
    pub changed_at: SystemTime,
    /// As of when it is known to be this.
    pub as_of: AsOf,
}

impl Provided {
    /// A value as it is now.
    pub fn now(value: SecretValue, changed_at: SystemTime) -> Self {
        Self {
            value,
            changed_at,
            as_of: AsOf::now(),
        }
    }
}

/// When something was found out, and whether it may be kept.
#[derive(Clone, Copy, Debug)]
pub struct AsOf {
    /// Its time to live counts from here.
    pub at: Instant,
    /// It is out of date, and served only because nothing newer can be had: to be asked for anew by whoever comes next.
    pub is_stale: bool,
}

impl AsOf {
    /// It is found out now.
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            is_stale: false,
        }
    }

    /// What follows from two things is as old as the older one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            at: self.at.min(other.at),
            is_stale: self.is_stale || other.is_stale,
        }
    }
}

/// What a provider can say about a key without waiting.
#[derive(Debug)]
pub enum Held {
    /// It has the key.
    Value(Provided),
    /// It has no such key.
    Absent {
        /// As of when that is known.
        as_of: AsOf,
    },
    /// It failed, and holds nothing usable.
    Failed(Error),
    /// It must be asked, which may wait.
    Unknown,
}

impl Held {
    /// What a question was answered with.
    pub fn of(answer: Result<Option<Provided>>) -> Self {
        match answer {
            Ok(Some(provided)) => Held::Value(provided),
            Ok(None) => Held::Absent { as_of: AsOf::now() },
            Err(error) => Held::Failed(error),
        }
    }
}

/// What a provider can say of all its keys together without waiting.
#[derive(Debug)]
pub enum Standing {
    /// The names it lists are all there are.
    Whole,
    /// They were, when it was last asked; it should be asked anew.
    Outdated,
    /// It failed, and holds nothing usable.
    Failed(Error),
    /// It has never answered, and must be asked.
    Unknown,
}

/// What is called with the answer to a question that was asked in the background.
pub type Asked = Box<dyn FnOnce(Held) + Send>;
/// What is called when something in the background is done.
pub type Done = Box<dyn FnOnce() + Send>;

/// How a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It appeared, or was given another value.
    Set,
    /// A backend gives another value than before.
    Rotated,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// The event it is told as.
    pub fn event(self) -> &'static str {
        match self {
            ChangeKind::Set => "set",
            ChangeKind::Rotated => "rotated",
            ChangeKind::Deleted => "deleted",
        }
    }
}

/// One key that changed without us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameChange {
    /// The key.
    pub name: SecretName,
    /// How it changed.
    pub kind: ChangeKind,
}

/// What a refresh found.
#[derive(Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// All is as it was.
    Nothing,
    /// These keys changed. An empty list says that the provider's own state did (it failed, or came back).
    Names(Vec<NameChange>),
    /// Any key may have changed.
    All,
}

/// One link of the chain.
pub trait Provider: Send + Sync {
    /// Its name in reports: `environment`, `file`, or one's own.
    fn name(&self) -> &str;

    /// The value, or `None` where there is no such key. May wait, bounded by the provider's own timeouts.
    ///
    /// # Errors
    /// Whatever kept it from an answer. [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] end the chain.
    fn get(&self, name: &SecretName) -> Result<Option<Provided>>;

    /// The value as far as it is held here; never waits. Local providers always answer.
    fn held(&self, _name: &SecretName) -> Held {
        Held::Unknown
    }

    /// Asks in the background, and calls `done` with the answer: soon, bounded by the provider's own timeouts, from any
    /// thread. Many who ask at once cost one question. A provider that can only be asked by [`get`](Self::get) hands
    /// `done` back.
    ///
    /// # Errors
    /// `done` itself.
    fn ask(&self, _name: &SecretName, done: Asked) -> Result<(), Asked> {
        Err(done)
    }

    /// The value under any key, be it no valid [`SecretName`] (`a/b`). May wait.
    ///
    /// # Errors
    /// As for [`get`](Self::get); [`Error::InvalidName`] where the provider has no such keys.
    fn get_by_key(&self, key: &str) -> Result<Option<SecretValue>> {
        let provided = self.get(&SecretName::new(key)?)?;
        Ok(provided.map(|provided| provided.value))
    }

    /// What can be said of all keys together; never waits.
    fn standing(&self) -> Standing {
        Standing::Whole
    }

    /// Sees to it in the background that what is held is fresh, and then calls `done`, be it that it failed.
    fn bring_up_to_date(&self, done: Done) {
        done();
    }

    /// What is held is to be asked for anew at the next read.
    fn expire(&self) {}

    /// A reader was just given this key's value out of a cache in front.
    fn note_read(&self, _name: &SecretName) {}

    /// Calls `changed` whenever [`refresh`](Self::refresh) has something new to tell, from any thread and with no lock
    /// held. Only the first call counts.
    fn on_change(&self, _changed: Box<dyn Fn() + Send + Sync>) {}

    /// The keys to list, as last held; never waits.
    fn names(&self) -> Vec<SecretName>;

    /// Whether it has the key, as last held; never waits and decrypts nothing.
    fn has(&self, name: &SecretName) -> bool {
        self.names().contains(name)
    }

    /// Looks, cheaply (one `statx`), whether something changed without us, and takes it in.
    fn refresh(&self) -> Refreshed {
        Refreshed::Nothing
    }

    /// Looks whether something changed without us, for [`take_news`](Self::take_news) to tell; waits at most `patience`,
    /// and no longer than for an answer.
    fn look(&self, _patience: Duration) {}

    /// From now on, whoever writes to what is watched here returns only when [`on_change`](Self::on_change)'s callback
    /// has been called for it.
    fn join_watchers(&self) {}

    /// What it holds, and what changed since this was last called; never waits, touches no disk.
    fn take_news(&self) -> News {
        News {
            view: None,
            changes: self.refresh(),
            own: Vec::new(),
        }
    }

    /// Whether it serves its last document by itself when it fails (the rule of `max_stale`). For one that does not,
    /// the chain keeps the last value of each key.
    fn keeps_documents(&self) -> bool {
        false
    }

    /// What of the provider must outlive this process; holds values.
    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    /// Takes up what [`save`](Self::save) gave in another process; nothing where that was of another source.
    fn restore(&self, _saved: &[u8]) {}

    /// Calls `changed` when [`save`](Self::save) would give something new, from any thread. Only the first call counts.
    fn on_save(&self, _changed: Box<dyn Fn() + Send + Sync>) {}

    /// Its state, for people.
    fn report(&self) -> ProviderReport;

    /// The store behind it, where it can be written to.
    fn store(&self) -> Option<&dyn SecretStore> {
        None
    }
}

/// What can be written to.
pub trait SecretStore: Send + Sync {
    /// Makes all changes in one atomic write, or none.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the deletion of a key that it has not; else what kept it from writing.
    fn apply(&self, changes: &[Change]) -> Result<()>;

    /// Makes each of these batches of changes, or none of it, together where that is possible; what came of each.
    fn apply_each(&self, batches: &[&[Change]]) -> Vec<Result<()>> {
        batches.iter().map(|changes| self.apply(changes)).collect()
    }

    /// Gives `from`'s value the name `to`, in one atomic write.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it has no `from`; else what kept it from writing.
    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()>;

    /// Encrypts every value that lies in plain text, in one atomic write; how many these were.
    ///
    /// # Errors
    /// What kept it from writing.
    fn encrypt_all(&self) -> Result<usize>;

    /// Waits until all others that watch the store have taken in what was written to it: one second at most.
    fn wait_for_watchers(&self) {}

    /// Where it lies.
    fn path(&self) -> PathBuf;
}

/// A provider's state, for people and for `providers/NAME` in the mount. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProviderReport {
    /// The provider's name.
    pub name: String,
    /// Its place in the chain, from 1; the chain sets it.
    pub priority: usize,
    /// Whether the settings name it.
    pub configured: bool,
    /// Whether it answered when it was last asked.
    pub available: bool,
    /// Where it takes its values from.
    pub source: String,
    /// The keys it lists.
    pub keys: Vec<String>,
    /// Entries that are no secrets: not a text, or not a valid name.
    pub skipped_keys: usize,
    /// When it last answered.
    pub last_success: Option<String>,
    /// Why it did not answer when it last failed.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
    /// How long its last answer took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Whether it serves an older document because it fails.
    pub stale: bool,
}
