//! Removes old rows from the beginning of a chain.

use std::time::SystemTime;

use ring::hmac;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use serde_json::json;

use super::appender::Appender;
use super::to_text;
use super::verifier::PRUNED;
use crate::audit::actor::{Actor, user_of};
use crate::audit::row::RowFields;
use crate::audit::timestamp;

/// See [`Chain::prune`](super::Chain::prune).
pub(in crate::audit) fn prune(
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
        |row| row.get_ref(0).map(to_text),
    )?;
    let earlier = "SELECT details FROM audit_log WHERE event_type = ?1 ORDER BY id DESC LIMIT 1";
    let earlier: Option<String> = transaction
        .query_row(earlier, [PRUNED], |row| row.get_ref(0).map(to_text))
        .optional()?;
    let removed_earlier = earlier
        .and_then(|details| serde_json::from_str::<serde_json::Value>(&details).ok())
        .and_then(|details| details["removed_in_all"].as_u64())
        .unwrap_or_default();
    let count = "SELECT count(*) FROM audit_log WHERE id <= ?1";
    let removed = number(count, &through)?.unwrap_or_default().unsigned_abs();
    let actor = Actor::this_process();
    let user = user_of(actor.uid);
    let fields = RowFields::new(
        PRUNED,
        format!("{removed} rows from before {before} removed, the last of them row {through}"),
        json!({
            "removed": removed,
            "removed_in_all": removed_earlier + removed,
            "through": through,
            "last_hash": last_hash,
        }),
    );
    let row = fields.row(&actor, &user, timestamp(SystemTime::now()), None);
    // Before the removal, so that it follows the last row even if every row is removed.
    Appender::new(&transaction, key)?.append(&row)?;
    transaction.execute("DELETE FROM audit_log WHERE id <= ?1", [through])?;
    transaction.commit()?;
    Ok(removed)
}
