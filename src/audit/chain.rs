//! A database of rows that are signed one upon the other (HMAC-SHA256), so that a row which is changed, removed or put in
//! between shows. The form is SimpleTuner's (`audit_log`); a check walks all rows by id.
//!
//! Of our own chain the oldest rows may be removed. A row that says so (`audit.pruned`) then names the last hash that
//! was removed, and is signed as all others are: so the chain still has a beginning that can be checked.

mod reader;
mod verifier;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::hmac;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::json;

use super::actor::{Actor, user_of};
use super::row::{Entry, of_trail};
use crate::error::{Error, Result};
use crate::sqlite::{
    BUSY_TIMEOUT, connect, connect_or_create, explain, identify, is_no_table,
};
use crate::sqlite::timestamp;
use verifier::{GENESIS, PRUNED, Signed, Walk};

pub use reader::{Reader, Row};
pub use verifier::{Broken, Verified};

const TABLE: &str = "CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp TEXT NOT NULL,
    event_type TEXT NOT NULL,
    actor_id INTEGER,
    actor_username TEXT,
    actor_ip TEXT,
    target_type TEXT,
    target_id TEXT,
    action TEXT NOT NULL,
    details TEXT NOT NULL DEFAULT '{}',
    previous_hash TEXT NOT NULL,
    entry_hash TEXT NOT NULL
);
CREATE INDEX idx_audit_log_timestamp ON audit_log (timestamp);
CREATE INDEX idx_audit_log_event_type ON audit_log (event_type);
CREATE INDEX idx_audit_log_actor ON audit_log (actor_id);
CREATE INDEX idx_audit_log_target ON audit_log (target_type, target_id);";

/// A chain, whether its database is there or not.
#[derive(Clone, Debug)]
pub struct Chain {
    path: PathBuf,
    /// Rows may have been removed from its beginning.
    is_ours: bool,
}

impl Chain {
    /// SimpleTuner's own, in this database.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            is_ours: false,
        }
    }

    /// One of ours, whose oldest rows may be removed.
    pub fn of_reads(path: PathBuf) -> Self {
        Self {
            path,
            is_ours: true,
        }
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to write by; the database and its table are made where they are missing.
    pub(super) fn connect(&self, patience: Duration) -> Result<Connection> {
        let mut connection = connect_or_create(&self.path, patience)?;
        let failed = |e| explain(&self.path, &e);
        let there = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'audit_log')";
        let is_there = |connection: &Connection| connection.query_row(there, [], |row| row.get(0));
        if !is_there(&connection).map_err(failed)? {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let transaction = begun.map_err(failed)?;
            if !is_there(&transaction).map_err(failed)? {
                transaction.execute_batch(TABLE).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
        }
        Ok(connection)
    }

    /// Adds rows: all, or none.
    pub(super) fn append(&self, key: &hmac::Key, entries: &[Entry]) -> Result<()> {
        let mut connection = self.connect(BUSY_TIMEOUT)?;
        let append = |connection: &mut Connection| -> rusqlite::Result<()> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut appender = Appender::new(&transaction, key)?;
            for entry in entries {
                appender.append(entry)?;
            }
            transaction.commit()
        };
        append(&mut connection).map_err(|e| explain(&self.path, &e))
    }

    /// Checks every row. There is nothing to check where there is no database.
    ///
    /// # Errors
    /// [`Error::Database`]: it cannot be read.
    pub fn verify(&self, key: &hmac::Key) -> Result<Verified> {
        self.check(key, None)
    }

    /// Checks the last rows, at most so many: the first of them is taken to be right about the row before it.
    pub(super) fn verify_last(&self, key: &hmac::Key, most: u32) -> Result<Verified> {
        self.check(key, Some(most))
    }

    fn check(&self, key: &hmac::Key, last: Option<u32>) -> Result<Verified> {
        let nothing = Verified {
            rows: 0,
            removed: 0,
            broken: None,
        };
        if identify(&self.path)?.is_none() {
            return Ok(nothing);
        }
        let failed = |e| explain(&self.path, &e);
        let connection = connect(&self.path, BUSY_TIMEOUT).map_err(failed)?;
        // One look at all of it: rows may be added meanwhile.
        let walked = connection
            .unchecked_transaction()
            .and_then(|look| self.walk(&look, key, last));
        match walked {
            Err(error) if is_no_table(&error) => Ok(nothing),
            walked => walked.map_err(failed),
        }
    }

    fn walk(
        &self,
        connection: &Connection,
        key: &hmac::Key,
        last: Option<u32>,
    ) -> rusqlite::Result<Verified> {
        let mut statement = connection.prepare(
            "SELECT id, timestamp, event_type, actor_id, action, details, previous_hash, entry_hash FROM audit_log
             WHERE id > ?1 ORDER BY id",
        )?;
        let highest: Option<i64> =
            connection.query_row("SELECT max(id) FROM audit_log", [], |row| row.get(0))?;
        let from = match (last, highest) {
            (Some(most), Some(highest)) => (highest - i64::from(most)).max(0),
            _ => 0,
        };
        let mut walk = Walk::new(self.is_ours, from > 0);
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            let text = |column| row.get_ref(column).map(as_stored);
            walk.step(
                key,
                &Signed {
                    id: row.get(0)?,
                    timestamp: &text(1)?,
                    event_type: &text(2)?,
                    actor_id: &text(3)?,
                    action: &text(4)?,
                    details: &text(5)?,
                    previous_hash: &text(6)?,
                    entry_hash: &text(7)?,
                },
            );
        }
        let sequence = "SELECT seq FROM sqlite_sequence WHERE name = 'audit_log'";
        let given_out: Option<i64> = connection
            .query_row(sequence, [], |row| row.get(0))
            .optional()
            .unwrap_or_default();
        Ok(walk.end(given_out))
    }

    /// Removes the rows from before a time, from the beginning up to the first that is younger, and adds one that says
    /// so. How many were removed.
    ///
    /// # Errors
    /// [`Error::Settings`] for SimpleTuner's own chain, which has no such rows; [`Error::Database`].
    pub fn prune(&self, key: &hmac::Key, before: SystemTime) -> Result<u64> {
        if !self.is_ours {
            return Err(Error::Settings(format!(
                "{} is SimpleTuner's own trail; nothing is removed from it",
                self.path.display()
            )));
        }
        if identify(&self.path)?.is_none() {
            return Ok(0);
        }
        let failed = |e| explain(&self.path, &e);
        let mut connection = self.connect(BUSY_TIMEOUT)?;
        prune(&mut connection, key, before).map_err(failed)
    }

    /// What shows its rows.
    pub fn reader(&self) -> Reader {
        Reader {
            path: self.path.clone(),
            open: None,
            shown: 0,
        }
    }
}

/// A value as Python's `str` has it.
fn as_stored(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "None".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
    }
}

/// Adds rows within a transaction that has the right to write.
pub(super) struct Appender<'a> {
    transaction: &'a Transaction<'a>,
    key: &'a hmac::Key,
    last_hash: String,
}

impl<'a> Appender<'a> {
    pub(super) fn new(
        transaction: &'a Transaction<'a>,
        key: &'a hmac::Key,
    ) -> rusqlite::Result<Self> {
        let last = transaction.query_row(
            "SELECT entry_hash FROM audit_log ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get_ref(0).map(as_stored),
        );
        let last_hash = last.optional()?.unwrap_or_else(|| GENESIS.to_owned());
        Ok(Self {
            transaction,
            key,
            last_hash,
        })
    }

    pub(super) fn append(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        let hash = Signed {
            id: 0,
            timestamp: &entry.timestamp,
            event_type: &entry.event_type,
            actor_id: "None",
            action: &entry.action,
            details: &entry.details,
            previous_hash: &self.last_hash,
            entry_hash: "",
        }
        .hash(self.key);
        self.transaction.execute(
            "INSERT INTO audit_log (timestamp, event_type, actor_username, target_type, target_id, action, details,
             previous_hash, entry_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                entry.timestamp,
                entry.event_type,
                entry.username,
                entry.target_type,
                entry.target_id,
                entry.action,
                entry.details,
                self.last_hash,
                hash
            ],
        )?;
        self.last_hash = hash;
        Ok(())
    }
}

pub(super) fn prune(
    connection: &mut Connection,
    key: &hmac::Key,
    before: SystemTime,
) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |sql: &str, value: &dyn rusqlite::ToSql| -> rusqlite::Result<Option<i64>> {
        transaction.query_row(sql, [value], |row| row.get(0))
    };
    let before = timestamp(before);
    let younger = "SELECT min(id) FROM audit_log WHERE timestamp >= ?1";
    let through = match number(younger, &before)? {
        Some(first) => number("SELECT max(id) FROM audit_log WHERE id < ?1", &first)?,
        None => number(
            "SELECT max(id) FROM audit_log WHERE timestamp < ?1",
            &before,
        )?,
    };
    let Some(through) = through else {
        return Ok(0);
    };
    let last_hash = transaction.query_row(
        "SELECT entry_hash FROM audit_log WHERE id = ?1",
        [through],
        |row| row.get_ref(0).map(as_stored),
    )?;
    let before_that =
        "SELECT details FROM audit_log WHERE event_type = ?1 ORDER BY id DESC LIMIT 1";
    let before_that: Option<String> = transaction
        .query_row(before_that, [PRUNED], |row| row.get_ref(0).map(as_stored))
        .optional()?;
    let before_that = before_that
        .and_then(|details| serde_json::from_str::<serde_json::Value>(&details).ok())
        .and_then(|details| details["removed_in_all"].as_u64())
        .unwrap_or_default();
    let count = "SELECT count(*) FROM audit_log WHERE id <= ?1";
    let removed = number(count, &through)?.unwrap_or_default().unsigned_abs();
    let actor = Actor::this_process();
    let user = user_of(actor.uid);
    let entry = of_trail(
        PRUNED,
        format!("{removed} rows from before {before} removed, the last of them row {through}"),
        json!({"removed": removed, "removed_in_all": before_that + removed, "through": through, "last_hash": last_hash}),
        &actor,
        &user,
        timestamp(SystemTime::now()),
    );
    // First, so that it follows the last row whatever is removed.
    Appender::new(&transaction, key)?.append(&entry)?;
    transaction.execute("DELETE FROM audit_log WHERE id <= ?1", [through])?;
    transaction.commit()?;
    Ok(removed)
}

#[cfg(test)]
mod tests;
