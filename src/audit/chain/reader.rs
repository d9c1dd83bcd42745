//! Reads the rows of a chain for people, including rows that are added later. Verifies nothing.

use std::path::PathBuf;

use rusqlite::params;

use super::{TABLE, to_optional_text, to_text};
use crate::audit::row::SignedColumns;
use crate::error::Result;
use crate::sqlite::{
    BUSY_TIMEOUT, Database, FileId, Mode, connect, from_sqlite, has_table, identify,
};

/// A row to show.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// When it happened, as stored.
    pub timestamp: String,
    /// The kind of event.
    pub event_type: String,
    /// The user.
    pub username: Option<String>,
    /// The key or provider.
    pub target: Option<String>,
    /// Whether the signature covers the user and the target: not in the rows that SimpleTuner wrote.
    pub is_signed: bool,
    /// What happened, as a sentence.
    pub action: String,
    /// More, as a JSON object.
    pub details: String,
}

/// Reads the rows of a chain, and later those that were added.
pub struct ChainReader {
    path: PathBuf,
    open: Option<(FileId, Database)>,
    /// The id of the last row that was returned.
    last_id: i64,
}

impl ChainReader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            last_id: 0,
        }
    }

    /// The last `max` rows, the oldest of them first.
    ///
    /// # Errors
    /// [`Error::Database`](crate::error::Error::Database).
    pub fn last(&mut self, max: u32) -> Result<Vec<Row>> {
        let mut rows = self.select(
            "SELECT id, timestamp, event_type, actor_username, target_id, action, details FROM audit_log
             WHERE id > ?1 ORDER BY id DESC LIMIT ?2",
            0,
            // `new_rows` continues after the newest row, so it is read even for `max` 0.
            max.max(1),
        )?;
        rows.reverse();
        self.advance(&rows);
        let surplus = rows.len().saturating_sub(max as usize);
        Ok(rows.split_off(surplus))
    }

    /// Up to `max` rows that were added since the last call.
    ///
    /// # Errors
    /// [`Error::Database`](crate::error::Error::Database).
    pub fn new_rows(&mut self, max: u32) -> Result<Vec<Row>> {
        let rows = self.select(
            "SELECT id, timestamp, event_type, actor_username, target_id, action, details FROM audit_log
             WHERE id > ?1 ORDER BY id LIMIT ?2",
            self.last_id,
            max,
        )?;
        self.advance(&rows);
        Ok(rows)
    }

    fn advance(&mut self, rows: &[Row]) {
        self.last_id = rows.last().map_or(self.last_id, |row| row.id);
    }

    fn select(&mut self, sql: &str, after: i64, max: u32) -> Result<Vec<Row>> {
        let Some(file) = identify(&self.path)? else {
            self.open = None;
            return Ok(Vec::new());
        };
        let mut after = after;
        if !matches!(&self.open, Some((id, _)) if *id == file) {
            if self.open.is_some() {
                // Another file has replaced it.
                after = 0;
            }
            self.open = Some((file, connect(&self.path, Mode::Read, BUSY_TIMEOUT)?));
        }
        let Some((_, connection)) = &self.open else {
            return Ok(Vec::new());
        };
        if !has_table(connection, &self.path, TABLE)? {
            return Ok(Vec::new());
        }
        let select = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map(params![after, max], |row| {
                let text = |column| row.get_ref(column).map(to_text);
                let optional = |column| row.get_ref(column).map(to_optional_text);
                let details = text(6)?;
                let signed = SignedColumns::of(&details);
                let is_signed = signed.is_some();
                let (username, target) = match signed {
                    Some(signed) => (Some(signed.username), signed.target.map(|(_, id)| id)),
                    None => (optional(3)?, optional(4)?),
                };
                Ok(Row {
                    id: row.get(0)?,
                    timestamp: text(1)?,
                    event_type: text(2)?,
                    username,
                    target,
                    is_signed,
                    action: text(5)?,
                    details,
                })
            })?;
            rows.collect()
        };
        select().map_err(|error| from_sqlite(&self.path, &error))
    }
}
