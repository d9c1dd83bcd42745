//! Records in the audit trail which user and program changed what, read what, and was refused.

use std::time::Duration;

use super::kind::FileKind;
use super::{Caller, OpError, Tree};
use crate::audit::{Actor, AuditEvent, ReadTarget};
use crate::bundle::BundleFormat;
use crate::process::{Process, control_group_of};
use crate::secret::Change;
use crate::versions::Opener;

/// A writer: the process whose bundle base a merge uses, and the actor that the trail names.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) process: Option<Process>,
    pub(super) actor: Actor,
}

impl Writer {
    pub(super) fn of_opener(opener: &Opener) -> Self {
        let group = control_group_of(opener.process.pid);
        Self {
            process: Some(opener.process),
            actor: Actor {
                uid: Some(opener.uid),
                pid: opener.process.pid,
                program: opener.program.clone(),
                container: group.container,
                unit: group.unit,
            },
        }
    }
}

/// The caller as the audit trail names them. The caller is still waiting, so `/proc` still has the process.
pub(super) fn actor(caller: &Caller) -> Actor {
    Actor::of_thread(caller.uid, caller.tid)
}

fn path_of(format: BundleFormat) -> &'static str {
    match format {
        BundleFormat::Json => "bundle/secrets.json",
        BundleFormat::Yaml => "bundle/secrets.yaml",
        BundleFormat::Env => "bundle/secrets.env",
        BundleFormat::DockerEnv => "bundle/docker.env",
    }
}

impl Tree {
    /// The caller of a write without an open, such as truncate(2) or rename(2).
    pub(super) fn writer(&self, caller: &Caller) -> Writer {
        Writer {
            process: self.processes.of_thread(caller.tid),
            actor: actor(caller),
        }
    }

    pub(super) fn record(&self, actor: &Actor, act: AuditEvent) {
        if let Some(audit) = &self.audit {
            audit.record(actor.clone(), act);
        }
    }

    pub(super) fn record_changes(&self, actor: &Actor, changes: &[Change]) {
        for change in changes {
            self.record(
                actor,
                match change {
                    Change::Set(name, _) => AuditEvent::SecretSet(name.clone()),
                    Change::Delete(name) => AuditEvent::SecretDeleted(name.clone()),
                },
            );
        }
    }

    /// Counts that a file with secrets was opened to read, and records it.
    pub(super) fn record_read(&self, caller: &Caller, kind: &FileKind) {
        let what = match kind {
            FileKind::Secret(name) => ReadTarget::Secret(name.clone()),
            FileKind::Bundle(format) => ReadTarget::AllSecrets(path_of(*format)),
            _ => return,
        };
        self.counters.live.opens.increment();
        let Some(audit) = &self.audit else {
            return;
        };
        audit.record_read(caller.uid, caller.tid, what);
    }

    /// Records that a caller was refused, and gives EACCES.
    pub(super) fn refuse(&self, caller: &Caller, what: &str) -> OpError {
        if let Some(audit) = &self.audit {
            audit.record_refusal(caller.uid, caller.tid, &crate::text::printable(what));
        }
        OpError::Errno(libc::EACCES)
    }

    /// Waits until the trail has its last rows, for at most `timeout`.
    pub fn flush_audit(&self, timeout: Duration) {
        if let Some(audit) = &self.audit {
            audit.finish(timeout);
        }
    }

    /// Blocks everything that would be recorded from now on, and waits until the trail has all rows so far, or the time is
    /// over. Blocked callers wait for the next server.
    pub fn freeze_audit(&self, timeout: Duration) {
        if let Some(audit) = &self.audit {
            audit.freeze();
            audit.flush(timeout);
        }
    }
}
