//! The table `provider_config` of SimpleTuner's database `cloud/jobs.db` (rows of provider, JSON object and time), behind
//! the cache of the same name.
//!
//! Reading never waits for another program's lock: there is one connection for it, which gives up at once, and whoever
//! must have an answer asks again. Writing has a connection of its own for each write, which waits as long as
//! SimpleTuner's do.

mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use crate::audit::{AuditOptions, AuditTrail};
use super::config::ProviderConfig;
use crate::sqlite::{FileId, BUSY_TIMEOUT, connect, explain, failed, identify, is_busy, is_no_table};
use crate::cache::{CacheRegistry, PROVIDER_CONFIG, TtlCache};
use crate::error::{Error, Result};
use crate::provider::Done;
use crate::settings::{Flags, Settings};

/// How often a reader that has to wait asks again.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// For how long a database that stayed locked is not waited for again.
const FAILURE: Duration = Duration::from_secs(1);

/// What can be said about a provider's configuration without waiting.
#[derive(Debug)]
pub enum Known {
    /// It is there.
    Found(ProviderConfig),
    /// There is no such row.
    Missing,
    /// It cannot be read.
    Failed(Error),
    /// Another program has locked the database just now ([`ProviderConfigs::fetch`]).
    Pending,
}

/// The configurations of all providers.
pub struct ProviderConfigs {
    path: PathBuf,
    cache: TtlCache<ProviderConfig>,
    /// Where it is recorded who saves what.
    audit: Option<Arc<AuditTrail>>,
    // Held for some microseconds, never while another program is waited for; the cache is filled and dropped from under
    // it, so that what was read before a change is never put there after it.
    reader: Mutex<Reader>,
    waiting: Arc<Mutex<Vec<Waiter>>>,
}

/// The connection for reading, and what was learned by it.
#[derive(Default)]
struct Reader {
    open: Option<(FileId, Connection)>,
    /// SQLite's `data_version`: another number when another connection has changed the database.
    version: Option<i64>,
    /// The providers as of that version; of the last time, while the database cannot be read.
    names: Option<Arc<[String]>>,
    /// It stayed locked until then.
    locked_at: Option<Instant>,
}

struct Waiter {
    name: String,
    until: Instant,
    done: Done,
}

/// What the database says of itself.
enum Seen {
    /// There is none.
    Absent,
    /// The names are those of now, and nothing in the cache is older than them.
    Current,
    /// It cannot be told just now.
    Locked,
}

impl ProviderConfigs {
    /// Those of the default settings' state folder.
    ///
    /// # Errors
    /// [`Error::Settings`]. The database is not opened before it is asked.
    pub fn open() -> Result<Self> {
        Ok(Self::from_settings(&Settings::load(&Flags::default())?))
    }

    /// Those of these settings' state folder (`cloud/jobs.db` in it).
    pub fn from_settings(settings: &Settings) -> Self {
        let audit = AuditOptions {
            reads: false,
            ..AuditOptions::from_settings(settings)
        };
        Self::at(database_of(settings)).with_audit(Arc::new(AuditTrail::new(&audit)))
    }

    /// Those in this database, behind a cache of their own, and without a trail of who saves what.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            cache: TtlCache::new(PROVIDER_CONFIG),
            audit: None,
            reader: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// The same, with a trail.
    #[must_use]
    pub fn with_audit(self, audit: Arc<AuditTrail>) -> Self {
        Self {
            audit: Some(audit),
            ..self
        }
    }

    /// Those of these settings, behind a cache that is added to the registry as `provider_config`, with this trail.
    pub fn in_registry(
        registry: &CacheRegistry,
        settings: &Settings,
        audit: Arc<AuditTrail>,
    ) -> Self {
        let configs = Self::at(database_of(settings)).with_audit(audit);
        registry.register("provider_config", Arc::new(configs.cache.clone()));
        configs
    }

    /// Those of the default settings, one for the whole process, behind [`provider_config_cache`].
    ///
    /// # Errors
    /// As for [`open`](Self::open); the next call tries again.
    pub fn global() -> Result<Arc<Self>> {
        static GLOBAL: Mutex<Option<Arc<ProviderConfigs>>> = Mutex::new(None);
        let mut global = GLOBAL.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(configs) = &*global {
            return Ok(configs.clone());
        }
        let configs = Self {
            cache: provider_config_cache().clone(),
            ..Self::open()?
        };
        Ok(global.insert(Arc::new(configs)).clone())
    }

    /// The database, whether it is there or not.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cache in front of it, keys `provider:{name}:config`.
    pub fn cache(&self) -> &TtlCache<ProviderConfig> {
        &self.cache
    }

    /// Has the next look at a provider (at all of them: `None`) ask the database; how many entries were dropped.
    pub fn invalidate(&self, provider: Option<&str>) -> usize {
        let _reader = self.reader();
        match provider {
            Some(name) => self.cache.invalidate_prefix(&prefix(name)),
            None => self.cache.clear(),
        }
    }

    /// A provider's configuration; an empty object where there is none. Waits for a lock, 30 s at most.
    ///
    /// # Errors
    /// [`Error::Database`]: the database cannot be read, or what it holds is no JSON object.
    pub fn get(&self, name: &str) -> Result<ProviderConfig> {
        self.wait_for(|| match self.known(name) {
            Known::Found(config) => Some(Ok(config)),
            Known::Missing => Some(Ok(ProviderConfig::default())),
            Known::Failed(error) => Some(Err(error)),
            Known::Pending => None,
        })
    }

    /// The names of all providers that have one, in order. Waits for a lock, 30 s at most.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn list(&self) -> Result<Vec<String>> {
        self.wait_for(|| {
            let mut reader = self.reader();
            match self.look(&mut reader) {
                Ok(Seen::Locked) => None,
                Ok(_) => Some(Ok(reader.names())),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// The names as far as they are known without waiting: those of the last time, while the database cannot be read.
    pub fn names(&self) -> Vec<String> {
        let mut reader = self.reader();
        if let Err(error) = self.look(&mut reader) {
            tracing::warn!("{error}");
        }
        reader.names()
    }

    /// What can be said about a provider's configuration without waiting: a few microseconds where it is cached.
    pub fn known(&self, name: &str) -> Known {
        let mut reader = self.reader();
        let seen = match self.look(&mut reader) {
            Ok(seen) => seen,
            Err(error) => return Known::Failed(error),
        };
        if let Some(names) = &reader.names
            && names.binary_search_by(|known| (**known).cmp(name)).is_err()
        {
            return Known::Missing;
        }
        if let Some(config) = self.cache.get(&key(name)) {
            return Known::Found(config);
        }
        if let Seen::Locked = seen {
            return match reader.locked_at {
                Some(at) if at.elapsed() < FAILURE => Known::Failed(self.locked()),
                _ => Known::Pending,
            };
        }
        self.read(&mut reader, name)
    }

    /// Calls `done` when [`known`](Self::known) says something else than [`Known::Pending`]: after 30 s at most, and then
    /// that the database stayed locked. One thread waits for all.
    pub fn fetch(self: &Arc<Self>, name: &str, done: Done) {
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        let nobody_looks = waiting.is_empty();
        waiting.push(Waiter {
            name: name.to_owned(),
            until: Instant::now() + BUSY_TIMEOUT,
            done,
        });
        if nobody_looks {
            let configs = self.clone();
            let thread = std::thread::Builder::new().name("database".into());
            let spawned = thread
                .stack_size(256 * 1024)
                .spawn(move || configs.look_for_all());
            if let Err(error) = spawned {
                tracing::warn!("a locked database cannot be waited for: {error}");
                self.reader().locked_at = Some(Instant::now());
                let all: Vec<Waiter> = waiting.drain(..).collect();
                drop(waiting);
                all.into_iter().for_each(|waiter| (waiter.done)());
            }
        }
    }

    fn look_for_all(&self) {
        loop {
            let waiters = || self.waiting.lock().unwrap_or_else(|e| e.into_inner());
            let names: Vec<(String, Instant)> = waiters()
                .iter()
                .map(|waiter| (waiter.name.clone(), waiter.until))
                .collect();
            let now = Instant::now();
            let settled: Vec<String> = names
                .into_iter()
                .filter(|(name, until)| {
                    let is_late = *until <= now;
                    if is_late {
                        self.reader().locked_at = Some(now);
                    }
                    is_late || !matches!(self.known(name), Known::Pending)
                })
                .map(|(name, _)| name)
                .collect();
            let (done, left) = {
                let mut waiters = waiters();
                let done: Vec<Waiter> = waiters
                    .extract_if(.., |waiter| settled.contains(&waiter.name))
                    .collect();
                (done, !waiters.is_empty())
            };
            done.into_iter().for_each(|waiter| (waiter.done)());
            if !left {
                return;
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Asks again until there is an answer, or the time is over.
    fn wait_for<T>(&self, ask: impl Fn() -> Option<Result<T>>) -> Result<T> {
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            match ask() {
                Some(answer) => return answer,
                None if Instant::now() >= until => return Err(self.locked()),
                None => std::thread::sleep(ASK_EVERY),
            }
        }
    }

    /// Sees to it that nothing older than the database is held, as far as that can be told without waiting.
    fn look(&self, reader: &mut Reader) -> Result<Seen> {
        let seen = self.look_at(reader);
        if seen.is_err() {
            // Whatever it was, the next look begins anew.
            reader.open = None;
            reader.version = None;
        }
        seen
    }

    fn look_at(&self, reader: &mut Reader) -> Result<Seen> {
        let Some(there) = identify(&self.path)? else {
            self.forget(reader);
            reader.open = None;
            reader.names = None;
            return Ok(Seen::Absent);
        };
        if !matches!(&reader.open, Some((id, _)) if *id == there) {
            reader.open = None;
            reader.version = None;
            match connect(&self.path, Duration::ZERO) {
                Ok(connection) => reader.open = Some((there, connection)),
                Err(error) if is_busy(&error) => return Ok(Seen::Locked),
                Err(error) => return Err(explain(&self.path, &error)),
            }
        }
        let Some((_, connection)) = &reader.open else {
            return Ok(Seen::Locked);
        };
        // Asked before the names are: what changes in between is seen the next time.
        let version = connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
        let version = match version {
            Ok(version) if reader.version == Some(version) => return Ok(Seen::Current),
            Ok(version) => version,
            Err(error) if is_busy(&error) => return Ok(Seen::Locked),
            Err(error) => return Err(explain(&self.path, &error)),
        };
        let names = match all_names(connection) {
            Ok(names) => names,
            Err(error) if is_busy(&error) => return Ok(Seen::Locked),
            Err(error) => return Err(explain(&self.path, &error)),
        };
        self.forget(reader);
        reader.version = Some(version);
        reader.names = Some(names.into());
        Ok(Seen::Current)
    }

    /// Drops from the cache what was read of the database.
    fn forget(&self, reader: &mut Reader) {
        for name in reader.names.iter().flat_map(|names| names.iter()) {
            self.cache.delete(&key(name));
        }
    }

    fn read(&self, reader: &mut Reader, name: &str) -> Known {
        let Some((_, connection)) = &reader.open else {
            return Known::Missing;
        };
        let row = connection.query_row(
            "SELECT config, updated_at FROM provider_config WHERE provider = ?1",
            [name],
            |row| {
                let updated_at = row.get_ref(1)?.as_str().unwrap_or_default().to_owned();
                Ok(match row.get_ref(0)?.as_bytes() {
                    Ok(text) => ProviderConfig::from_row(text, &updated_at),
                    Err(_) => Err("it is no text".to_owned()),
                })
            },
        );
        match row.optional() {
            Ok(Some(Ok(config))) => {
                self.cache.set(&key(name), config.clone());
                Known::Found(config)
            }
            Ok(Some(Err(reason))) => Known::Failed(self.unreadable(name, &reason)),
            Ok(None) => Known::Missing,
            Err(error) if is_busy(&error) => Known::Pending,
            Err(error) => Known::Failed(explain(&self.path, &error)),
        }
    }

    fn locked(&self) -> Error {
        let reason = format!(
            "another program has locked it for over {} s",
            BUSY_TIMEOUT.as_secs()
        );
        failed(&self.path, libc::EBUSY, &reason)
    }

    fn unreadable(&self, name: &str, reason: &str) -> Error {
        let reason = format!(
            "the configuration of {name} in it is {reason}; saving a whole object replaces it"
        );
        failed(&self.path, libc::EIO, &reason)
    }
}

impl Reader {
    fn names(&self) -> Vec<String> {
        self.names
            .as_deref()
            .map(<[String]>::to_vec)
            .unwrap_or_default()
    }
}

fn database_of(settings: &Settings) -> PathBuf {
    settings.state_dir.join("cloud/jobs.db")
}

fn key(name: &str) -> String {
    format!("provider:{name}:config")
}

fn prefix(name: &str) -> String {
    format!("provider:{name}:")
}

fn all_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = match connection.prepare("SELECT provider FROM provider_config") {
        Err(error) if is_no_table(&error) => return Ok(Vec::new()),
        statement => statement?,
    };
    let names = statement.query_map([], |row| {
        // One that is no text is nobody's name.
        Ok(row.get_ref(0)?.as_str().unwrap_or_default().to_owned())
    })?;
    let mut names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    Ok(names)
}

/// The cache of [`ProviderConfigs::global`], keys `provider:{name}:config`: 300 s, 100 entries.
pub fn provider_config_cache() -> &'static TtlCache<ProviderConfig> {
    static CACHE: OnceLock<TtlCache<ProviderConfig>> = OnceLock::new();
    CACHE.get_or_init(|| TtlCache::new(PROVIDER_CONFIG))
}

/// Drops a provider's entries from [`provider_config_cache`], or all (`None`); how many there were.
pub fn invalidate_provider_cache(provider: Option<&str>) -> usize {
    match provider {
        Some(name) => provider_config_cache().invalidate_prefix(&prefix(name)),
        None => provider_config_cache().clear(),
    }
}

#[cfg(test)]
mod tests;
