//! Saving: each in a transaction of its own, on a connection of its own, which waits for other programs as long as
//! SimpleTuner's do.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::ProviderConfigs;
use crate::error::{Error, Result};
use crate::audit::{Act, Actor, ChangedKeys};
use crate::simpletuner_db::config::{check_provider_name, to_stored, wipe};
use crate::sqlite::{
    BUSY_TIMEOUT, connect, connect_or_create, explain, failed, identify, is_no_table,
};
use crate::simpletuner_db::json::parse_object;
use crate::sqlite::timestamp;

pub(super) const CREATE: &str = "CREATE TABLE IF NOT EXISTS provider_config (
    provider TEXT PRIMARY KEY,
    config TEXT NOT NULL DEFAULT '{}',
    updated_at TEXT NOT NULL
)";

impl ProviderConfigs {
    /// Saves the whole object of a provider, and gives the keys that this changed. The first save makes the database, its
    /// folder and the table. Columns that a newer version has are left alone. The database is written, then the cache
    /// dropped, then the audit trail written; that it could not be is told in the log only.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a name that is none, [`Error::TooLarge`], [`Error::Database`]; nothing has changed then.
    pub fn save(&self, name: &str, config: &Map<String, Value>) -> Result<ChangedKeys> {
        let text = serde_json::to_vec(config).map(zeroize::Zeroizing::new);
        let text = text.map_err(|e| Error::Malformed {
            what: format!("the configuration of {name}"),
            reason: e.to_string(),
        })?;
        let changed = self.save_text_by(&Actor::this_process(), name, &text)?;
        self.flush();
        Ok(changed)
    }

    /// The same for the text of an object, whose tokens are stored as they are, in the name of somebody else. The row of
    /// the audit trail may be written a little later.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    pub fn save_text_by(&self, actor: &Actor, name: &str, text: &[u8]) -> Result<ChangedKeys> {
        check_provider_name(name)?;
        let (text, mut config) = to_stored(name, text)?;
        let changed = self.write(name, |transaction| {
            let mut before = stored_object(transaction, name)
                .map_err(|e| explain(&self.path, &e))?
                .and_then(Result::ok)
                .unwrap_or_default();
            put(transaction, name, text.as_str()).map_err(|e| explain(&self.path, &e))?;
            let changed = compare(&before, &config);
            before.values_mut().for_each(wipe);
            Ok(changed)
        });
        config.values_mut().for_each(wipe);
        let changed = changed?;
        self.record(actor, || {
            Act::ProviderConfigured(name.into(), changed.clone())
        });
        Ok(changed)
    }

    /// Changes a provider's object in one transaction, so that what another program saves meanwhile is not lost.
    ///
    /// # Errors
    /// As for [`save`](Self::save); and [`Error::Database`] where what is stored is no object, which is left as it is.
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<ChangedKeys> {
        check_provider_name(name)?;
        let changed = self.write(name, |transaction| {
            let stored = stored_object(transaction, name).map_err(|e| explain(&self.path, &e))?;
            let mut before = match stored {
                None => Map::new(),
                Some(Ok(object)) => object,
                Some(Err(reason)) => return Err(self.unreadable(name, &reason)),
            };
            let mut after = before.clone();
            change(&mut after);
            let changed = compare(&before, &after);
            before.values_mut().for_each(wipe);
            let text = serde_json::to_vec(&after).map(zeroize::Zeroizing::new);
            after.values_mut().for_each(wipe);
            let text = text.map_err(|e| failed(&self.path, libc::EIO, &e.to_string()))?;
            let (text, mut object) = to_stored(name, &text)?;
            object.values_mut().for_each(wipe);
            put(transaction, name, text.as_str()).map_err(|e| explain(&self.path, &e))?;
            Ok(changed)
        })?;
        self.record(&Actor::this_process(), || {
            Act::ProviderConfigured(name.into(), changed.clone())
        });
        self.flush();
        Ok(changed)
    }

    /// Deletes a provider's row; whether there was one.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn delete(&self, name: &str) -> Result<bool> {
        let was_there = self.delete_by(&Actor::this_process(), name)?;
        self.flush();
        Ok(was_there)
    }

    /// The same in the name of somebody else.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn delete_by(&self, actor: &Actor, name: &str) -> Result<bool> {
        let was_there = self.write_if_there(name, |transaction| {
            transaction.execute("DELETE FROM provider_config WHERE provider = ?1", [name])
        })?;
        if was_there {
            self.record(actor, || Act::ProviderDeleted(name.into()));
        }
        Ok(was_there)
    }

    /// Gives a provider's row another name, over one that has it; whether there was such a row.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a name that is none; [`Error::Database`].
    pub fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let was_there = self.rename_by(&Actor::this_process(), from, to)?;
        self.flush();
        Ok(was_there)
    }

    /// The same in the name of somebody else.
    ///
    /// # Errors
    /// As for [`rename`](Self::rename).
    pub fn rename_by(&self, actor: &Actor, from: &str, to: &str) -> Result<bool> {
        check_provider_name(to)?;
        let renamed = self.write_if_there(from, |transaction| {
            let there = "SELECT EXISTS (SELECT 1 FROM provider_config WHERE provider = ?1)";
            let there: bool = transaction.query_row(there, [from], |row| row.get(0))?;
            if !there || from == to {
                return Ok(usize::from(there));
            }
            transaction.execute("DELETE FROM provider_config WHERE provider = ?1", [to])?;
            transaction.execute(
                "UPDATE provider_config SET provider = ?1, updated_at = ?3 WHERE provider = ?2",
                params![to, from, timestamp(SystemTime::now())],
            )
        })?;
        self.invalidate(Some(to));
        if renamed && from != to {
            self.record(actor, || Act::ProviderRenamed(from.into(), to.into()));
        }
        Ok(renamed)
    }

    fn record(&self, actor: &Actor, act: impl FnOnce() -> Act) {
        if let Some(audit) = &self.audit {
            audit.record(actor.clone(), act());
        }
    }

    fn flush(&self) {
        if let Some(audit) = &self.audit {
            audit.flush(BUSY_TIMEOUT);
        }
    }

    fn write_if_there(
        &self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> Result<bool> {
        if identify(&self.path)?.is_none() {
            return Ok(false);
        }
        let connected = connect(&self.path, BUSY_TIMEOUT);
        let mut connection = connected.map_err(|e| explain(&self.path, &e))?;
        let count = in_transaction(
            &mut connection,
            |transaction| match work(transaction) {
                Err(error) if is_no_table(&error) => Ok(0),
                count => count.map_err(|e| explain(&self.path, &e)),
            },
            &self.path,
        )?;
        self.invalidate(Some(name));
        Ok(count > 0)
    }

    fn write<T>(&self, name: &str, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = connect_or_create(&self.path, BUSY_TIMEOUT)?;
        let done = in_transaction(
            &mut connection,
            |transaction| {
                let made = transaction.execute_batch(CREATE);
                made.map_err(|e| explain(&self.path, &e))?;
                work(transaction)
            },
            &self.path,
        )?;
        self.invalidate(Some(name));
        Ok(done)
    }
}

/// Work that counts whole or not at all; it has the right to write from its beginning.
fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    path: &Path,
) -> Result<T> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = begun.map_err(|e| explain(path, &e))?;
    let done = work(&transaction)?;
    transaction.commit().map_err(|e| explain(path, &e))?;
    Ok(done)
}

/// The object that is stored of a provider, or why it is none; `None`: there is no row.
fn stored_object(
    transaction: &Transaction<'_>,
    name: &str,
) -> rusqlite::Result<Option<Result<Map<String, Value>, String>>> {
    let text = "SELECT config FROM provider_config WHERE provider = ?1";
    let stored = transaction.query_row(text, [name], |row| {
        Ok(match row.get_ref(0)?.as_bytes() {
            Ok(text) => parse_object(text),
            Err(_) => Err("no text".to_owned()),
        })
    });
    stored.optional()
}

/// Sets the two columns that are ours to set; an INSERT OR REPLACE would empty all others.
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
