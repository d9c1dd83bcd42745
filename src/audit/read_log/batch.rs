//! Reads on their way into the database: into the chain when their second is over, beside it until then.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use rusqlite::{OptionalExtension, Transaction, params};

use crate::audit::actor::Actor;
use crate::audit::chain::Appender;
use crate::audit::user_names::Names;
use crate::audit::row::{Entry, ReadOf};
use crate::sqlite::timestamp;

/// Rows beside the chain. Their owner is the process that will put them into it.
pub(super) const PENDING: &str = "CREATE TABLE IF NOT EXISTS pending (
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

/// Reads that become one row.
pub(super) struct Together {
    pub(super) actor: Actor,
    pub(super) what: ReadOf,
    pub(super) at: SystemTime,
    pub(super) since: Instant,
    pub(super) count: u64,
    /// The number of its row beside the chain, and the count that stands there.
    pub(super) pending: Option<(i64, u64)>,
}

impl Together {
    pub(super) fn entry(&self, names: &Names, count: u64) -> Entry {
        let at = timestamp(self.at);
        let user = names.get(self.actor.uid);
        self.what.entry(&self.actor, &user, at, count)
    }
}

/// One batch on its way into the database.
pub(super) struct Transfer<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) owner: &'a str,
    pub(super) is_due: &'a dyn Fn(&Together) -> bool,
    /// Of whoever's rows are due.
    pub(super) names: &'a Names,
}

/// What becomes of rows: their count and number beside the chain, or `None`: they are in it.
pub(super) type Transferred = Vec<(u64, Option<(u64, i64)>)>;

impl Transfer<'_> {
    pub(super) fn write(
        &self,
        appender: &mut Appender<'_>,
        all: &BTreeMap<u64, Together>,
    ) -> rusqlite::Result<Transferred> {
        let mut transferred = Vec::new();
        for (number, together) in all {
            let is_due = (self.is_due)(together);
            // Somebody else may have put it into the chain as it stood, who took this process for dead.
            let (count, pending) = match together.pending {
                Some((_, counted)) if !is_due && counted == together.count => continue,
                Some((id, counted)) => match self.is_there(id)? {
                    true => (together.count, Some(id)),
                    false => (together.count - counted, None),
                },
                None => (together.count, None),
            };
            if is_due {
                if let Some(id) = pending {
                    let delete = "DELETE FROM pending WHERE id = ?1";
                    self.transaction.execute(delete, [id])?;
                }
                if count > 0 {
                    appender.append(&together.entry(self.names, count))?;
                }
                transferred.push((*number, None));
            } else {
                let id = self.put(pending, &together.entry(self.names, count))?;
                transferred.push((*number, Some((count, id))));
            }
        }
        Ok(transferred)
    }

    fn is_there(&self, id: i64) -> rusqlite::Result<bool> {
        let there = "SELECT 1 FROM pending WHERE id = ?1 AND owner = ?2";
        let found = self
            .transaction
            .query_row(there, params![id, self.owner], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    fn put(&self, id: Option<i64>, entry: &Entry) -> rusqlite::Result<i64> {
        if let Some(id) = id {
            let update = "UPDATE pending SET details = ?2, actor_username = ?3 WHERE id = ?1";
            self.transaction
                .execute(update, params![id, entry.details, entry.username])?;
            return Ok(id);
        }
        self.transaction.execute(
            "INSERT INTO pending (owner, timestamp, event_type, actor_username, target_type, target_id, action, details)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                self.owner,
                entry.timestamp,
                entry.event_type,
                entry.username,
                entry.target_type,
                entry.target_id,
                entry.action,
                entry.details
            ],
        )?;
        Ok(self.transaction.last_insert_rowid())
    }

    /// Finishes the rows of servers that have ended.
    pub(super) fn recover(&self, appender: &mut Appender<'_>) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare(
            "SELECT id, owner, timestamp, event_type, actor_username, target_type, target_id, action, details
             FROM pending ORDER BY id",
        )?;
        let rows = statement.query_map([], |row| {
            let entry = Entry {
                timestamp: row.get(2)?,
                event_type: row.get(3)?,
                username: row.get(4)?,
                target_type: row.get(5)?,
                target_id: row.get(6)?,
                action: row.get(7)?,
                details: row.get(8)?,
            };
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, entry))
        })?;
        let left: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        for (id, whose, entry) in left {
            let pid = whose.split(' ').next().and_then(|pid| pid.parse().ok());
            if pid.is_some_and(|pid| owner(pid) == whose) {
                continue;
            }
            let delete = "DELETE FROM pending WHERE id = ?1";
            self.transaction.execute(delete, [id])?;
            appender.append(&entry)?;
        }
        Ok(())
    }
}

/// A process, told from a later one of the same number by when it began (proc(5)).
pub(super) fn owner(pid: u32) -> String {
    let started = crate::process::started_at(pid).map(|started| started.to_string());
    format!("{pid} {}", started.as_deref().unwrap_or("-"))
}
