//! The audit trail: who set, deleted, configured or was refused what goes into SimpleTuner's own chain
//! (`STATE/audit.db`), who read which secret into one of ours (`STATE/live-audit.db`). Never a value. Knows no mount.
//!
//! - [`chain`](Chain): a database whose rows are signed one upon the other
//! - [`SigningKey`]: what they are signed with
//! - `rare`, `reads`: the two threads that write, so that nobody who does something waits for it
//! - `actor`: who did it, as `/proc` tells
//! - `names`: what users are called, without waiting for a user database that hangs

mod actor;
mod chain;
mod key;
mod change_log;
mod read_log;
mod row;
mod user_names;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use actor::Actor;
pub use chain::{Broken, Chain, Reader, Row, Verified};
pub use key::{KEY_VARIABLE, SigningKey};
pub use row::{Act, ChangedKeys, ReadOf};

use crate::secret::SecretValue;
use crate::settings::Settings;
use change_log::Rare;
use read_log::Reads;

/// How many rows are looked at before a program appends its first one; `audit verify` looks at all.
const CHECKED: u32 = 10_000;
/// For how long those are held who would record something when the process is about to be replaced.
const FROZEN: Duration = Duration::from_secs(5);
/// For how long the end of a program waits for the last rows.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the trail lies, and how much of it is wanted.
#[derive(Clone)]
pub struct AuditOptions {
    /// SimpleTuner's state folder.
    pub state_dir: PathBuf,
    /// The signing key, where the environment gives it.
    pub key: Option<SecretValue>,
    /// Whether reads are recorded.
    pub reads: bool,
    /// For how many days reads are kept; `None`: for ever.
    pub keep_days: Option<u32>,
}

impl AuditOptions {
    /// Those of the settings.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            state_dir: settings.state_dir.clone(),
            key: settings.audit_key.clone(),
            reads: settings.audit_reads,
            keep_days: settings.audit_keep_days,
        }
    }

    /// Where the signing key comes from.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::new(self.key.clone(), self.state_dir.join("audit.key"))
    }

    /// SimpleTuner's own chain, of what is rare.
    pub fn chain(&self) -> Chain {
        Chain::at(self.state_dir.join("audit.db"))
    }

    /// Ours, of reads.
    pub fn reads_chain(&self) -> Chain {
        Chain::of_reads(self.state_dir.join("live-audit.db"))
    }
}

/// What is to be recorded goes in here, and comes back at once. The databases are opened when there is something to
/// write. Dropping it waits until all is written, 15 s at most.
pub struct AuditTrail {
    rare: Rare,
    reads: Option<Reads>,
}

impl AuditTrail {
    /// A trail that lies there.
    pub fn new(options: &AuditOptions) -> Self {
        Self {
            rare: Rare::new(options),
            reads: options.reads.then(|| Reads::new(options)),
        }
    }

    /// The trail of these settings.
    pub fn from_settings(settings: &Settings) -> Arc<Self> {
        Arc::new(Self::new(&AuditOptions::from_settings(settings)))
    }

    /// Records what somebody did.
    pub fn record(&self, actor: Actor, act: Act) {
        self.rare.record(actor, act);
    }

    /// Records that access was refused: one row a minute for the same user and thing, with a count.
    pub fn record_refusal(&self, uid: u32, tid: u32, what: &str) {
        self.rare.record_refusal(uid, tid, what);
    }

    /// Records that a thread of a user read something, if reads are wanted. A microsecond, but for the first time in a
    /// while, which looks at `/proc`.
    pub fn record_read(&self, uid: u32, tid: u32, what: ReadOf) {
        if let Some(reads) = &self.reads {
            reads.record(uid, tid, what);
        }
    }

    /// Has whoever records something from now on wait, for some seconds: as long as this process has left.
    pub fn freeze(&self) {
        self.rare.freeze();
        if let Some(reads) = &self.reads {
            reads.freeze();
        }
    }

    /// Waits until all that was recorded is written, or the time is over: whether it was.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let reads = self.reads.as_ref().is_none_or(|reads| reads.flush(until));
        self.rare.flush(until) && reads
    }
}

/// Says in the log if a chain is out of joint, on a thread of its own. Whoever appends goes on all the same.
fn check_once(chain: &Chain, key: ring::hmac::Key) {
    let chain = chain.clone();
    let check = move || match chain.verify_last(&key, CHECKED) {
        Ok(Verified {
            broken: Some(Broken { id, reason }),
            ..
        }) => tracing::warn!(
            "the audit trail {} is broken at row {id}: {reason}; it goes on all the same",
            chain.path().display()
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("the audit trail cannot be checked: {error}"),
    };
    let thread = std::thread::Builder::new()
        .name("audit-check".into())
        .stack_size(256 * 1024);
    if let Err(error) = thread.spawn(check) {
        tracing::warn!("the audit trail cannot be checked: {error}");
    }
}

/// A gate that is closed for a while.
#[derive(Default)]
struct Gate {
    opens: Option<Instant>,
}

impl Gate {
    fn close(&mut self) {
        self.opens = Some(Instant::now() + FROZEN);
    }

    /// How long it is closed yet.
    fn closed_for(&self) -> Option<Duration> {
        let left = self.opens?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl Drop for AuditTrail {
    fn drop(&mut self) {
        self.flush(PATIENCE);
        self.rare.end();
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
