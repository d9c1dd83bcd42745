//! Changes of the table: each in a transaction of its own, on a connection of its own, which waits for other programs as
//! long as SimpleTuner does.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::unreadable;
use crate::audit::{ChangedKeys, timestamp};
use crate::error::Result;
use crate::simpletuner_db::config::{to_stored, wipe};
use crate::simpletuner_db::json::parse_object;
use crate::sqlite::{
    BUSY_TIMEOUT, Mode, connect, connect_or_create, database_error, from_sqlite, has_table,
    identify,
};

pub(super) const TABLE: &str = "provider_config";
pub(super) const CREATE: &str = "CREATE TABLE IF NOT EXISTS provider_config (
    provider TEXT PRIMARY KEY,
    config TEXT NOT NULL DEFAULT '{}',
    updated_at TEXT NOT NULL
)";

/// Writes the table. Knows neither the cache nor the audit trail.
pub(super) struct Writer {
    path: PathBuf,
}

impl Writer {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Saves a whole object, whose tokens are stored as they are.
    pub(super) fn save(&self, name: &str, text: &[u8]) -> Result<ChangedKeys> {
        let (text, mut config) = to_stored(name, text)?;
        let changed = self.write(|transaction| {
            let mut before = stored_object(transaction, name)
                .map_err(|e| from_sqlite(&self.path, &e))?
                .and_then(Result::ok)
                .unwrap_or_default();
            put(transaction, name, text.as_str()).map_err(|e| from_sqlite(&self.path, &e))?;
            let changed = compare(&before, &config);
            before.values_mut().for_each(wipe);
            Ok(changed)
        });
        config.values_mut().for_each(wipe);
        changed
    }

    /// Changes an object in one transaction, so that no save of another program is lost.
    pub(super) fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<ChangedKeys> {
        self.write(|transaction| {
            let stored =
                stored_object(transaction, name).map_err(|e| from_sqlite(&self.path, &e))?;
            let mut before = match stored {
                None => Map::new(),
                Some(Ok(object)) => object,
                Some(Err(reason)) => return Err(unreadable(&self.path, name, &reason)),
            };
            let mut after = before.clone();
            change(&mut after);
            let changed = compare(&before, &after);
            before.values_mut().for_each(wipe);
            let text = serde_json::to_vec(&after).map(zeroize::Zeroizing::new);
            after.values_mut().for_each(wipe);
            let text = text.map_err(|e| database_error(&self.path, libc::EIO, &e.to_string()))?;
            let (text, mut object) = to_stored(name, &text)?;
            object.values_mut().for_each(wipe);
            put(transaction, name, text.as_str()).map_err(|e| from_sqlite(&self.path, &e))?;
            Ok(changed)
        })
    }

    /// Deletes a row. Returns whether there was one.
    pub(super) fn delete(&self, name: &str) -> Result<bool> {
        self.write_if_exists(|transaction| {
            transaction.execute("DELETE FROM provider_config WHERE provider = ?1", [name])
        })
    }

    /// Renames a row, and replaces one that has the new name. Returns whether there was a row to rename.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<bool> {
        self.write_if_exists(|transaction| {
            let exists = "SELECT EXISTS (SELECT 1 FROM provider_config WHERE provider = ?1)";
            let exists: bool = transaction.query_row(exists, [from], |row| row.get(0))?;
            if !exists || from == to {
                return Ok(usize::from(exists));
            }
            transaction.execute("DELETE FROM provider_config WHERE provider = ?1", [to])?;
            transaction.execute(
                "UPDATE provider_config SET provider = ?1, updated_at = ?3 WHERE provider = ?2",
                params![to, from, timestamp(SystemTime::now())],
            )
        })
    }

    fn write_if_exists(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> Result<bool> {
        if identify(&self.path)?.is_none() {
            return Ok(false);
        }
        let mut connection = connect(&self.path, Mode::Write, BUSY_TIMEOUT)?;
        let count = in_transaction(
            &mut connection,
            |transaction| match has_table(transaction, &self.path, TABLE)? {
                true => work(transaction).map_err(|e| from_sqlite(&self.path, &e)),
                false => Ok(0),
            },
            &self.path,
        )?;
        Ok(count > 0)
    }

    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = connect_or_create(&self.path, BUSY_TIMEOUT)?;
        in_transaction(
            &mut connection,
            |transaction| {
                if !has_table(transaction, &self.path, TABLE)? {
                    let created = transaction.execute_batch(CREATE);
                    created.map_err(|e| from_sqlite(&self.path, &e))?;
                }
                work(transaction)
            },
            &self.path,
        )
    }
}

/// Runs `work` in a transaction that holds the write lock from its beginning.
fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    path: &Path,
) -> Result<T> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = begun.map_err(|e| from_sqlite(path, &e))?;
    let done = work(&transaction)?;
    transaction.commit().map_err(|e| from_sqlite(path, &e))?;
    Ok(done)
}

/// A provider's stored object, or why the stored text is not one; `None` if there is no row.
fn stored_object(
    transaction: &Transaction<'_>,
    name: &str,
) -> rusqlite::Result<Option<Result<Map<String, Value>, String>>> {
    let text = "SELECT config FROM provider_config WHERE provider = ?1";
    let stored = transaction.query_row(text, [name], |row| {
        Ok(match row.get_ref(0)?.as_bytes() {
            Ok(text) => parse_object(text),
            Err(_) => Err("not text".to_owned()),
        })
    });
    stored.optional()
}

/// Sets only the columns that are known here; INSERT OR REPLACE would reset all others.
fn put(transaction: &Transaction<'_>, name: &str, text: &str) -> rusqlite::Result<()> {
    let row = params![name, text, timestamp(SystemTime::now())];
    let changed = transaction.execute(
        "UPDATE provider_config SET config = ?2, updated_at = ?3 WHERE provider = ?1",
        row,
    )?;
    if changed == 0 {
        transaction.execute(
            "INSERT INTO provider_config (provider, config, updated_at) VALUES (?1, ?2, ?3)",
            row,
        )?;
    }
    Ok(())
}

fn compare(before: &Map<String, Value>, after: &Map<String, Value>) -> ChangedKeys {
    let set = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value));
    let removed = before.keys().filter(|key| !after.contains_key(*key));
    ChangedKeys {
        set: set.map(|(key, _)| key.clone()).collect(),
        removed: removed.cloned().collect(),
    }
}
