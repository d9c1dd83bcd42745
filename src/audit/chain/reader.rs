//! Shows the rows of a chain, those of the past and those to come. Checks nothing.

use std::path::PathBuf;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::as_stored;
use crate::error::Result;
use crate::sqlite::{FileId, BUSY_TIMEOUT, connect, explain, identify, is_no_table};

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

/// Reads the rows of a chain, those of the past and those to come.
pub struct Reader {
    pub(super) path: PathBuf,
    pub(super) open: Option<(FileId, Connection)>,
    /// The number of the last row that was given.
    pub(super) shown: i64,
}

impl Reader {
    /// The last rows, the oldest of them first.
    ///
    /// # Errors
    /// [`Error::Database`](crate::error::Error::Database).
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
    /// [`Error::Database`](crate::error::Error::Database).
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
            self.open = Some((there, connect(&self.path, BUSY_TIMEOUT).map_err(failed)?));
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
