//! The table `provider_config` of SimpleTuner's database `cloud/jobs.db` (provider, JSON object, time), behind the cache of
//! the same name.
//!
//! One connection reads, and never waits for another program's lock; a caller that needs an answer asks again. Each write
//! has a connection of its own, which waits as long as SimpleTuner does.

mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::config::{ProviderConfig, check_provider_name};
use crate::audit::{Actor, AuditEvent, AuditOptions, AuditTrail, ChangedKeys};
use crate::cache::{CacheRegistry, PROVIDER_CONFIG, TtlCache};
use crate::error::{Error, Result};
use crate::provider::{BACKENDS, Done};
use crate::settings::{Flags, Settings};
use crate::sqlite::{BUSY_TIMEOUT, database_error};
use crate::sync::{self, LARGE_STACK, Mutex, SMALL_STACK};
use reader::{Reader, Refreshed};
use writer::Writer;

/// How often a caller that has to wait for a lock asks again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A provider's configuration, as far as it is known without waiting.
#[derive(Debug)]
pub enum TryGet {
    /// The configuration.
    Found(ProviderConfig),
    /// The provider has none.
    Missing,
    /// It cannot be read.
    Failed(Error),
    /// Another program has locked the database; [`ProviderConfigs::when_readable`] waits for it.
    Locked,
}

/// The configurations of all providers.
pub struct ProviderConfigs {
    path: PathBuf,
    cache: TtlCache<ProviderConfig>,
    /// Records who changes what.
    audit: Option<Arc<AuditTrail>>,
    reader: Mutex<Reader>,
    writer: Writer,
    waiters: Mutex<Vec<Waiter>>,
    /// Why the last check found that the database cannot be written.
    refusal: Mutex<Option<Error>>,
}

/// A caller that waits for the lock.
struct Waiter {
    name: String,
    until: Instant,
    done: Done,
}

impl ProviderConfigs {
    /// The configurations in the default settings' state folder. Does not open the database yet.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn open() -> Result<Self> {
        Ok(Self::from_settings(&Settings::load(
            &Flags::default(),
            BACKENDS,
        )?))
    }

    /// The configurations in these settings' state folder (`cloud/jobs.db` in it).
    pub fn from_settings(settings: &Settings) -> Self {
        let audit = AuditOptions {
            reads: false,
            ..AuditOptions::from_settings(settings)
        };
        Self::at(database_of(settings)).with_audit(Arc::new(AuditTrail::new(&audit)))
    }

    /// The configurations in this database, behind a cache of their own, without an audit trail.
    pub fn at(path: PathBuf) -> Self {
        Self::behind(path, TtlCache::new(PROVIDER_CONFIG))
    }

    fn behind(path: PathBuf, cache: TtlCache<ProviderConfig>) -> Self {
        Self {
            reader: Mutex::new(Reader::new(path.clone(), cache.clone())),
            writer: Writer::new(path.clone()),
            path,
            cache,
            audit: None,
            waiters: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// Records changes in this trail.
    #[must_use]
    pub fn with_audit(self, audit: Arc<AuditTrail>) -> Self {
        Self {
            audit: Some(audit),
            ..self
        }
    }

    /// Like [`from_settings`](Self::from_settings), with this trail, and with the cache in the registry as `provider_config`.
    pub fn in_registry(
        registry: &CacheRegistry,
        settings: &Settings,
        audit: Arc<AuditTrail>,
    ) -> Self {
        let configs = Self::at(database_of(settings)).with_audit(audit);
        registry.register("provider_config", Arc::new(configs.cache.clone()));
        configs
    }

    /// The configurations of the default settings, shared by the whole process, behind [`provider_config_cache`].
    ///
    /// # Errors
    /// As for [`open`](Self::open); the next call tries again.
    pub fn global() -> Result<Arc<Self>> {
        static GLOBAL: Mutex<Option<Arc<ProviderConfigs>>> = Mutex::new(None);
        let mut global = GLOBAL.lock();
        if let Some(configs) = &*global {
            return Ok(configs.clone());
        }
        let Self { path, audit, .. } = Self::open()?;
        let configs = Self {
            audit,
            ..Self::behind(path, provider_config_cache().clone())
        };
        Ok(global.insert(Arc::new(configs)).clone())
    }

    /// The database file, which need not exist.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cache of what was read; its keys are `provider:{name}:config`.
    pub fn cache(&self) -> &TtlCache<ProviderConfig> {
        &self.cache
    }

    /// Drops a provider (`None`: all) from the cache. Returns how many entries there were.
    pub fn invalidate(&self, provider: Option<&str>) -> usize {
        let _reader = self.reader.lock();
        match provider {
            Some(name) => self.cache.invalidate_prefix(&cache_prefix(name)),
            None => self.cache.clear(),
        }
    }

    /// A provider's configuration; an empty object if it has none. Waits up to 30 s for a lock.
    ///
    /// # Errors
    /// [`Error::Database`] if the database cannot be read, or the stored text is not a JSON object.
    pub fn get(&self, name: &str) -> Result<ProviderConfig> {
        self.poll(|| match self.try_get(name) {
            TryGet::Found(config) => Some(Ok(config)),
            TryGet::Missing => Some(Ok(ProviderConfig::default())),
            TryGet::Failed(error) => Some(Err(error)),
            TryGet::Locked => None,
        })
    }

    /// The names of all providers that have a configuration, sorted. Waits up to 30 s for a lock.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn list(&self) -> Result<Vec<String>> {
        self.poll(|| {
            let mut reader = self.reader.lock();
            match reader.refresh() {
                Ok(Refreshed::Locked) => None,
                Ok(_) => Some(Ok(reader.names())),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Like [`list`](Self::list), but never waits; the last known names while the database cannot be read.
    pub fn try_list(&self) -> Vec<String> {
        let mut reader = self.reader.lock();
        if let Err(error) = reader.refresh() {
            tracing::warn!("{error}");
        }
        reader.names()
    }

    /// Like [`get`](Self::get), but never waits. Takes a few microseconds if the configuration is cached.
    pub fn try_get(&self, name: &str) -> TryGet {
        self.reader.lock().try_get(name)
    }

    /// Saves a provider's whole object, and returns the keys that this changed. The first save creates the database, its
    /// folder and the table. It does not touch columns that a newer SimpleTuner has added. The database is written first,
    /// then the cache is invalidated, then the audit trail is written, whose failure is only logged.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an invalid name, [`Error::TooLarge`], [`Error::Database`]; nothing has changed then.
    pub fn save(&self, name: &str, config: &Map<String, Value>) -> Result<ChangedKeys> {
        let text = serde_json::to_vec(config).map(zeroize::Zeroizing::new);
        let text = text.map_err(|e| Error::Malformed {
            what: format!("the configuration of {name}"),
            reason: e.to_string(),
        })?;
        let changed = self.save_text_as(&Actor::this_process(), name, &text)?;
        self.flush();
        Ok(changed)
    }

    /// Like [`save`](Self::save), for the JSON text of an object, whose tokens are stored as they are. Records `actor`, and
    /// does not wait for the audit trail.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    pub fn save_text_as(&self, actor: &Actor, name: &str, text: &[u8]) -> Result<ChangedKeys> {
        check_provider_name(name)?;
        let changed = self.writer.save(name, text)?;
        self.invalidate(Some(name));
        self.record(actor, || {
            AuditEvent::ProviderConfigured(name.into(), changed.clone())
        });
        Ok(changed)
    }

    /// Changes a provider's object in one transaction, so that no save of another program is lost.
    ///
    /// # Errors
    /// As for [`save`](Self::save); and [`Error::Database`] if the stored text is not an object, which stays as it is.
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<ChangedKeys> {
        check_provider_name(name)?;
        let changed = self.writer.update(name, change)?;
        self.invalidate(Some(name));
        self.record(&Actor::this_process(), || {
            AuditEvent::ProviderConfigured(name.into(), changed.clone())
        });
        self.flush();
        Ok(changed)
    }

    /// Deletes a provider's row. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn delete(&self, name: &str) -> Result<bool> {
        let existed = self.delete_as(&Actor::this_process(), name)?;
        self.flush();
        Ok(existed)
    }

    /// Like [`delete`](Self::delete), but records `actor`, and does not wait for the audit trail.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn delete_as(&self, actor: &Actor, name: &str) -> Result<bool> {
        let existed = self.writer.delete(name)?;
        self.invalidate(Some(name));
        if existed {
            self.record(actor, || AuditEvent::ProviderDeleted(name.into()));
        }
        Ok(existed)
    }

    /// Renames a provider's row, and replaces a row that has the new name. Returns whether there was a row to rename.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an invalid name; [`Error::Database`].
    pub fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let existed = self.rename_as(&Actor::this_process(), from, to)?;
        self.flush();
        Ok(existed)
    }

    /// Like [`rename`](Self::rename), but records `actor`, and does not wait for the audit trail.
    ///
    /// # Errors
    /// As for [`rename`](Self::rename).
    pub fn rename_as(&self, actor: &Actor, from: &str, to: &str) -> Result<bool> {
        check_provider_name(to)?;
        let renamed = self.writer.rename(from, to)?;
        self.invalidate(Some(from));
        self.invalidate(Some(to));
        if renamed && from != to {
            self.record(actor, || {
                AuditEvent::ProviderRenamed(from.into(), to.into())
            });
        }
        Ok(renamed)
    }

    fn record(&self, actor: &Actor, event: impl FnOnce() -> AuditEvent) {
        if let Some(audit) = &self.audit {
            audit.record(actor.clone(), event());
        }
    }

    fn flush(&self) {
        if let Some(audit) = &self.audit {
            audit.flush(BUSY_TIMEOUT);
        }
    }

    /// Calls `done` once [`try_get`](Self::try_get) returns something else than [`TryGet::Locked`]. After 30 s it returns
    /// that the database stayed locked. One thread waits for all callers.
    pub fn when_readable(self: &Arc<Self>, name: &str, done: Done) {
        let mut waiters = self.waiters.lock();
        let is_first = waiters.is_empty();
        waiters.push(Waiter {
            name: name.to_owned(),
            until: Instant::now() + BUSY_TIMEOUT,
            done,
        });
        if is_first {
            let configs = self.clone();
            let poll = move || configs.poll_for_waiters();
            if let Err(error) = sync::spawn("database", SMALL_STACK, poll) {
                tracing::warn!("a locked database cannot be waited for: {error}");
                self.reader.lock().set_locked(Instant::now());
                let all: Vec<Waiter> = waiters.drain(..).collect();
                drop(waiters);
                all.into_iter().for_each(|waiter| (waiter.done)());
            }
        }
    }

    /// Finds out in the background whether the database can be written, for [`refusal`](Self::refusal), and then calls `done`.
    pub fn check_writable(self: &Arc<Self>, done: Done) {
        let done = Arc::new(Mutex::new(Some(done)));
        let call = |done: &Mutex<Option<Done>>| {
            if let Some(done) = done.lock().take() {
                done();
            }
        };
        let (configs, on_thread) = (self.clone(), done.clone());
        let check = move || {
            *configs.refusal.lock() = crate::sqlite::check_writable(&configs.path).err();
            call(&on_thread);
        };
        if let Err(error) = sync::spawn("database", LARGE_STACK, check) {
            tracing::warn!("it is not known whether the database can be written: {error}");
            call(&done);
        }
    }

    /// Why the last [`check_writable`](Self::check_writable) found that the database cannot be written.
    pub fn refusal(&self) -> Option<Error> {
        self.refusal.lock().as_ref().map(Error::duplicate)
    }

    fn poll_for_waiters(&self) {
        loop {
            let names: Vec<(String, Instant)> = self
                .waiters
                .lock()
                .iter()
                .map(|waiter| (waiter.name.clone(), waiter.until))
                .collect();
            let now = Instant::now();
            let answered: Vec<String> = names
                .into_iter()
                .filter(|(name, until)| {
                    let is_late = *until <= now;
                    if is_late {
                        self.reader.lock().set_locked(now);
                    }
                    is_late || !matches!(self.try_get(name), TryGet::Locked)
                })
                .map(|(name, _)| name)
                .collect();
            let (done, is_last) = {
                let mut waiters = self.waiters.lock();
                let done: Vec<Waiter> = waiters
                    .extract_if(.., |waiter| answered.contains(&waiter.name))
                    .collect();
                (done, waiters.is_empty())
            };
            done.into_iter().for_each(|waiter| (waiter.done)());
            if is_last {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks again until there is an answer or the time is over.
    fn poll<T>(&self, ask: impl Fn() -> Option<Result<T>>) -> Result<T> {
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            match ask() {
                Some(answer) => return answer,
                None if Instant::now() >= until => return Err(locked(&self.path)),
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }
}

fn locked(path: &Path) -> Error {
    let reason = format!(
        "another program has locked it for over {} s",
        BUSY_TIMEOUT.as_secs()
    );
    database_error(path, libc::EBUSY, &reason)
}

fn unreadable(path: &Path, name: &str, reason: &str) -> Error {
    let reason =
        format!("the configuration of {name} in it is {reason}; saving a whole object replaces it");
    database_error(path, libc::EIO, &reason)
}

pub(crate) fn database_of(settings: &Settings) -> PathBuf {
    settings.state_dir.join("cloud/jobs.db")
}

fn cache_key(name: &str) -> String {
    format!("provider:{name}:config")
}

fn cache_prefix(name: &str) -> String {
    format!("provider:{name}:")
}

/// The cache of [`ProviderConfigs::global`]: keys `provider:{name}:config`, 300 s, 100 entries.
pub fn provider_config_cache() -> &'static TtlCache<ProviderConfig> {
    static CACHE: OnceLock<TtlCache<ProviderConfig>> = OnceLock::new();
    CACHE.get_or_init(|| TtlCache::new(PROVIDER_CONFIG))
}

/// Drops a provider (`None`: all) from [`provider_config_cache`]. Returns how many entries there were.
pub fn invalidate_provider_cache(provider: Option<&str>) -> usize {
    match provider {
        Some(name) => provider_config_cache().invalidate_prefix(&cache_prefix(name)),
        None => provider_config_cache().clear(),
    }
}

#[cfg(test)]
mod tests;
