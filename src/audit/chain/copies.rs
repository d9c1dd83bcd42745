//! What is compared between copies of a trail: where each ends, and whether one goes on from the other. Knows no file.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Rows};

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

/// The id of the first row that both trails have and that differs: somebody has changed it. An older row may be missing, because it was
/// pruned.
pub(crate) fn first_difference(
    one: &Connection,
    other: &Connection,
) -> rusqlite::Result<Option<i64>> {
    if !has_table(one)? || !has_table(other)? {
        return Ok(None);
    }
    let all = "SELECT id, * FROM audit_log ORDER BY id";
    let (mut one, mut other) = (one.prepare(all)?, other.prepare(all)?);
    let columns = (one.column_count(), other.column_count());
    let (mut one, mut other) = (one.query([])?, other.query([])?);
    let mut mine = next_row(&mut one, columns.0)?;
    let mut theirs = next_row(&mut other, columns.1)?;
    while let (Some(here), Some(there)) = (&mine, &theirs) {
        if here.0 == there.0 && here.1 != there.1 {
            return Ok(Some(here.0));
        }
        let order = here.0.cmp(&there.0);
        if order.is_le() {
            mine = next_row(&mut one, columns.0)?;
        }
        if order.is_ge() {
            theirs = next_row(&mut other, columns.1)?;
        }
    }
    Ok(None)
}

/// A row's id and its columns.
fn next_row(rows: &mut Rows<'_>, columns: usize) -> rusqlite::Result<Option<(i64, Vec<Value>)>> {
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let values = (1..columns).map(|column| row.get(column));
    Ok(Some((
        row.get(0)?,
        values.collect::<rusqlite::Result<_>>()?,
    )))
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
