//! The chain of providers: the first one that has a key wins, and writes go to the one that has a store. Knows no mount.
//!
//! [`SecretsManager`] is one type, because all of it goes through its current [`Snapshot`]. Its methods stand in the file of
//! what they do: `builder`, `chain` (reads), `writes`, `publish`.

mod builder;
mod chain;
mod chain_entry;
mod event;
mod publish;
mod snapshot;
mod writes;

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crate::cache::{CacheRegistry, CacheStats, NamedCache, TtlCache, function_caches};
use crate::error::Result;
use crate::metrics::CallCounters;
use crate::provider::ProviderReport;
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;
use crate::sync::Mutex;
use crate::users::user_permission_cache;
use chain_entry::{ChainEntry, add_failure};
use event::Listeners;
use publish::ChangeListeners;

pub use builder::Builder;
pub(crate) use builder::{file_options, key_source};
pub use chain::{LookupDone, SnapshotDone};
pub use event::{Event, Listener};
pub use publish::{ChangeListener, ChangeSet, ChangedKey};
pub use snapshot::{Lookup, SecretVersion, Snapshot};
pub use writes::{SetOutcome, WriteOutcome};

/// The secrets of all providers.
///
/// # Examples
/// ```no_run
/// use simpletuner_live::manager::SecretsManager;
/// # fn main() -> simpletuner_live::error::Result<()> {
/// let secrets = SecretsManager::open()?;
/// let token = secrets.get_or("HF_TOKEN", "")?;
/// # Ok(())
/// # }
/// ```
pub struct SecretsManager {
    /// For callbacks and threads in the background.
    weak_self: Weak<SecretsManager>,
    chain: Arc<[ChainEntry]>,
    /// The keys that were read, for as long as their answers are fresh. The answers are in the snapshot.
    cache: TtlCache<()>,
    caches: CacheRegistry,
    listeners: Listeners,
    changes: ChangeListeners,
    ttl: Arc<Ttl>,
    /// A leaf lock, held for the clone of the `Arc` or its replacement.
    current: Mutex<Arc<Snapshot>>,
    /// Held from taking the providers' updates until the listeners have run. A second reader finds no update, and could
    /// otherwise still get the old value.
    publish_lock: Mutex<()>,
    /// Held while the providers are closed. Outside of every other lock.
    closing: Mutex<()>,
    /// Keys of which it was logged that another provider has them, too; `true`: when they were removed. A leaf lock.
    logged_shadows: Mutex<HashSet<(SecretName, bool)>>,
}

/// The cache `secrets` in the registry: invalidating it also expires what the providers have cached.
struct SecretCacheHandle {
    manager: Weak<SecretsManager>,
    cache: TtlCache<()>,
    chain: Arc<[ChainEntry]>,
}

impl NamedCache for SecretCacheHandle {
    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    fn clear(&self) -> usize {
        self.invalidate_prefix("secret:")
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let names = match prefix.strip_prefix("secret:") {
            Some(names) => names,
            None if "secret:".starts_with(prefix) => "",
            None => return 0,
        };
        self.chain
            .iter()
            .for_each(|entry| entry.provider.expire(names));
        let dropped = self.cache.invalidate_prefix(prefix);
        if let Some(manager) = self.manager.upgrade() {
            manager.publish_invalidated();
        }
        dropped
    }
}

/// A value, with where and when it was found.
#[derive(Clone, Debug)]
pub struct FoundSecret {
    /// The value as it is stored, perhaps with a newline at its end.
    pub value: SecretValue,
    /// The provider that has it.
    pub provider: Arc<str>,
    /// When the value last changed, as far as the provider knows.
    pub changed_at: SystemTime,
    /// When the provider was asked.
    pub fetched_at: SystemTime,
    /// How long it stays in the cache; zero if it is not cached.
    pub expires_in: Duration,
}

impl SecretsManager {
    /// A key's value, without the newline that ends a single line. A key need not be a valid [`SecretName`]: a
    /// backend's document may have `a/b`. The values of such keys are not cached.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::error::Error::NotFound) if no provider has it;
    /// [`Error::InvalidName`](crate::error::Error::InvalidName); else why a provider failed.
    pub fn get(&self, key: &str) -> Result<SecretValue> {
        match SecretName::new(key) {
            Ok(name) => Ok(self.find(&name)?.value.without_newline()),
            Err(invalid) => self.get_invalid_name(key)?.ok_or(invalid),
        }
    }

    /// A key's value, or `default` if no provider has the key.
    ///
    /// # Errors
    /// As for [`get`](Self::get), but never [`Error::NotFound`](crate::error::Error::NotFound). If a provider fails, the
    /// result is an error, not `default`.
    pub fn get_or(&self, key: &str, default: &str) -> Result<SecretValue> {
        Ok(self
            .get_optional(key)?
            .unwrap_or_else(|| SecretValue::new(default)))
    }

    /// `HF_TOKEN`, if a provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn hf_token(&self) -> Result<Option<SecretValue>> {
        self.get_optional("HF_TOKEN")
    }

    /// `REPLICATE_API_TOKEN`, if a provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn replicate_api_token(&self) -> Result<Option<SecretValue>> {
        self.get_optional("REPLICATE_API_TOKEN")
    }

    /// `CLOUD_WEBHOOK_SECRET`, if a provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn cloud_webhook_secret(&self) -> Result<Option<SecretValue>> {
        self.get_optional("CLOUD_WEBHOOK_SECRET")
    }

    fn get_optional(&self, key: &str) -> Result<Option<SecretValue>> {
        match self.get(key) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of the providers, in the order of the chain.
    pub fn provider_names(&self) -> Vec<String> {
        self.chain
            .iter()
            .map(|entry| entry.name.to_string())
            .collect()
    }

    /// The names of the providers that do not fail, in the order of the chain.
    pub fn available_providers(&self) -> Vec<String> {
        let reports = self.reports().into_iter();
        reports
            .filter(|report| report.available == Some(true))
            .map(|report| report.name)
            .collect()
    }

    /// The state of all providers, in the order of the chain.
    pub fn reports(&self) -> Vec<ProviderReport> {
        self.refresh();
        self.snapshot().reports()
    }

    /// The state of one provider.
    pub fn report(&self, provider: &str) -> Option<ProviderReport> {
        self.refresh();
        self.snapshot().report(provider)
    }

    /// What is counted of the calls to each provider that is called, in the order of the chain.
    pub fn calls(&self) -> impl Iterator<Item = (&str, &CallCounters)> {
        let entries = self.chain.iter();
        entries.filter_map(|entry| Some((&*entry.name, entry.provider.calls()?)))
    }

    /// Empties the cache of secrets: the next read of each asks its provider.
    pub fn clear_cache(&self) {
        if let Some(secrets) = self.caches.get("secrets") {
            secrets.clear();
        }
        self.emit(&[Event::new("invalidated", None, None)]);
    }

    /// Removes the entries whose keys begin with `prefix` (`secret:{key}`, `provider:{name}:config`, `user:{id}:...`)
    /// from all named caches and from those of cached functions; returns how many there were.
    pub fn invalidate_prefix(&self, prefix: &str) -> usize {
        let functions = function_caches().invalidate_prefix(prefix);
        let dropped = self.caches.invalidate_prefix(prefix) + functions;
        self.emit(&[Event::new("invalidated", Some(prefix), None)]);
        dropped
    }

    /// The named caches. Clearing them here emits no event.
    pub fn caches(&self) -> &CacheRegistry {
        &self.caches
    }

    /// The cache of user permissions, keys `user:{id}:...`.
    pub fn user_permission_cache(&self) -> &TtlCache<serde_json::Value> {
        user_permission_cache()
    }

    /// Removes a provider's configuration from the caches; returns how many entries there were.
    pub fn invalidate_provider_cache(&self, provider: &str) -> usize {
        self.invalidate_prefix(&format!("provider:{provider}:"))
    }

    /// Removes a user from the caches; returns how many entries there were.
    pub fn invalidate_user_cache(&self, uid: u32) -> usize {
        self.invalidate_prefix(&format!("user:{uid}:"))
    }

    /// Calls `listener` for every event from now on, on the thread that notices it, without a lock held.
    pub fn on_event(&self, listener: Listener) {
        self.listeners.add(listener);
    }

    fn emit(&self, events: &[Event]) {
        self.listeners.emit(events);
    }
}
