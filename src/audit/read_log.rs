//! The thread that writes who read what into our own chain. A reader adds to a map and goes on; what is in it is taken
//! out in batches.
//!
//! Reads of the same key by the same process within a second are one row with a count, which is known only when the
//! second is over. Until then the row stands in a table beside the chain (`pending`), so that a server which is killed
//! leaves it to the next one.

mod batch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use ring::hmac;
use rusqlite::{Connection, TransactionBehavior};
use serde_json::json;

use super::actor::{Actor, process_of};
use super::chain::{Appender, Chain, prune};
use super::key::SigningKey;
use super::user_names::Names;
use super::row::{ReadOf, of_trail};
use super::{AuditOptions, Gate, check_once};
use crate::error::Result;
use crate::sqlite::explain;
use crate::sqlite::timestamp;
use batch::{PENDING, Together, Transfer, owner};

/// Reads of the same by the same process within this time are one row.
const TOGETHER: Duration = Duration::from_secs(1);
/// How long reads are gathered before they are written.
const BATCH: Duration = Duration::from_millis(50);
/// How long other programs' locks are waited for, before the batch is tried again.
const LOCKED: Duration = Duration::from_secs(1);
/// How long until a database that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// After so long without a read the database is closed.
const IDLE: Duration = Duration::from_secs(5);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The most different reads that are gathered, and rows that are held.
const MOST: usize = 20_000;

pub(super) struct Reads(Arc<Shared>);

struct Shared {
    chain: Chain,
    key: SigningKey,
    keep: Option<Duration>,
    state: Mutex<State>,
    /// There is something to do, or something is done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    seen: HashMap<Seen, First>,
    /// Since when there is something in it.
    since: Option<Instant>,
    /// The processes of the threads in it: `/proc` is looked at once for each.
    processes: HashMap<u32, (u32, Option<String>)>,
    lost: u64,
    is_running: bool,
    has_ended: bool,
    gate: Gate,
    /// How many flushes were asked for, and how many of them are done; whether the last one wrote all.
    wanted: u64,
    flushed: u64,
    is_written: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Seen {
    uid: u32,
    tid: u32,
    what: ReadOf,
}

struct First {
    order: usize,
    at: SystemTime,
    since: Instant,
    count: u64,
}

impl Reads {
    pub(super) fn new(options: &AuditOptions) -> Self {
        let day = Duration::from_secs(24 * 3600);
        let reads = Self(Arc::new(Shared {
            chain: options.reads_chain(),
            key: options.signing_key(),
            keep: options.keep_days.map(|days| day * days),
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        if reads.0.chain.path().exists() {
            // A server that was killed may have left rows to be finished.
            reads.start(&mut reads.0.state());
        }
        reads
    }

    pub(super) fn record(&self, uid: u32, tid: u32, what: ReadOf) {
        let seen = Seen { uid, tid, what };
        let mut guard = self.0.admitted();
        let state = &mut *guard;
        if let Some(first) = state.seen.get_mut(&seen) {
            first.count += 1;
            return;
        }
        if state.seen.len() >= MOST {
            state.lost += 1;
            return;
        }
        state
            .processes
            .entry(tid)
            .or_insert_with(|| process_of(tid));
        let now = Instant::now();
        let first = First {
            order: state.seen.len(),
            at: SystemTime::now(),
            since: now,
            count: 1,
        };
        state.seen.insert(seen, first);
        if state.since.is_none() {
            state.since = Some(now);
            self.start(state);
            self.0.changed.notify_all();
        }
    }

    fn start(&self, state: &mut State) {
        if state.is_running {
            return;
        }
        let shared = self.0.clone();
        let thread = std::thread::Builder::new()
            .name("audit-reads".into())
            .stack_size(256 * 1024);
        match thread.spawn(move || shared.write_all()) {
            Ok(_) => state.is_running = true,
            Err(error) => tracing::error!("the audit trail of reads cannot be written: {error}"),
        }
    }

    pub(super) fn flush(&self, until: Instant) -> bool {
        let mut state = self.0.state();
        if !state.is_running {
            return true;
        }
        state.wanted += 1;
        let wanted = state.wanted;
        self.0.changed.notify_all();
        while state.flushed < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!("gave up writing the last rows of the audit trail of reads");
                return false;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        state.is_written
    }

    pub(super) fn freeze(&self) {
        self.0.state().gate.close();
    }

    pub(super) fn end(&self) {
        self.0.state().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The state, for whoever records something.
    fn admitted(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while let Some(left) = state.gate.closed_for() {
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        state
    }

    fn write_all(&self) {
        let mut writer = Writer::new();
        while let Some(batch) = writer.next(self) {
            writer.work(self, batch);
        }
    }
}

/// What the thread has to do.
struct Batch {
    reads: Vec<(Seen, First)>,
    processes: HashMap<u32, (u32, Option<String>)>,
    lost: u64,
    /// All rows are to be finished: the number of the flush that wants it.
    flush: Option<u64>,
    /// Nothing has been read for a while.
    is_idle: bool,
}

/// What the thread knows.
struct Writer {
    owner: String,
    open: Option<(Connection, hmac::Key)>,
    used: Instant,
    /// By number, which is their order.
    together: BTreeMap<u64, Together>,
    /// The last number of each.
    numbers: HashMap<(u32, u32, ReadOf), u64>,
    next: u64,
    lost: u64,
    /// The database is to be opened though there is nothing to write.
    recovers: bool,
    again: Option<Instant>,
    has_told: bool,
    was_checked: bool,
    pruned: Option<Instant>,
}

impl Writer {
    fn new() -> Self {
        Self {
            owner: owner(std::process::id()),
            open: None,
            used: Instant::now(),
            together: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
            lost: 0,
            recovers: true,
            again: None,
            has_told: false,
            was_checked: false,
            pruned: None,
        }
    }

    /// Waits for something to do; `None`: there will be nothing any more.
    fn next(&self, shared: &Shared) -> Option<Batch> {
        let mut state = shared.state();
        loop {
            if state.has_ended {
                return None;
            }
            let flush = (state.wanted > state.flushed).then_some(state.wanted);
            let now = Instant::now();
            let due = match self.again {
                Some(again) => Some(again),
                None if self.recovers => Some(now),
                None => {
                    let ends = self.together.values().next();
                    let ends = ends.map(|together| together.since + TOGETHER);
                    let gathered = state.since.map(|since| since + BATCH);
                    [ends, gathered].into_iter().flatten().min()
                }
            };
            let idle = self.open.is_some().then(|| self.used + IDLE);
            let next = due.or(idle);
            if flush.is_some() || next.is_some_and(|next| next <= now) {
                let mut reads: Vec<_> = state.seen.drain().collect();
                reads.sort_by_key(|(_, first)| first.order);
                state.since = None;
                return Some(Batch {
                    reads,
                    processes: std::mem::take(&mut state.processes),
                    lost: std::mem::take(&mut state.lost),
                    flush,
                    is_idle: flush.is_none() && due.is_none(),
                });
            }
            state = match next {
                Some(next) => {
                    let waited = shared.changed.wait_timeout(state, next - now);
                    waited.unwrap_or_else(|e| e.into_inner()).0
                }
                None => {
                    let waited = shared.changed.wait(state);
                    waited.unwrap_or_else(|e| e.into_inner())
                }
            };
        }
    }

    fn work(&mut self, shared: &Shared, batch: Batch) {
        if batch.is_idle && batch.reads.is_empty() {
            self.open = None;
            return;
        }
        let (flush, lost) = (batch.flush, batch.lost);
        self.take_in(batch);
        self.lost += lost;
        let written = self.write(shared, flush.is_some());
        match &written {
            Ok(()) => {
                self.again = None;
                self.has_told = false;
                self.used = Instant::now();
            }
            Err(error) => {
                self.open = None;
                self.again = Some(Instant::now() + AGAIN);
                if !std::mem::replace(&mut self.has_told, true) {
                    tracing::error!(
                        "the audit trail of reads cannot be written, and is tried again: {error}"
                    );
                }
            }
        }
        let is_locked = written.as_ref().is_err_and(|e| e.errno() == libc::EBUSY);
        if let Some(flush) = flush {
            let mut state = shared.state();
            if is_locked {
                // Whoever wants it done has more patience than one try; SQLite waits in each.
                let waited = shared.changed.wait_timeout(state, BATCH);
                drop(waited);
                return;
            }
            state.flushed = state.flushed.max(flush);
            state.is_written = written.is_ok();
            shared.changed.notify_all();
        }
    }

    /// Joins what was read with what is of the same second.
    fn take_in(&mut self, batch: Batch) {
        for (Seen { uid, tid, what }, first) in batch.reads {
            let (pid, program) = batch.processes.get(&tid).cloned().unwrap_or((tid, None));
            let key = (uid, pid, what);
            let same = self.numbers.get(&key);
            let same = same.and_then(|number| self.together.get_mut(number));
            if let Some(same) = same
                && first.since < same.since + TOGETHER
            {
                same.count += first.count;
                continue;
            }
            if self.together.len() >= MOST {
                self.lost += first.count;
                continue;
            }
            let together = Together {
                actor: Actor { uid, pid, program },
                what: key.2.clone(),
                at: first.at,
                since: first.since,
                count: first.count,
                pending: None,
            };
            self.numbers.insert(key, self.next);
            self.together.insert(self.next, together);
            self.next += 1;
        }
    }

    fn write(&mut self, shared: &Shared, all: bool) -> Result<()> {
        let failed = |e| explain(shared.chain.path(), &e);
        let recovers = self.open.is_none();
        if recovers {
            let key = shared.key.key_or_create()?;
            let connection = shared.chain.connect(LOCKED)?;
            connection.execute_batch(PENDING).map_err(failed)?;
            self.open = Some((connection, key));
        }
        let Some((connection, key)) = &mut self.open else {
            return Ok(());
        };
        let now = Instant::now();
        let is_due = |together: &Together| all || together.since + TOGETHER <= now;
        // Before the database is locked. Who it was is known by number until then: a row beside the chain waits for no
        // name, which is only asked for.
        let due = self.together.values().filter(|together| is_due(together));
        let names = Names::of(due.map(|together| together.actor.uid));
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let batch = Transfer {
            transaction: &transaction,
            owner: &self.owner,
            is_due: &is_due,
            names: &names,
        };
        let mut appender = Appender::new(&transaction, key).map_err(failed)?;
        if recovers {
            batch.recover(&mut appender).map_err(failed)?;
        }
        let pending = batch.write(&mut appender, &self.together).map_err(failed)?;
        if self.lost > 0 {
            let lost = self.lost;
            let actor = Actor::this_process();
            let user = names.get(actor.uid);
            let at = timestamp(SystemTime::now());
            let action = format!("{lost} reads were too many to be recorded");
            let row = of_trail(
                "audit.lost",
                action,
                json!({"count": lost}),
                &actor,
                &user,
                at,
            );
            appender.append(&row).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        self.lost = 0;
        self.recovers = false;
        for (number, pending) in pending {
            match pending {
                Some(pending) => {
                    if let Some(together) = self.together.get_mut(&number) {
                        (together.count, together.pending) =
                            (pending.0, Some((pending.1, pending.0)));
                    }
                }
                None => self.finish(number),
            }
        }
        self.look_after(shared);
        Ok(())
    }

    fn finish(&mut self, number: u64) {
        if let Some(together) = self.together.remove(&number) {
            let key = (together.actor.uid, together.actor.pid, together.what);
            if self.numbers.get(&key) == Some(&number) {
                self.numbers.remove(&key);
            }
        }
    }

    /// What is due now and then.
    fn look_after(&mut self, shared: &Shared) {
        let Some((connection, key)) = &mut self.open else {
            return;
        };
        if !std::mem::replace(&mut self.was_checked, true) {
            check_once(&shared.chain, key.clone());
        }
        if let Some(keep) = shared.keep
            && self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY)
            && let Some(before) = SystemTime::now().checked_sub(keep)
        {
            self.pruned = Some(Instant::now());
            if let Err(error) = prune(connection, key, before) {
                let error = explain(shared.chain.path(), &error);
                tracing::warn!("old rows of the audit trail stay: {error}");
            }
        }
    }
}
