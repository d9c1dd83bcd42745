//! What is compared between copies of a trail: where each ends, and whether one goes on from the other. Knows no file.

use rusqlite::{Connection, OptionalExtension};

use super::anchor::{ANCHOR, Anchor};
use super::{TABLE, to_text};

/// The last row of a trail: its id and its hash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastRow {
    pub(crate) id: i64,
    pub(crate) hash: String,
}

fn has_table(connection: &Connection) -> rusqlite::Result<bool> {
    let named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ?1";
    connection.prepare(named)?.exists([TABLE])
}

/// The last row; `None`: there is none.
pub(crate) fn last_row(connection: &Connection) -> rusqlite::Result<Option<LastRow>> {
    if !has_table(connection)? {
        return Ok(None);
    }
    let last = "SELECT id, entry_hash FROM audit_log ORDER BY id DESC LIMIT 1";
    let last = connection.query_row(last, [], |row| {
        Ok(LastRow {
            id: row.get(0)?,
            hash: row.get_ref(1).map(to_text)?,
        })
    });
    last.optional()
}

/// Whether the trail has this row.
pub(crate) fn has_row(connection: &Connection, row: &LastRow) -> rusqlite::Result<bool> {
    if !has_table(connection)? {
        return Ok(false);
    }
    let hash = "SELECT entry_hash FROM audit_log WHERE id = ?1";
    let hash = connection.query_row(hash, [row.id], |row| row.get_ref(0).map(to_text));
    Ok(hash.optional()?.as_ref() == Some(&row.hash))
}

/// Whether the trail names a row of the other one that comes after this one.
pub(crate) fn names_later_row(
    connection: &Connection,
    other: Option<&LastRow>,
) -> rusqlite::Result<bool> {
    if !has_table(connection)? {
        return Ok(false);
    }
    let last = "SELECT id, details FROM audit_log WHERE event_type = 'credential.used' AND instr(details, ?1) = 1
        ORDER BY id DESC LIMIT 1";
    let anchor = connection.query_row(last, [ANCHOR], |row| {
        Ok(Anchor::of_row(row.get(0)?, &row.get_ref(1).map(to_text)?))
    });
    let named = anchor.optional()?.flatten();
    Ok(named.is_some_and(|anchor| other.is_none_or(|other| anchor.id > other.id)))
}
