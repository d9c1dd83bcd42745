//! A database of rows that are signed one upon the other (HMAC-SHA256), so that a row which is changed, removed or put in
//! between shows. The form is SimpleTuner's (`audit_log`); a check walks all rows by id.
//!
//! Of our own chain the oldest rows may be removed. A row that says so (`audit.pruned`) then names the last hash that
//! was removed, and is signed as all others are: so the chain still has a beginning that can be checked.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::hmac;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::json;

use super::actor::{Actor, UserNames};
use super::row::{Entry, of_trail};
use crate::error::{Error, Result};
use crate::state::database::{
    FileId, PATIENCE, connect, connect_or_create, explain, identify, is_no_table,
};
use crate::state::time::timestamp;

/// What the first row is signed upon.
const GENESIS: &str = "genesis";
/// The type of the row that says what was removed.
const PRUNED: &str = "audit.pruned";

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

/// A row as it is shown.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number.
    pub id: i64,
    /// When it happened, as it is stored.
    pub timestamp: String,
    /// What kind of thing happened.
    pub event_type: String,
    /// Who did it.
    pub username: Option<String>,
    /// What it was done to.
    pub target: Option<String>,
    /// What happened, in words.
    pub action: String,
    /// More, as a JSON object.
    pub details: String,
}

/// The first row out of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number.
    pub id: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many rows there are.
    pub rows: u64,
    /// How many were removed from the beginning, as a row of the chain says.
    pub removed: u64,
    /// The first row that is out of the chain, if there is one.
    pub broken: Option<Broken>,
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
        let mut connection = self.connect(PATIENCE)?;
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
        let connection = connect(&self.path, PATIENCE).map_err(failed)?;
        match self.walk(&connection, key, last) {
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
        let mut walk = Walk {
            takes_the_first: from > 0,
            is_ours: self.is_ours,
            ..Walk::default()
        };
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
        let mut connection = self.connect(PATIENCE)?;
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

/// Reads the rows of a chain, those of the past and those to come.
pub struct Reader {
    path: PathBuf,
    open: Option<(FileId, Connection)>,
    /// The number of the last row that was given.
    shown: i64,
}

impl Reader {
    /// The last rows, the oldest of them first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn last(&mut self, most: u32) -> Result<Vec<Row>> {
        let mut rows = self.select(
            "SELECT id, timestamp, event_type, actor_username, target_id, action, details FROM audit_log
             WHERE id > ?1 ORDER BY id DESC LIMIT ?2",
            0,
            // The newest one tells where `since` goes on, though it may not be wanted itself.
            most.max(1),
        )?;
        rows.reverse();
        self.note(&rows);
        let surplus = rows.len().saturating_sub(most as usize);
        Ok(rows.split_off(surplus))
    }

    /// The rows that were added since the last call, at most so many.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn since(&mut self, most: u32) -> Result<Vec<Row>> {
        let rows = self.select(
            "SELECT id, timestamp, event_type, actor_username, target_id, action, details FROM audit_log
             WHERE id > ?1 ORDER BY id LIMIT ?2",
            self.shown,
            most,
        )?;
        self.note(&rows);
        Ok(rows)
    }

    fn note(&mut self, rows: &[Row]) {
        self.shown = rows.last().map_or(self.shown, |row| row.id);
    }

    fn select(&mut self, sql: &str, after: i64, most: u32) -> Result<Vec<Row>> {
        let Some(there) = identify(&self.path)? else {
            self.open = None;
            return Ok(Vec::new());
        };
        let failed = |e| explain(&self.path, &e);
        let mut after = after;
        if !matches!(&self.open, Some((id, _)) if *id == there) {
            if self.open.is_some() {
                // Another one has taken its place.
                after = 0;
            }
            self.open = Some((there, connect(&self.path, PATIENCE).map_err(failed)?));
        }
        let Some((_, connection)) = &self.open else {
            return Ok(Vec::new());
        };
        let select = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map(params![after, most], |row| {
                let text = |column| row.get_ref(column).map(as_stored);
                let optional = |column| match row.get_ref(column)? {
                    ValueRef::Null => Ok(None),
                    value => Ok::<_, rusqlite::Error>(Some(as_stored(value))),
                };
                Ok(Row {
                    id: row.get(0)?,
                    timestamp: text(1)?,
                    event_type: text(2)?,
                    username: optional(3)?,
                    target: optional(4)?,
                    action: text(5)?,
                    details: text(6)?,
                })
            })?;
            rows.collect()
        };
        match select() {
            Err(error) if is_no_table(&error) => Ok(Vec::new()),
            rows => rows.map_err(failed),
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

/// What is signed of a row, and the signature.
struct Signed<'a> {
    id: i64,
    timestamp: &'a str,
    event_type: &'a str,
    actor_id: &'a str,
    action: &'a str,
    details: &'a str,
    previous_hash: &'a str,
    entry_hash: &'a str,
}

impl Signed<'_> {
    fn hash(&self, key: &hmac::Key) -> String {
        let mut context = hmac::Context::with_key(key);
        let parts = [
            self.timestamp,
            self.event_type,
            self.actor_id,
            self.action,
            self.details,
            self.previous_hash,
        ];
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                context.update(b"|");
            }
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A check under way.
#[derive(Default)]
struct Walk {
    /// It does not begin at the beginning.
    takes_the_first: bool,
    is_ours: bool,
    rows: u64,
    /// The first row's number, and what it is signed upon.
    first: Option<(i64, String)>,
    last: Option<(i64, String)>,
    /// The hash that was the last one removed, and how many were, by the last row that tells.
    pruned: Option<(String, u64)>,
    broken: Option<Broken>,
}

impl Walk {
    fn step(&mut self, key: &hmac::Key, row: &Signed<'_>) {
        self.rows += 1;
        let is_whole = row.hash(key) == row.entry_hash;
        if is_whole && row.event_type == PRUNED {
            let details: serde_json::Value = serde_json::from_str(row.details).unwrap_or_default();
            let last_hash = details["last_hash"].as_str().unwrap_or_default();
            let removed = details["removed_in_all"].as_u64().unwrap_or_default();
            self.pruned = Some((last_hash.to_owned(), removed));
        }
        if self.broken.is_none() {
            self.broken = self
                .problem(row, is_whole)
                .map(|reason| Broken { id: row.id, reason });
        }
        if self.first.is_none() {
            self.first = Some((row.id, row.previous_hash.to_owned()));
        }
        self.last = Some((row.id, row.entry_hash.to_owned()));
    }

    fn problem(&self, row: &Signed<'_>, is_whole: bool) -> Option<String> {
        match &self.last {
            Some((id, hash)) if hash != row.previous_hash => Some(format!(
                "it does not follow row {id}: a row before it was changed, removed, or added at the same time"
            )),
            None if !self.takes_the_first && !self.is_ours && row.previous_hash != GENESIS => {
                Some("rows before it are missing".into())
            }
            _ if !is_whole => Some("it was changed, or signed with another key".into()),
            _ => None,
        }
    }

    fn end(self, given_out: Option<i64>) -> Verified {
        let begins = match &self.first {
            Some((_, previous)) if previous == GENESIS || self.takes_the_first => None,
            Some((id, previous)) => match &self.pruned {
                Some((last_hash, _)) if last_hash == previous => None,
                _ => Some(Broken {
                    id: *id,
                    reason: "rows before it are missing, and no row says that they were removed"
                        .into(),
                }),
            },
            None => None,
        };
        let last = self.last.as_ref().map_or(0, |(id, _)| *id);
        let ends = given_out.filter(|given_out| *given_out > last);
        let ends = ends.map(|given_out| Broken {
            id: last + 1,
            reason: format!("it is missing, and with it all up to row {given_out}, the last one"),
        });
        Verified {
            rows: self.rows,
            removed: self.pruned.map_or(0, |(_, removed)| removed),
            broken: begins.or(self.broken).or(ends),
        }
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
    let user = UserNames::default().get(actor.uid);
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
