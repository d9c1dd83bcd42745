//! Anchors: a row in each trail, and a line in the log, name the last row of the other trail. So a trail that was removed,
//! replaced by an older copy, or cut at its end is noticed, unless both and the log were changed alike.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::AuditOptions;
use super::actor::{Actor, user_of};
use super::chain::Chain;
use super::row::RowFields;
use crate::audit::timestamp;
use crate::error::Result;
use crate::sync::Mutex;

/// How long after a row the other trail names it, at the latest.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// How long an attempt waits for other programs' locks.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Lets one trail name the last row of the other, a minute after a row.
pub(super) struct AnchorTimer {
    of: Chain,
    /// `None`: the other trail records nothing.
    into: Option<Chain>,
    interval: Duration,
    due: Option<Instant>,
}

impl AnchorTimer {
    /// For the trail of changes.
    pub(super) fn of_changes(options: &AuditOptions) -> Self {
        Self {
            of: options.change_chain(),
            into: options.reads.then(|| options.read_chain()),
            interval: options.anchor_interval,
            due: None,
        }
    }

    /// For the trail of reads.
    pub(super) fn of_reads(options: &AuditOptions) -> Self {
        Self {
            of: options.read_chain(),
            into: Some(options.change_chain()),
            interval: options.anchor_interval,
            due: None,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A row was written.
    pub(super) fn start(&mut self) {
        let interval = self.interval;
        self.due.get_or_insert_with(|| Instant::now() + interval);
    }

    pub(super) fn run_if_due(&mut self, options: &AuditOptions) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.run(options);
        }
    }

    /// A failure is only logged: the rows themselves are written.
    pub(super) fn run(&mut self, options: &AuditOptions) {
        self.due = None;
        let Some(into) = &self.into else { return };
        if let Err(error) = anchor(&self.of, into, options) {
            tracing::warn!("the end of an audit trail cannot be recorded in the other: {error}");
        }
    }
}

/// Held from the look at the last anchor until the next one is written: at the end of a mount, several threads do this.
static TURN: Mutex<()> = Mutex::new(());

/// Names the last row of `of` in `into`, unless nothing but such rows was added since the last time.
fn anchor(of: &Chain, into: &Chain, options: &AuditOptions) -> Result<()> {
    let _turn = TURN.lock();
    let Some(end) = of.end(BUSY_TIMEOUT)? else {
        return Ok(());
    };
    let named = into.last_anchor(BUSY_TIMEOUT)?;
    if named.is_some_and(|id| id >= end.last_event) {
        return Ok(());
    }
    let (id, hash, trail) = (end.id, &end.hash, of.file_name());
    let key = options.signing_key_source().key()?;
    into.append(&key, &[row(&trail, id, hash)], BUSY_TIMEOUT)?;
    tracing::info!("{trail} ends at row {id}, whose hash is {hash}");
    Ok(())
}

fn row(trail: &str, id: i64, hash: &str) -> super::row::UnsignedRow {
    let actor = Actor::this_process();
    let fields = RowFields::new(
        "credential.used",
        format!("{trail} ends at row {id}"),
        json!({"anchor": {"trail": trail, "id": id, "hash": hash}}),
    );
    let now = timestamp(SystemTime::now());
    fields.row(&actor, &user_of(actor.uid), now, None)
}

#[cfg(test)]
mod tests;
