//! A hash chain in a database: each row's HMAC-SHA256 covers the previous row's, so changing, removing or inserting a row
//! is detected. The table (`audit_log`) and the bytes that are signed are SimpleTuner's.
//!
//! The oldest rows of this program's own chain may be removed. A signed row (`audit.pruned`) then names the hash of the
//! last removed row, so the beginning of the chain can still be verified.

mod appender;
mod prune;
mod reader;
mod verifier;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::hmac;
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, TransactionBehavior};

use super::row::UnsignedRow;
use crate::error::{Error, Result};
use crate::sqlite::{
    BUSY_TIMEOUT, Database, Mode, connect, connect_or_create, explain, has_table, identify,
};
use verifier::{ChainVerifier, SignedRow};

pub(super) use appender::Appender;
pub(super) use prune::prune;
pub use reader::{ChainReader, Row};
pub use verifier::{Broken, Verified};

/// How many of the last rows are verified before this process appends its first one; `audit verify` checks all.
const MAX_CHECKED: u32 = 10_000;

const TABLE: &str = "audit_log";
const CREATE: &str = "CREATE TABLE audit_log (
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

/// A chain; its database need not exist yet.
#[derive(Clone, Debug)]
pub struct Chain {
    path: PathBuf,
    /// Whether old rows may be removed from the beginning.
    is_prunable: bool,
}

impl Chain {
    /// The chain that SimpleTuner writes, too.
    pub fn shared(path: PathBuf) -> Self {
        Self {
            path,
            is_prunable: false,
        }
    }

    /// A chain of this program alone, which may be pruned.
    pub fn own(path: PathBuf) -> Self {
        Self {
            path,
            is_prunable: true,
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection for writing. Creates a missing database or table.
    pub(super) fn connect(&self, busy_timeout: Duration) -> Result<Database> {
        let mut connection = connect_or_create(&self.path, busy_timeout)?;
        let failed = |e| explain(&self.path, &e);
        if !has_table(&connection, &self.path, TABLE)? {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let transaction = begun.map_err(failed)?;
            // Another program may have created it before the transaction began.
            if !has_table(&transaction, &self.path, TABLE)? {
                transaction.execute_batch(CREATE).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
        }
        Ok(connection)
    }

    /// Appends all rows or none.
    pub(super) fn append(&self, key: &hmac::Key, rows: &[UnsignedRow]) -> Result<()> {
        let mut connection = self.connect(BUSY_TIMEOUT)?;
        let append = |connection: &mut Database| -> rusqlite::Result<()> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut appender = Appender::new(&transaction, key)?;
            for row in rows {
                appender.append(row)?;
            }
            transaction.commit()
        };
        append(&mut connection).map_err(|e| explain(&self.path, &e))
    }

    /// Verifies every row. A missing database has no rows.
    ///
    /// # Errors
    /// [`Error::Database`] if the database cannot be read.
    pub fn verify(&self, key: &hmac::Key) -> Result<Verified> {
        self.check(key, None)
    }

    /// Verifies the last `max` rows; takes the first one's link to the row before it on trust.
    fn verify_last(&self, key: &hmac::Key, max: u32) -> Result<Verified> {
        self.check(key, Some(max))
    }

    /// Verifies the last rows on a thread of its own, and logs a broken chain. Appending goes on either way.
    pub(super) fn check_in_background(&self, key: hmac::Key) {
        let chain = self.clone();
        let check = move || match chain.verify_last(&key, MAX_CHECKED) {
            Ok(Verified {
                broken: Some(Broken { id, reason }),
                ..
            }) => tracing::warn!(
                "the audit trail {} is broken at row {id}: {reason}; rows are still appended to it",
                chain.path.display()
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!("the audit trail cannot be checked: {error}"),
        };
        let thread = std::thread::Builder::new()
            .name("audit-check".into())
            .stack_size(256 * 1024);
        if let Err(error) = thread.spawn(check) {
            tracing::warn!("the audit trail cannot be checked: {error}");
        }
    }

    fn check(&self, key: &hmac::Key, last: Option<u32>) -> Result<Verified> {
        let no_rows = Verified {
            rows: 0,
            removed: 0,
            broken: None,
        };
        if identify(&self.path)?.is_none() {
            return Ok(no_rows);
        }
        let failed = |e| explain(&self.path, &e);
        let connection = connect(&self.path, Mode::Read, BUSY_TIMEOUT)?;
        if !has_table(&connection, &self.path, TABLE)? {
            return Ok(no_rows);
        }
        // In one transaction, because other programs may append meanwhile.
        let transaction = connection.unchecked_transaction().map_err(failed)?;
        let verified = self.check_rows(&connection, key, last).map_err(failed);
        drop(transaction);
        verified
    }

    fn check_rows(
        &self,
        connection: &Database,
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
            (Some(max), Some(highest)) => (highest - i64::from(max)).max(0),
            _ => 0,
        };
        let mut verifier = ChainVerifier::new(self.is_prunable, from > 0);
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            connection.restart_clock();
            let text = |column| row.get_ref(column).map(to_text);
            verifier.check(
                key,
                &SignedRow {
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
        let last_given_id: Option<i64> = connection
            .query_row(sequence, [], |row| row.get(0))
            .optional()
            .unwrap_or_default();
        Ok(verifier.finish(last_given_id))
    }

    /// Removes the oldest rows, up to the first one that is not before the given time, and appends a row that says so.
    /// Returns how many it removed.
    ///
    /// # Errors
    /// [`Error::Settings`] for SimpleTuner's own chain, which must stay whole; [`Error::Database`].
    pub fn prune(&self, key: &hmac::Key, before: SystemTime) -> Result<u64> {
        if !self.is_prunable {
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

    /// A reader of its rows.
    pub fn reader(&self) -> ChainReader {
        ChainReader::new(self.path.clone())
    }
}

/// A column as Python's `str` shows it, which is what SimpleTuner signs.
fn to_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "None".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
    }
}

#[cfg(test)]
mod tests;
