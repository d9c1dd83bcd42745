//! A hash chain in a database: each row's HMAC-SHA256 covers the previous row's, so changing, removing or inserting a row
//! is detected. The table (`audit_log`) and the bytes that are signed are SimpleTuner's.
//!
//! The oldest rows of this program's own chain may be removed. A signed row (`audit.pruned`) then names the hash of the
//! last removed row, so the beginning of the chain can still be verified.

mod anchor;
mod appender;
mod copies;
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
    BUSY_TIMEOUT, Database, Mode, connect, connect_or_create, from_sqlite, has_table, identify,
};
use crate::sync::{self, SMALL_STACK};
use anchor::ANCHOR;
use verifier::{ChainVerifier, OtherColumns, SignedRow};

pub use anchor::Anchor;
pub(super) use appender::Appender;
pub(crate) use copies::{LastRow, first_difference, has_row, last_row, names_later_row};
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

/// The end of a chain.
pub(super) struct End {
    pub(super) id: i64,
    pub(super) hash: String,
    /// The last row that is not about the other trail.
    pub(super) last_event: i64,
}

/// A hash chain in a database, which need not exist yet.
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

    /// The name of the database file, for people.
    pub(super) fn file_name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string()
    }

    /// A connection for writing. Creates a missing database or table.
    pub(super) fn connect(&self, busy_timeout: Duration) -> Result<Database> {
        let mut connection = connect_or_create(&self.path, busy_timeout)?;
        let failed = |e| from_sqlite(&self.path, &e);
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
    pub(super) fn append(
        &self,
        key: &hmac::Key,
        rows: &[UnsignedRow],
        busy_timeout: Duration,
    ) -> Result<()> {
        let mut connection = self.connect(busy_timeout)?;
        let append = |connection: &mut Database| -> rusqlite::Result<()> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut appender = Appender::new(&transaction, key)?;
            for row in rows {
                appender.append(row)?;
            }
            drop(appender);
            transaction.commit()
        };
        append(&mut connection).map_err(|e| from_sqlite(&self.path, &e))
    }

    /// A connection for reading; `None` without a database or table.
    fn connect_to_read(&self, busy_timeout: Duration) -> Result<Option<Database>> {
        if identify(&self.path)?.is_none() {
            return Ok(None);
        }
        let connection = connect(&self.path, Mode::Read, busy_timeout)?;
        let has_table = has_table(&connection, &self.path, TABLE)?;
        Ok(has_table.then_some(connection))
    }

    fn select<T>(
        &self,
        busy_timeout: Duration,
        sql: &str,
        value: &dyn rusqlite::ToSql,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let Some(connection) = self.connect_to_read(busy_timeout)? else {
            return Ok(None);
        };
        let found = connection.query_row(sql, [value], read).optional();
        found.map_err(|error| from_sqlite(&self.path, &error))
    }

    /// Its end; `None` without a row that is not about the other trail.
    pub(super) fn end(&self, busy_timeout: Duration) -> Result<Option<End>> {
        let end = "SELECT last.id, last.entry_hash, event.id FROM
            (SELECT id, entry_hash FROM audit_log ORDER BY id DESC LIMIT 1) AS last,
            (SELECT id FROM audit_log WHERE instr(details, ?1) <> 1 ORDER BY id DESC LIMIT 1) AS event";
        self.select(busy_timeout, end, &ANCHOR, |row| {
            Ok(End {
                id: row.get(0)?,
                hash: row.get_ref(1).map(to_text)?,
                last_event: row.get(2)?,
            })
        })
    }

    /// The id of the other trail's row that this one names last.
    pub(super) fn last_anchor(&self, busy_timeout: Duration) -> Result<Option<i64>> {
        // Found by the index on event types in SimpleTuner's trail, and near the end in the other.
        let last = "SELECT id, details FROM audit_log WHERE event_type = 'credential.used' AND instr(details, ?1) = 1
            ORDER BY id DESC LIMIT 1";
        let anchor = self.select(busy_timeout, last, &ANCHOR, |row| {
            Ok(Anchor::of_row(row.get(0)?, &row.get_ref(1).map(to_text)?))
        })?;
        Ok(anchor.flatten().map(|anchor| anchor.id))
    }

    /// What is wrong with this trail, of which the other one names a row.
    ///
    /// # Errors
    /// [`Error::Database`] if the database cannot be read.
    fn contradiction(
        &self,
        verified: &Verified,
        anchor: &Anchor,
        other: &Chain,
    ) -> Result<Option<Broken>> {
        if anchor.id <= verified.removed_through {
            return Ok(None);
        }
        let hash = "SELECT entry_hash FROM audit_log WHERE id = ?1";
        let hash = self.select(BUSY_TIMEOUT, hash, &anchor.id, |row| {
            row.get_ref(0).map(to_text)
        })?;
        let what = match hash {
            Some(hash) if hash == anchor.hash => return Ok(None),
            Some(_) => "it is another row",
            None if identify(&self.path)?.is_none() => "the database is missing",
            None => "it is missing: rows were removed from the end, or an older copy was put back",
        };
        Ok(Some(Broken {
            id: anchor.id,
            reason: format!(
                "{what}, but row {} of {} names it",
                anchor.named_by,
                other.file_name()
            ),
        }))
    }

    /// Verifies two trails that name each other's rows. `None`: the database does not exist, and should not.
    ///
    /// # Errors
    /// [`Error::Database`] if a database cannot be read.
    pub fn verify_both(chains: [&Chain; 2], key: &hmac::Key) -> Result<[Option<Verified>; 2]> {
        let found = [chains[0].verify(key)?, chains[1].verify(key)?];
        let mut both = [None, None];
        for at in [0, 1] {
            let (mut verified, other) = (found[at].clone(), 1 - at);
            if let (None, Some(anchor)) = (&verified.broken, &found[other].anchor) {
                verified.broken = chains[at].contradiction(&verified, anchor, chains[other])?;
            }
            let exists = identify(&chains[at].path)?.is_some();
            both[at] = (exists || verified.broken.is_some()).then_some(verified);
        }
        Ok(both)
    }

    /// The id of the row that has this hash.
    ///
    /// # Errors
    /// [`Error::Database`] if the database cannot be read.
    pub fn find(&self, hash: &str) -> Result<Option<i64>> {
        let row = "SELECT id FROM audit_log WHERE entry_hash = ?1 ORDER BY id LIMIT 1";
        self.select(BUSY_TIMEOUT, row, &hash, |row| row.get(0))
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

    /// Verifies the last rows on a thread of its own, and logs a broken chain. Rows are appended either way.
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
        if let Err(error) = sync::spawn("audit-check", SMALL_STACK, check) {
            tracing::warn!("the audit trail cannot be checked: {error}");
        }
    }

    fn check(&self, key: &hmac::Key, last: Option<u32>) -> Result<Verified> {
        let failed = |e| from_sqlite(&self.path, &e);
        let Some(connection) = self.connect_to_read(BUSY_TIMEOUT)? else {
            return Ok(Verified::default());
        };
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
            "SELECT id, timestamp, event_type, actor_id, action, details, previous_hash, entry_hash, actor_username,
             actor_ip, target_type, target_id FROM audit_log WHERE id > ?1 ORDER BY id",
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
            let optional = |column| row.get_ref(column).map(to_optional_text);
            let others = [optional(8)?, optional(9)?, optional(10)?, optional(11)?];
            let [username, ip, target_type, target_id] = others.each_ref().map(Option::as_deref);
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
                    others: OtherColumns {
                        username,
                        ip,
                        target_type,
                        target_id,
                    },
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
        let failed = |e| from_sqlite(&self.path, &e);
        let mut connection = self.connect(BUSY_TIMEOUT)?;
        prune(&mut connection, key, before).map_err(failed)
    }

    /// A reader of its rows.
    pub fn reader(&self) -> ChainReader {
        ChainReader::new(self.path.clone())
    }
}

fn to_optional_text(value: ValueRef<'_>) -> Option<String> {
    (value != ValueRef::Null).then(|| to_text(value))
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
