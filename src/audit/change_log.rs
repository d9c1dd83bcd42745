//! The trail of changes and denied access, in SimpleTuner's chain.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use super::AuditOptions;
use super::actor::Actor;
use super::anchor::AnchorTimer;
use super::batch_writer::{BatchWriter, Flush, RowCounts, Shared, Trail};
use super::chain::Chain;
use super::event::AuditEvent;
use super::key::SigningKeySource;
use super::refusals::RefusalLimiter;
use super::row::UnsignedRow;
use super::user_names::UserNames;
use crate::audit::timestamp;
use crate::error::Result;
use crate::sqlite::BUSY_TIMEOUT;

/// The most rows that are kept while the database cannot be written.
const MAX_ROWS: usize = 10_000;
/// With so many rows waiting, denied access is only counted, so that it cannot take the place of changes.
const MAX_ROWS_WITH_REFUSALS: usize = 1000;
/// The longest name of a file that a denied access may have in its row, in characters.
const MAX_FILE_NAME: usize = 300;

pub(super) struct ChangeLog(BatchWriter<ChangeTrail>);

#[derive(Default)]
pub(super) struct Queue {
    events: Vec<(SystemTime, Actor, AuditEvent)>,
    refusals: RefusalLimiter,
    /// Rows that the thread has made and not committed yet. They stay here until then, so that a flush sees them.
    rows: Vec<UnsignedRow>,
    lost: u64,
    /// Those that were logged as lost.
    lost_before: u64,
}

impl ChangeLog {
    pub(super) fn new(options: &AuditOptions) -> Self {
        Self(BatchWriter::new(options))
    }

    pub(super) fn record(&self, actor: Actor, event: AuditEvent) {
        self.0.enqueue(|queue| {
            let has_room = queue.events.len() + queue.rows.len() < MAX_ROWS;
            match has_room {
                true => queue.events.push((SystemTime::now(), actor, event)),
                false => queue.lost += 1,
            }
            has_room
        });
    }

    pub(super) fn record_refusal(&self, uid: u32, tid: u32, what: &str) {
        let what: String = what.chars().take(MAX_FILE_NAME).collect();
        self.0.enqueue(|queue| queue.refusals.add(uid, tid, what));
    }

    /// Logs the rows that could not be written, so that they are not lost without a trace.
    pub(super) fn flush(&self, until: Instant) -> bool {
        let (flushed, state) = self.0.flush(until);
        for row in state.queue.unwritten() {
            tracing::error!(
                "this could not be written to the audit trail: {} {}: {}",
                row.timestamp,
                row.username,
                row.action
            );
        }
        // A thread that is stuck may have left nothing to see here.
        flushed != Flush::TimedOut && state.queue.rows.is_empty() && state.queue.events.is_empty()
    }

    pub(super) fn lag(&self) -> (RowCounts, Duration) {
        self.0.lag()
    }

    pub(super) fn freeze(&self) {
        self.0.freeze();
    }

    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Queue {
    fn uids(&self) -> BTreeSet<Option<u32>> {
        let events = self.events.iter().map(|(_, actor, _)| actor.uid);
        events.chain(self.refusals.uids()).collect()
    }

    /// The rows that are not in the database, with the names of users that are known without asking.
    fn unwritten(&self) -> Vec<UnsignedRow> {
        let names = UserNames::default();
        let events = self
            .events
            .iter()
            .map(|(at, actor, event)| event.row(actor, &names.get(actor.uid), timestamp(*at)));
        let refusals = self.refusals.unwritten(&names);
        let rows = self.rows.iter().cloned();
        rows.chain(events).chain(refusals).collect()
    }
}

pub(super) struct ChangeTrail {
    options: AuditOptions,
    anchor: AnchorTimer,
    chain: Chain,
    key: SigningKeySource,
    was_checked: bool,
}

impl Trail for ChangeTrail {
    type Queue = Queue;

    const NAME: &'static str = "the audit trail";
    const THREAD: &'static str = "audit";

    fn new(options: &AuditOptions) -> Self {
        Self {
            options: options.clone(),
            anchor: AnchorTimer::of_changes(options),
            chain: options.change_chain(),
            key: options.signing_key_source(),
            was_checked: false,
        }
    }

    fn due(&self, queue: &Queue) -> Option<Instant> {
        match queue.events.is_empty() {
            true => [queue.refusals.due(), self.anchor.due()]
                .into_iter()
                .flatten()
                .min(),
            false => Some(Instant::now()),
        }
    }

    fn counts(queue: &Queue) -> RowCounts {
        RowCounts {
            waiting: (queue.events.len() + queue.rows.len()) as u64,
            lost: queue.lost + queue.lost_before,
        }
    }

    fn write(&mut self, shared: &Shared<Queue>, all: bool) -> Result<()> {
        self.anchor.run_if_due(&self.options);
        let uids = shared.lock().queue.uids();
        // Before the lock: the user database may be slow.
        let names = UserNames::look_up(uids);
        let rows = {
            let mut state = shared.lock();
            let queue = &mut state.queue;
            // From one list to the other under the lock, so that a flush sees every row.
            let events = std::mem::take(&mut queue.events);
            let events = events
                .iter()
                .map(|(at, actor, event)| event.row(actor, &names.get(actor.uid), timestamp(*at)));
            queue.rows.extend(events);
            if queue.rows.len() < MAX_ROWS_WITH_REFUSALS {
                let refusals = queue.refusals.take_rows(&names, all);
                queue.rows.extend(refusals);
            }
            let lost = std::mem::take(&mut queue.lost);
            queue.lost_before += lost;
            if lost > 0 {
                tracing::error!(
                    "{lost} rows of the audit trail are lost: too many wait to be written"
                );
            }
            queue.rows.clone()
        };
        if rows.is_empty() {
            return Ok(());
        }
        self.append(&rows)?;
        self.anchor.start();
        shared.lock().queue.rows.drain(..rows.len());
        Ok(())
    }
}

impl ChangeTrail {
    fn append(&mut self, rows: &[UnsignedRow]) -> Result<()> {
        let key = self.key.key_or_create()?;
        self.chain.append(&key, rows, BUSY_TIMEOUT)?;
        if !std::mem::replace(&mut self.was_checked, true) {
            self.chain.check_in_background(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_fails_while_the_thread_is_stuck_and_sees_every_unwritten_row() {
        let folder = tempfile::tempdir().unwrap();
        let log = ChangeLog::new(&AuditOptions {
            state_dir: folder.path().to_owned(),
            key: None,
            reads: false,
            keep_days: None,
            anchor_interval: std::time::Duration::from_secs(60),
        });
        log.0.run_without_thread();
        assert!(!log.flush(Instant::now()));
        log.record_refusal(1, 0, "A");
        log.record(
            Actor::of_thread(1, 0),
            AuditEvent::ProviderDeleted("gone".to_owned()),
        );
        let unwritten = log.0.lock().queue.unwritten();
        let actions: Vec<_> = unwritten.iter().map(|row| row.action.as_str()).collect();
        assert_eq!(
            actions,
            [
                "Configuration of provider gone deleted",
                "Access to A denied"
            ]
        );
        assert!(!log.flush(Instant::now()));
    }
}
