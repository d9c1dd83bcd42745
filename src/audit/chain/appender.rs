//! Signs rows and appends them, within one transaction.

use ring::hmac;
use rusqlite::{OptionalExtension, Transaction, params};

use super::to_text;
use super::verifier::{GENESIS, OtherColumns, SignedRow};
use crate::audit::row::UnsignedRow;
use crate::sqlite::LazyStatement;

const INSERT: &str = "INSERT INTO audit_log (timestamp, event_type, actor_username, target_type, target_id, action, details,
    previous_hash, entry_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Appends to the chain. The transaction must be `IMMEDIATE`, so that no other program appends after the same row.
pub(in crate::audit) struct Appender<'a> {
    insert: LazyStatement<'a>,
    key: &'a hmac::Key,
    last_hash: String,
}

impl<'a> Appender<'a> {
    pub(in crate::audit) fn new(
        transaction: &'a Transaction<'a>,
        key: &'a hmac::Key,
    ) -> rusqlite::Result<Self> {
        let last = transaction.query_row(
            "SELECT entry_hash FROM audit_log ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get_ref(0).map(to_text),
        );
        let last_hash = last.optional()?.unwrap_or_else(|| GENESIS.to_owned());
        Ok(Self {
            insert: LazyStatement::new(transaction, INSERT),
            key,
            last_hash,
        })
    }

    pub(in crate::audit) fn append(&mut self, row: &UnsignedRow) -> rusqlite::Result<()> {
        let hash = SignedRow {
            id: 0,
            timestamp: &row.timestamp,
            event_type: &row.event_type,
            actor_id: "None",
            action: &row.action,
            details: &row.details,
            previous_hash: &self.last_hash,
            entry_hash: "",
            others: OtherColumns::default(),
        }
        .hash(self.key);
        self.insert.prepared()?.execute(params![
            row.timestamp,
            row.event_type,
            row.username,
            row.target_type,
            row.target_id,
            row.action,
            row.details,
            self.last_hash,
            hash
        ])?;
        self.last_hash = hash;
        Ok(())
    }
}
