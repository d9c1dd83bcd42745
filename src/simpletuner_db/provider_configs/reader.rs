//! The connection that reads the table, and what it has read. Never waits for another program's lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::writer::TABLE;
use super::{TryGet, cache_key, locked, unreadable};
use crate::cache::TtlCache;
use crate::error::Result;
use crate::simpletuner_db::config::ProviderConfig;
use crate::sqlite::{Database, FileId, Mode, connect, from_sqlite, has_table, identify, is_busy};

/// After a database has stayed locked, readers fail at once for this long.
const LOCKED_BACKOFF: Duration = Duration::from_secs(1);

/// Held under a mutex for some microseconds. The cache is filled and invalidated under the same mutex, so that a value
/// which was read before a change is never cached after it.
pub(super) struct Reader {
    path: PathBuf,
    cache: TtlCache<ProviderConfig>,
    open: Option<(FileId, Database)>,
    /// SQLite's `data_version`, which differs after another connection has changed the database.
    version: Option<i64>,
    /// The providers at that version; the last known ones while the database cannot be read.
    names: Option<Arc<[String]>>,
    /// When a reader gave up waiting for the lock.
    locked_at: Option<Instant>,
}

/// The database, compared with what was read of it.
pub(super) enum Refreshed {
    /// There is no file.
    Absent,
    /// The names are current, and nothing in the cache is older.
    Current,
    /// Another program has locked it.
    Locked,
}

impl Reader {
    pub(super) fn new(path: PathBuf, cache: TtlCache<ProviderConfig>) -> Self {
        Self {
            path,
            cache,
            open: None,
            version: None,
            names: None,
            locked_at: None,
        }
    }

    /// The names that the last refresh found, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.names
            .as_deref()
            .map(<[String]>::to_vec)
            .unwrap_or_default()
    }

    /// Lets readers fail at once for a while.
    pub(super) fn set_locked(&mut self, now: Instant) {
        self.locked_at = Some(now);
    }

    /// Drops from the cache what is older than the database, as far as that is known without waiting.
    pub(super) fn refresh(&mut self) -> Result<Refreshed> {
        let refreshed = self.try_refresh();
        if refreshed.is_err() {
            // The next refresh connects again.
            self.open = None;
            self.version = None;
        }
        refreshed
    }

    fn try_refresh(&mut self) -> Result<Refreshed> {
        let Some(file) = identify(&self.path)? else {
            self.drop_cached();
            self.open = None;
            self.names = None;
            return Ok(Refreshed::Absent);
        };
        if !matches!(&self.open, Some((id, _)) if *id == file) {
            self.open = None;
            self.version = None;
            match connect(&self.path, Mode::Read, Duration::ZERO) {
                Ok(connection) => self.open = Some((file, connection)),
                Err(error) if error.errno() == libc::EBUSY => return Ok(Refreshed::Locked),
                Err(error) => return Err(error),
            }
        }
        let Some((_, connection)) = &self.open else {
            return Ok(Refreshed::Locked);
        };
        // Before the names: a change in between is then noticed at the next refresh.
        let version = connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
        let version = match version {
            Ok(version) if self.version == Some(version) => return Ok(Refreshed::Current),
            Ok(version) => version,
            Err(error) if is_busy(&error) => return Ok(Refreshed::Locked),
            Err(error) => return Err(from_sqlite(&self.path, &error)),
        };
        let names = match select_names(connection, &self.path) {
            Ok(names) => names,
            Err(error) if error.errno() == libc::EBUSY => return Ok(Refreshed::Locked),
            Err(error) => return Err(error),
        };
        self.drop_cached();
        self.version = Some(version);
        self.names = Some(names.into());
        Ok(Refreshed::Current)
    }

    fn drop_cached(&self) {
        for name in self.names.iter().flat_map(|names| names.iter()) {
            self.cache.delete(&cache_key(name));
        }
    }

    /// See [`ProviderConfigs::try_get`](super::ProviderConfigs::try_get).
    pub(super) fn try_get(&mut self, name: &str) -> TryGet {
        let refreshed = match self.refresh() {
            Ok(refreshed) => refreshed,
            Err(error) => return TryGet::Failed(error),
        };
        if let Some(names) = &self.names
            && names.binary_search_by(|known| (**known).cmp(name)).is_err()
        {
            return TryGet::Missing;
        }
        if let Some(config) = self.cache.get(&cache_key(name)) {
            return TryGet::Found(config);
        }
        if let Refreshed::Locked = refreshed {
            return match self.locked_at {
                Some(at) if at.elapsed() < LOCKED_BACKOFF => TryGet::Failed(locked(&self.path)),
                _ => TryGet::Locked,
            };
        }
        self.select(name)
    }

    fn select(&self, name: &str) -> TryGet {
        let Some((_, connection)) = &self.open else {
            return TryGet::Missing;
        };
        let row = connection.query_row(
            "SELECT config, updated_at FROM provider_config WHERE provider = ?1",
            [name],
            |row| {
                let updated_at = row.get_ref(1)?.as_str().unwrap_or_default().to_owned();
                Ok(match row.get_ref(0)?.as_bytes() {
                    Ok(text) => ProviderConfig::from_row(text, &updated_at),
                    Err(_) => Err("not text".to_owned()),
                })
            },
        );
        match row.optional() {
            Ok(Some(Ok(config))) => {
                self.cache.set(&cache_key(name), config.clone());
                TryGet::Found(config)
            }
            Ok(Some(Err(reason))) => TryGet::Failed(unreadable(&self.path, name, &reason)),
            Ok(None) => TryGet::Missing,
            Err(error) if is_busy(&error) => TryGet::Locked,
            Err(error) => TryGet::Failed(from_sqlite(&self.path, &error)),
        }
    }
}

fn select_names(connection: &Connection, path: &Path) -> Result<Vec<String>> {
    if !has_table(connection, path, TABLE)? {
        return Ok(Vec::new());
    }
    let select = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare("SELECT provider FROM provider_config")?;
        let names = statement.query_map([], |row| {
            // SQLite allows other types in this column; such a row cannot have been saved by name.
            Ok(row.get_ref(0)?.as_str().unwrap_or_default().to_owned())
        })?;
        names.collect()
    };
    let mut names = select().map_err(|error| from_sqlite(path, &error))?;
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    Ok(names)
}
