//! The two audit trails: `STATE/audit.db`, SimpleTuner's own hash chain, records what was changed and which access was
//! denied; `STATE/live-audit.db` records which secret was read. Neither ever holds a value. Knows no mount.
//!
//! - `event`: what is recorded; `row`: the columns that it becomes
//! - [`Chain`]: a database whose rows form a hash chain: append, verify, prune
//! - [`SigningKeySource`]: the HMAC key of both chains
//! - `anchor`: each trail names the last row of the other
//! - `batch_writer`: the thread that both trails are built on, so that no caller waits for a database
//! - `change_log`, `read_log`: the two trails
//! - [`Actor`]: the user and process of an event, as `/proc` shows them
//! - `container_names`: what Docker and Podman call a container, from their files
//! - `user_names`: the names of users, without waiting for a user database that hangs

mod actor;
mod anchor;
mod batch_writer;
mod chain;
mod change_log;
mod container_names;
mod event;
mod key;
mod read_log;
mod refusals;
mod row;
mod timestamp;
mod user_names;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use actor::Actor;
pub use chain::{Anchor, Broken, Chain, ChainReader, Row, Verified};
pub(crate) use chain::{LastRow, first_difference, has_row, last_row, names_later_row};
pub(crate) use container_names::{name_or_id, short_id};
pub use event::{AuditEvent, ChangedKeys, ReadTarget};
pub(crate) use key::signing_key;
pub use key::{KEY_VARIABLE, SigningKeySource};
pub(crate) use timestamp::timestamp;

use crate::secret::SecretValue;
use crate::settings::Settings;
use anchor::AnchorTimer;
use batch_writer::RowCounts;
use change_log::ChangeLog;
use read_log::ReadLog;

/// How long dropping the trail waits for the last rows.
const DROP_TIMEOUT: Duration = Duration::from_secs(15);

/// Where the trails are, and what they record.
#[derive(Clone)]
pub struct AuditOptions {
    /// SimpleTuner's state folder.
    pub state_dir: PathBuf,
    /// The signing key, if the environment sets it.
    pub key: Option<SecretValue>,
    /// Whether reads are recorded.
    pub reads: bool,
    /// For how many days reads are kept; `None`: for ever.
    pub keep_days: Option<u32>,
    /// How long after a row the other trail names it, at the latest: a minute in a mount.
    pub anchor_interval: Duration,
}

impl AuditOptions {
    /// The options that the settings ask for.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            state_dir: settings.state_dir.clone(),
            key: settings.audit_key.clone(),
            reads: settings.audit_reads,
            keep_days: settings.audit_keep_days,
            anchor_interval: anchor::INTERVAL,
        }
    }

    /// The source of the signing key.
    pub fn signing_key_source(&self) -> SigningKeySource {
        SigningKeySource::new(self.key.clone(), self.state_dir.join("audit.key"))
    }

    /// SimpleTuner's chain, which records changes and denied access.
    pub fn change_chain(&self) -> Chain {
        Chain::shared(self.state_dir.join("audit.db"))
    }

    /// This program's chain, which records reads.
    pub fn read_chain(&self) -> Chain {
        Chain::own(self.state_dir.join("live-audit.db"))
    }
}

/// What a trail has not written.
#[derive(Clone, Copy, Debug)]
pub struct TrailLag {
    /// `changes` or `reads`.
    pub trail: &'static str,
    /// How many rows wait to be written.
    pub waiting: u64,
    /// How long they have been due; some milliseconds while they are being written.
    pub behind: Duration,
    /// How many rows were too many to be kept.
    pub lost: u64,
    /// How many times the kernel has dropped reports of reads.
    pub dropped: u64,
}

/// Both trails. Recording returns at once; background threads write the rows and open the databases at the first one.
/// Dropping it waits up to 15 s until everything is written.
pub struct AuditTrail {
    options: AuditOptions,
    changes: ChangeLog,
    reads: Option<ReadLog>,
}

impl AuditTrail {
    /// The trails of these options.
    pub fn new(options: &AuditOptions) -> Self {
        Self {
            options: options.clone(),
            changes: ChangeLog::new(options),
            reads: options.reads.then(|| ReadLog::new(options)),
        }
    }

    /// The trails of these settings.
    pub fn from_settings(settings: &Settings) -> Arc<Self> {
        Arc::new(Self::new(&AuditOptions::from_settings(settings)))
    }

    /// Records a change.
    pub fn record(&self, actor: Actor, event: AuditEvent) {
        self.changes.record(actor, event);
    }

    /// Records that a user was denied access: at most one row a minute for the same user and file, with a count.
    pub fn record_refusal(&self, uid: u32, tid: u32, what: &str) {
        self.changes.record_refusal(uid, tid, what);
    }

    /// Records a read by a user's thread, if reads are recorded. Takes a microsecond; the first read of a thread in a batch
    /// also looks at `/proc`.
    pub fn record_read(&self, uid: u32, tid: u32, target: ReadTarget) {
        if let Some(reads) = &self.reads {
            reads.record(uid, tid, target);
        }
    }

    /// Whether reads are recorded.
    pub fn records_reads(&self) -> bool {
        self.reads.is_some()
    }

    /// Records a read by a process that may have ended, if reads are recorded.
    pub fn record_read_by(&self, actor: Actor, target: ReadTarget) {
        if let Some(reads) = &self.reads {
            reads.record_by(actor, target);
        }
    }

    /// Records that the kernel dropped reads of which nothing is known.
    pub fn record_dropped_reads(&self) {
        if let Some(reads) = &self.reads {
            reads.record_dropped();
        }
    }

    /// What each trail has not written: that of changes, and that of reads if reads are recorded. Waits for no database.
    pub fn lags(&self) -> Vec<TrailLag> {
        let reads = self.reads.as_ref();
        let reads = reads.map(|reads| ("reads", reads.lag(), reads.times_dropped()));
        let changes = ("changes", self.changes.lag(), 0);
        let lag = |(trail, (rows, behind), dropped): (_, (RowCounts, Duration), u64)| TrailLag {
            trail,
            waiting: rows.waiting,
            behind,
            lost: rows.lost,
            dropped,
        };
        [changes].into_iter().chain(reads).map(lag).collect()
    }

    /// Blocks new records for up to 5 s, until this process is replaced.
    pub fn freeze(&self) {
        self.changes.freeze();
        if let Some(reads) = &self.reads {
            reads.freeze();
        }
    }

    /// Waits until everything recorded so far is written; `false` if that failed or `timeout` passed.
    pub fn flush(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let reads = self.reads.as_ref().is_none_or(|reads| reads.flush(until));
        self.changes.flush(until) && reads
    }

    /// Like [`flush`](Self::flush), at the end of a mount: logs how many reads are lost, and lets each trail name the last row
    /// of the other.
    pub fn finish(&self, timeout: Duration) {
        self.flush(timeout);
        if let Some(reads) = &self.reads {
            reads.log_unwritten();
        }
        AnchorTimer::of_reads(&self.options).run(&self.options);
        AnchorTimer::of_changes(&self.options).run(&self.options);
    }
}

impl Drop for AuditTrail {
    fn drop(&mut self) {
        self.flush(DROP_TIMEOUT);
        self.changes.end();
        if let Some(reads) = &self.reads {
            reads.end();
        }
    }
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditTrail")
    }
}
