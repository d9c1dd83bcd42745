//! One transaction of the read trail: reads whose second is over go into the chain, the others into the table `pending`.

use std::time::Instant;

use rusqlite::{Connection, Transaction, params};

use super::coalesced::{CoalescedReads, PendingRow, WrittenTo};
use crate::audit::chain::Appender;
use crate::audit::row::UnsignedRow;
use crate::audit::user_names::UserNames;
use crate::sqlite::LazyStatement;

/// The owner of a row is the process that will move it into the chain.
pub(super) const PENDING_TABLE: &str = "CREATE TABLE IF NOT EXISTS pending (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    event_type TEXT NOT NULL,
    actor_username TEXT,
    target_type TEXT,
    target_id TEXT,
    action TEXT NOT NULL,
    details TEXT NOT NULL
)";

pub(super) struct Batch<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    /// This process.
    pub(super) owner: &'a str,
    pub(super) now: Instant,
    /// Whether all reads go into the chain, for a flush.
    pub(super) all: bool,
    /// The names of the users whose reads are due.
    pub(super) names: &'a UserNames,
}

impl Batch<'_> {
    /// Where each read was written that has changed since the last batch.
    pub(super) fn write(
        &self,
        appender: &mut Appender<'_>,
        reads: &CoalescedReads,
    ) -> rusqlite::Result<Vec<(u64, WrittenTo)>> {
        let mut written = Vec::new();
        let mut statements = Statements::new(self.transaction);
        for (number, read) in reads.iter() {
            let is_due = self.all || read.is_due(self.now);
            // Another server may have assumed that this process died, and appended the pending row with the count it had.
            let (count, pending) = match read.pending {
                Some(row) if !is_due && row.count == read.count => continue,
                Some(row) => match statements.is_pending(row.id, self.owner)? {
                    true => (read.count, Some(row.id)),
                    false => (read.count - row.count, None),
                },
                None => (read.count, None),
            };
            if is_due {
                if let Some(id) = pending {
                    statements.delete(id)?;
                }
                if count > 0 {
                    appender.append(&read.row(self.names, count))?;
                }
                written.push((number, WrittenTo::Chain));
            } else {
                let row = read.row(self.names, count);
                let id = statements.put(pending, &row, self.owner)?;
                written.push((number, WrittenTo::Pending(PendingRow { id, count })));
            }
        }
        Ok(written)
    }

    /// Moves the pending rows of dead servers into the chain.
    pub(super) fn recover(&self, appender: &mut Appender<'_>) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare(
            "SELECT id, owner, timestamp, event_type, actor_username, target_type, target_id, action, details
             FROM pending ORDER BY id",
        )?;
        let rows = statement.query_map([], |row| {
            let unsigned = UnsignedRow {
                timestamp: row.get(2)?,
                event_type: row.get(3)?,
                username: row.get(4)?,
                target_type: row.get(5)?,
                target_id: row.get(6)?,
                action: row.get(7)?,
                details: row.get(8)?,
            };
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, unsigned))
        })?;
        let left: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        let mut statements = Statements::new(self.transaction);
        for (id, row_owner, row) in left {
            let pid = row_owner.split(' ').next().and_then(|pid| pid.parse().ok());
            if pid.is_some_and(|pid| owner(pid) == row_owner) {
                continue;
            }
            statements.delete(id)?;
            appender.append(&row)?;
        }
        Ok(())
    }
}

/// What is done to the table, for many rows.
struct Statements<'a> {
    connection: &'a Connection,
    is_pending: LazyStatement<'a>,
    delete: LazyStatement<'a>,
    update: LazyStatement<'a>,
    insert: LazyStatement<'a>,
}

impl<'a> Statements<'a> {
    fn new(connection: &'a Connection) -> Self {
        let lazy = |sql| LazyStatement::new(connection, sql);
        Self {
            connection,
            is_pending: lazy("SELECT 1 FROM pending WHERE id = ?1 AND owner = ?2"),
            delete: lazy("DELETE FROM pending WHERE id = ?1"),
            update: lazy("UPDATE pending SET details = ?2, actor_username = ?3 WHERE id = ?1"),
            insert: lazy(
                "INSERT INTO pending (owner, timestamp, event_type, actor_username, target_type, target_id, action, details)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            ),
        }
    }

    fn is_pending(&mut self, id: i64, owner: &str) -> rusqlite::Result<bool> {
        self.is_pending.prepared()?.exists(params![id, owner])
    }

    fn delete(&mut self, id: i64) -> rusqlite::Result<()> {
        self.delete.prepared()?.execute([id]).map(drop)
    }

    /// The row's id.
    fn put(&mut self, id: Option<i64>, row: &UnsignedRow, owner: &str) -> rusqlite::Result<i64> {
        if let Some(id) = id {
            let update = self.update.prepared()?;
            update.execute(params![id, row.details, row.username])?;
            return Ok(id);
        }
        self.insert.prepared()?.execute(params![
            owner,
            row.timestamp,
            row.event_type,
            row.username,
            row.target_type,
            row.target_id,
            row.action,
            row.details
        ])?;
        Ok(self.connection.last_insert_rowid())
    }
}

/// A process as the column `owner` has it: pid and start time, because pids are reused (proc(5)).
pub(super) fn owner(pid: u32) -> String {
    let started = crate::process::started_at(pid).map(|started| started.to_string());
    format!("{pid} {}", started.as_deref().unwrap_or("-"))
}
