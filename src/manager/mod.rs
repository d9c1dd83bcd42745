//! The chain of providers behind one cache: the first provider that has a key wins, N readers cost one question, and
//! writes go to the one that can be written to. Knows no mount.

mod build;
mod chain;
mod desk;
mod event;
mod link;
mod publish;
mod snapshot;
mod writes;

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime};

use crate::cache::{CacheRegistry, CacheStats, NamedCache, TtlCache, function_caches};
use crate::error::{Error, Result};
use crate::provider::ProviderReport;
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;
use crate::users::user_permission_cache;
use desk::Desk;
use event::Listeners;
use link::{Link, provider_failed};
use publish::ChangeListeners;

pub use build::Builder;
pub use chain::{AnswerDone, SnapshotDone};
pub use event::{Event, Listener};
pub use publish::{ChangeListener, ChangeSet, Changed};
pub use snapshot::{Lookup, Snapshot, Version};
pub use writes::{Outcome, SetOutcome};

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
    /// For what goes on in the background.
    me: Weak<SecretsManager>,
    links: Arc<[Link]>,
    desk: Arc<Desk>,
    caches: CacheRegistry,
    listeners: Listeners,
    changes: ChangeListeners,
    max_stale: Duration,
    ttl: Arc<Ttl>,
    /// A leaf lock, held for the clone of the `Arc` or its replacement.
    current: Mutex<Arc<Snapshot>>,
    /// Held from taking a provider's news until what changed is out of the cache and told: else a second reader, to whom
    /// the provider has nothing new to tell, could still meet the old value.
    refreshing: Mutex<()>,
}

/// The cache of secrets, with what lies behind it: what is dropped here is asked for anew.
struct SecretsCache {
    manager: Weak<SecretsManager>,
    desk: Arc<Desk>,
    links: Arc<[Link]>,
}

impl SecretsCache {
    fn tell(&self) {
        if let Some(manager) = self.manager.upgrade() {
            manager.publish_invalidated();
        }
    }
}

impl NamedCache for SecretsCache {
    fn stats(&self) -> CacheStats {
        self.desk.stats()
    }

    fn clear(&self) -> usize {
        self.links.iter().for_each(|link| link.forget(""));
        let dropped = self.desk.clear();
        self.tell();
        dropped
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let names = match prefix.strip_prefix("secret:") {
            Some(names) => names,
            None if "secret:".starts_with(prefix) => "",
            None => return 0,
        };
        self.links.iter().for_each(|link| link.forget(names));
        let dropped = self.desk.invalidate_prefix(prefix);
        self.tell();
        dropped
    }
}

/// A value with where and when it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The value as it is stored, be it with a newline at its end.
    pub value: SecretValue,
    /// The provider that has it.
    pub provider: Arc<str>,
    /// When the value last changed, as far as the provider can tell.
    pub changed_at: SystemTime,
    /// When the provider was asked.
    pub fetched_at: SystemTime,
    /// For how long it stays in the cache; zero if it is not there.
    pub expires_in: Duration,
}

impl SecretsManager {
    /// A key's value, without the newline that ends a single line. A key that is no valid [`SecretName`] (`a/b`) can be in a backend's document; it is not cached.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no provider has it; [`Error::InvalidName`]; else why it could not be found out.
    pub fn get(&self, key: &str) -> Result<SecretValue> {
        match SecretName::new(key) {
            Ok(name) => Ok(self.find(&name)?.value.without_newline()),
            Err(invalid) => self.get_odd_key(key)?.ok_or(invalid),
        }
    }

    fn get_odd_key(&self, key: &str) -> Result<Option<SecretValue>> {
        let mut failure = None;
        for link in self.links.iter() {
            match link.provider.get_by_key(key) {
                Ok(None) | Err(Error::InvalidName { .. }) => {}
                Ok(Some(value)) => return Ok(Some(value.without_newline())),
                Err(error) => {
                    failure = failure.or_else(|| Some(provider_failed(&link.name, key, &error)))
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// A key's value, or `default` where no provider has the key.
    ///
    /// # Errors
    /// As for [`get`](Self::get), but never [`Error::NotFound`]: a provider that could not be asked is no default.
    pub fn get_or(&self, key: &str, default: &str) -> Result<SecretValue> {
        Ok(self
            .get_if_there(key)?
            .unwrap_or_else(|| SecretValue::new(default)))
    }

    /// `HF_TOKEN`, if some provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn hf_token(&self) -> Result<Option<SecretValue>> {
        self.get_if_there("HF_TOKEN")
    }

    /// `REPLICATE_API_TOKEN`, if some provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn replicate_api_token(&self) -> Result<Option<SecretValue>> {
        self.get_if_there("REPLICATE_API_TOKEN")
    }

    /// `CLOUD_WEBHOOK_SECRET`, if some provider has it.
    ///
    /// # Errors
    /// As for [`get_or`](Self::get_or).
    pub fn cloud_webhook_secret(&self) -> Result<Option<SecretValue>> {
        self.get_if_there("CLOUD_WEBHOOK_SECRET")
    }

    fn get_if_there(&self, key: &str) -> Result<Option<SecretValue>> {
        match self.get(key) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of the providers, in the order of the chain.
    pub fn provider_names(&self) -> Vec<String> {
        self.links
            .iter()
            .map(|link| link.name.to_string())
            .collect()
    }

    /// The names of the providers that answer, in the order of the chain.
    pub fn available_providers(&self) -> Vec<String> {
        let reports = self.reports().into_iter();
        reports
            .filter(|report| report.available)
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

    /// Empties the cache of secrets: the next read of each asks its provider.
    pub fn clear_cache(&self) {
        if let Some(secrets) = self.caches.get("secrets") {
            secrets.clear();
        }
        self.tell(&[Event::new("invalidated", None, None)]);
    }

    /// Drops the entries of all named caches whose keys begin with `prefix` (`secret:{key}`, `provider:{name}:config`,
    /// `user:{id}:...`), and those of the cached functions; how many there were.
    pub fn invalidate_prefix(&self, prefix: &str) -> usize {
        let functions = function_caches().invalidate_prefix(prefix);
        let dropped = self.caches.invalidate_prefix(prefix) + functions;
        self.tell(&[Event::new("invalidated", Some(prefix), None)]);
        dropped
    }

    /// The named caches. Emptying them here tells nobody.
    pub fn caches(&self) -> &CacheRegistry {
        &self.caches
    }

    /// The cache of user permissions, keys `user:{id}:...`.
    pub fn user_permission_cache(&self) -> &TtlCache<serde_json::Value> {
        user_permission_cache()
    }

    /// Drops what is held of a provider's configuration; how many entries there were.
    pub fn invalidate_provider_cache(&self, provider: &str) -> usize {
        self.invalidate_prefix(&format!("provider:{provider}:"))
    }

    /// Drops what is held of a user; how many entries there were.
    pub fn invalidate_user_cache(&self, uid: u32) -> usize {
        self.invalidate_prefix(&format!("user:{uid}:"))
    }

    /// Calls `listener` for every event from now on, on the thread that notices it and with no lock held.
    pub fn on_event(&self, listener: Listener) {
        self.listeners.add(listener);
    }

    fn tell(&self, events: &[Event]) {
        self.listeners.tell(events);
    }

    fn current(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.current.lock().unwrap_or_else(|e| e.into_inner())
    }
}
