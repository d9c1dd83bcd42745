//! The trail of reads, in this program's own chain. A reader adds to a map and does not wait.
//!
//! Reads of a key by one process within a second become one row with a count, which is known only when the second is
//! over. Until then the row is kept in a table beside the chain (`pending`), so that the next server can finish it if this
//! one is killed.

mod batch;
mod coalesced;

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use ring::hmac;
use rusqlite::TransactionBehavior;
use serde_json::json;

use super::AuditOptions;
use super::actor::{Actor, ActorProcess, process_of};
use super::anchor::AnchorTimer;
use super::batch_writer::{BatchWriter, Flush, RowCounts, Shared, Trail};
use super::chain::{Appender, Chain, prune};
use super::container_names;
use super::event::ReadTarget;
use super::key::SigningKeySource;
use super::row::{RowFields, UnsignedRow};
use super::user_names::UserNames;
use crate::audit::timestamp;
use crate::error::Result;
use crate::process::ControlGroup;
use crate::sqlite::{Database, from_sqlite, has_table};
use batch::{Batch, PENDING_TABLE, owner};
use coalesced::CoalescedReads;

/// How long reads are collected before they are written.
const BATCH_DELAY: Duration = Duration::from_millis(50);
/// How long one attempt to write waits for other programs' locks.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// The connection is closed after this time without a read.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);
const PRUNE_INTERVAL: Duration = DAY;
/// The most different reads that are collected, and the most rows that are kept while the database cannot be written.
const MAX_READS: usize = 20_000;

pub(super) struct ReadLog(BatchWriter<ReadTrail>);

#[derive(Default)]
pub(super) struct Queue {
    reads: HashMap<ReadKey, QueuedRead>,
    /// When the first of them was added.
    since: Option<Instant>,
    /// The processes of their threads: `/proc` is read once for each.
    processes: HashMap<u32, ActorProcess>,
    lost: u64,
    /// How many times the kernel has dropped reads before they came here.
    dropped: u64,
    /// The reads that the thread has taken and could not write.
    unwritten: u64,
    /// All reads that were too many to be recorded, and all times that the kernel has dropped some.
    lost_ever: u64,
    dropped_ever: u64,
}

/// What the thread has taken from the queue.
struct Taken {
    reads: Vec<(ReadKey, QueuedRead)>,
    processes: HashMap<u32, ActorProcess>,
    lost: u64,
    dropped: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct ReadKey {
    uid: Option<u32>,
    tid: u32,
    target: ReadTarget,
}

struct QueuedRead {
    /// Its place among the reads of the batch.
    order: usize,
    at: SystemTime,
    since: Instant,
    count: u64,
}

impl ReadLog {
    pub(super) fn new(options: &AuditOptions) -> Self {
        let log = Self(BatchWriter::new(options));
        if options.read_chain().path().exists() {
            // A server that was killed may have left pending rows.
            log.0.start();
        }
        log
    }

    pub(super) fn record(&self, uid: u32, tid: u32, target: ReadTarget) {
        let key = ReadKey {
            uid: Some(uid),
            tid,
            target,
        };
        self.0.enqueue(|queue| queue.add(key, || process_of(tid)));
    }

    pub(super) fn record_by(&self, actor: Actor, target: ReadTarget) {
        let key = ReadKey {
            uid: actor.uid,
            tid: actor.pid,
            target,
        };
        let process = move || ActorProcess {
            pid: actor.pid,
            program: actor.program,
            group: ControlGroup {
                container: actor.container,
                unit: actor.unit,
            },
        };
        self.0.enqueue(|queue| queue.add(key, process));
    }

    pub(super) fn record_dropped(&self) {
        self.0.enqueue(|queue| {
            queue.dropped += 1;
            queue.dropped_ever += 1;
            let is_first = queue.since.is_none();
            queue.since.get_or_insert_with(Instant::now);
            is_first
        });
    }

    pub(super) fn lag(&self) -> (RowCounts, Duration) {
        self.0.lag()
    }

    /// How many times the kernel has dropped reads.
    pub(super) fn times_dropped(&self) -> u64 {
        self.0.lock().queue.dropped_ever
    }

    pub(super) fn flush(&self, until: Instant) -> bool {
        let flushed = self.0.flush(until).0;
        if flushed == Flush::TimedOut {
            tracing::error!("gave up writing the last rows of the audit trail of reads");
        }
        flushed == Flush::Written
    }

    /// Logs how many reads no database has, so that they are not lost without a trace.
    pub(super) fn log_unwritten(&self) {
        let state = self.0.lock();
        let queue = &state.queue;
        let queued = queue.reads.values().map(|read| read.count).sum::<u64>();
        let lost = queue.unwritten + queue.lost + queued;
        if lost > 0 {
            tracing::error!(
                "{lost} reads could not be written to the audit trail of reads, and are lost"
            );
        }
    }

    pub(super) fn freeze(&self) {
        self.0.freeze();
    }

    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Queue {
    /// Whether it is the first read of a batch, for which the thread has to be woken.
    fn add(&mut self, key: ReadKey, process: impl FnOnce() -> ActorProcess) -> bool {
        if let Some(read) = self.reads.get_mut(&key) {
            read.count += 1;
            return false;
        }
        if self.reads.len() >= MAX_READS {
            self.lost += 1;
            self.lost_ever += 1;
            return false;
        }
        let known = self.processes.get(&key.tid);
        // Of one that has ended, an earlier read may have shown more.
        if known.is_none_or(|known| known.program.is_none()) {
            self.processes.insert(key.tid, process());
        }
        let now = Instant::now();
        let read = QueuedRead {
            order: self.reads.len(),
            at: SystemTime::now(),
            since: now,
            count: 1,
        };
        self.reads.insert(key, read);
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        is_first
    }

    fn take(&mut self) -> Taken {
        self.since = None;
        Taken {
            reads: self.reads.drain().collect(),
            processes: std::mem::take(&mut self.processes),
            lost: std::mem::take(&mut self.lost),
            dropped: std::mem::take(&mut self.dropped),
        }
    }
}

pub(super) struct ReadTrail {
    options: AuditOptions,
    anchor: AnchorTimer,
    chain: Chain,
    signing_key: SigningKeySource,
    keep: Option<Duration>,
    owner: String,
    connection: Option<(Database, hmac::Key)>,
    used_at: Instant,
    /// When the last batch was written.
    written_at: Option<Instant>,
    reads: CoalescedReads,
    lost: u64,
    dropped: u64,
    /// The rows of servers that were killed are not finished yet.
    must_recover: bool,
    was_checked: bool,
    pruned_at: Option<Instant>,
}

impl Trail for ReadTrail {
    type Queue = Queue;

    const NAME: &'static str = "the audit trail of reads";
    const THREAD: &'static str = "audit-reads";

    fn new(options: &AuditOptions) -> Self {
        Self {
            options: options.clone(),
            anchor: AnchorTimer::of_reads(options),
            chain: options.read_chain(),
            signing_key: options.signing_key_source(),
            keep: options.keep_days.map(|days| DAY * days),
            owner: owner(std::process::id()),
            connection: None,
            used_at: Instant::now(),
            written_at: None,
            reads: CoalescedReads::default(),
            lost: 0,
            dropped: 0,
            must_recover: true,
            was_checked: false,
            pruned_at: None,
        }
    }

    fn due(&self, queue: &Queue) -> Option<Instant> {
        if self.must_recover {
            return Some(Instant::now());
        }
        let collected = queue.since.map(|since| since + BATCH_DELAY);
        let due = [self.reads.due(), collected, self.anchor.due()];
        let due = due.into_iter().flatten().min();
        // Each read has a second of its own: those that end soon after each other are written together.
        let due = due.map(|due| match self.written_at {
            Some(written) => due.max(written + BATCH_DELAY),
            None => due,
        });
        // Without a read, only the idle connection is to be closed.
        due.or_else(|| {
            self.connection
                .as_ref()
                .map(|_| self.used_at + IDLE_TIMEOUT)
        })
    }

    fn counts(queue: &Queue) -> RowCounts {
        RowCounts {
            waiting: queue.reads.len() as u64 + queue.unwritten,
            lost: queue.lost_ever,
        }
    }

    fn write(&mut self, shared: &Shared<Queue>, all: bool) -> Result<()> {
        self.anchor.run_if_due(&self.options);
        // Merged without the lock, for which readers wait.
        let taken = shared.lock().queue.take();
        let lost = self.merge(taken);
        if lost > 0 {
            shared.lock().queue.lost_ever += lost;
        }
        if !all && !self.must_recover && self.reads.is_empty() && self.lost + self.dropped == 0 {
            self.connection = None;
            return Ok(());
        }
        let written = self.write_batch(all);
        self.written_at = Some(Instant::now());
        let unwritten = match written {
            Ok(()) => {
                self.used_at = Instant::now();
                self.anchor.start();
                0
            }
            Err(_) => {
                self.connection = None;
                self.lost + self.reads.unwritten()
            }
        };
        shared.lock().queue.unwritten = unwritten;
        written
    }
}

impl ReadTrail {
    /// Adds what was queued to the reads of the same second. Returns how many of them are lost.
    fn merge(&mut self, mut taken: Taken) -> u64 {
        let mut lost = 0;
        taken.reads.sort_by_key(|(_, read)| read.order);
        self.lost += taken.lost;
        self.dropped += taken.dropped;
        for (ReadKey { uid, tid, target }, read) in taken.reads {
            let process = taken.processes.get(&tid).cloned();
            let process = process.unwrap_or(ActorProcess {
                pid: tid,
                program: None,
                group: ControlGroup::default(),
            });
            let actor = process.of_user(uid);
            lost += self.reads.add(actor, target, &read);
        }
        self.lost += lost;
        lost
    }

    fn write_batch(&mut self, all: bool) -> Result<()> {
        let failed = |e| from_sqlite(self.chain.path(), &e);
        let must_recover = self.connection.is_none();
        if must_recover {
            let key = self.signing_key.key_or_create()?;
            let connection = self.chain.connect(BUSY_TIMEOUT)?;
            if !has_table(&connection, self.chain.path(), "pending")? {
                connection.execute_batch(PENDING_TABLE).map_err(failed)?;
            }
            self.connection = Some((connection, key));
        }
        let Some((connection, key)) = &mut self.connection else {
            return Ok(());
        };
        let now = Instant::now();
        // Before the database is locked: the user database may be slow. A pending row does not wait for the name; it has
        // the user's number until it goes into the chain.
        let due = self
            .reads
            .iter()
            .filter(|(_, read)| all || read.is_due(now));
        let names = UserNames::look_up(due.map(|(_, read)| read.actor.uid));
        let containers = self.reads.iter().map(|(_, read)| &read.actor);
        container_names::look_up(containers.filter_map(|actor| actor.container.as_ref()));
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let batch = Batch {
            transaction: &transaction,
            owner: &self.owner,
            now,
            all,
            names: &names,
        };
        let mut appender = Appender::new(&transaction, key).map_err(failed)?;
        if must_recover {
            batch.recover(&mut appender).map_err(failed)?;
        }
        let written = batch.write(&mut appender, &self.reads).map_err(failed)?;
        if self.lost > 0 {
            let what = format!("{} reads were too many to be recorded", self.lost);
            let row = lost_row(what, self.lost, &names);
            appender.append(&row).map_err(failed)?;
        }
        if self.dropped > 0 {
            let what = "the kernel dropped reads of views before they could be recorded".to_owned();
            let row = lost_row(what, self.dropped, &names);
            appender.append(&row).map_err(failed)?;
        }
        drop(appender);
        transaction.commit().map_err(failed)?;
        self.lost = 0;
        self.dropped = 0;
        self.must_recover = false;
        self.reads.mark_written(written);
        self.maintain();
        Ok(())
    }

    /// Checks the chain once, and prunes it once a day.
    fn maintain(&mut self) {
        let Some((connection, key)) = &mut self.connection else {
            return;
        };
        if !std::mem::replace(&mut self.was_checked, true) {
            self.chain.check_in_background(key.clone());
        }
        if let Some(keep) = self.keep
            && self
                .pruned_at
                .is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL)
            && let Some(before) = SystemTime::now().checked_sub(keep)
        {
            self.pruned_at = Some(Instant::now());
            if let Err(error) = prune(connection, key, before) {
                let error = from_sqlite(self.chain.path(), &error);
                tracing::warn!("old rows of the audit trail cannot be removed: {error}");
            }
        }
    }
}

fn lost_row(what: String, count: u64, names: &UserNames) -> UnsignedRow {
    let actor = Actor::this_process();
    let user = names.get(actor.uid);
    let fields = RowFields::new("audit.lost", what, json!({"count": count}));
    fields.row(&actor, &user, timestamp(SystemTime::now()), None)
}
