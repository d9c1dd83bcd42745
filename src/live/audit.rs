//! What is recorded of what is done in the tree, and by whom.

use std::time::Duration;

use super::bundle::BundleFormat;
use super::places::File;
use super::process::Process;
use super::{Caller, Tree};
use crate::secret::Change;
use crate::state::audit::{Act, Actor, ReadOf};

/// Who writes: whose base of the bundle it is, and whom the trail names.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) process: Option<Process>,
    pub(super) actor: Actor,
}

impl Writer {
    pub(super) fn of(caller: &Caller) -> Self {
        Self {
            process: Process::of_thread(caller.pid),
            actor: actor(caller),
        }
    }
}

/// Who asks, as the trail names him. The caller is waiting, so that `/proc` still has it.
pub(super) fn actor(caller: &Caller) -> Actor {
    Actor::of_thread(caller.uid, caller.pid)
}

fn path_of(format: BundleFormat) -> &'static str {
    match format {
        BundleFormat::Json => "bundle/secrets.json",
        BundleFormat::Yaml => "bundle/secrets.yaml",
        BundleFormat::Env => "bundle/secrets.env",
    }
}

impl Tree {
    pub(super) fn record(&self, actor: &Actor, act: Act) {
        if let Some(audit) = &self.audit {
            audit.record(actor.clone(), act);
        }
    }

    pub(super) fn record_changes(&self, actor: &Actor, changes: &[Change]) {
        for change in changes {
            self.record(
                actor,
                match change {
                    Change::Set(name, _) => Act::SecretSet(name.clone()),
                    Change::Delete(name) => Act::SecretDeleted(name.clone()),
                },
            );
        }
    }

    /// What holds secrets was opened to be read.
    pub(super) fn record_read(&self, caller: &Caller, file: &File) {
        let Some(audit) = &self.audit else {
            return;
        };
        let what = match file {
            File::Secret(name) => ReadOf::Secret(name.clone()),
            File::Bundle(format) => ReadOf::All(path_of(*format)),
            _ => return,
        };
        audit.record_read(caller.uid, caller.pid, what);
    }

    /// Waits until the trail has all that was done so far, or the time is over.
    pub fn flush_audit(&self, patience: Duration) {
        if let Some(audit) = &self.audit {
            audit.flush(patience);
        }
    }

    /// Lets nobody do or read anything more that would be recorded, and waits until all before it is, or the time is
    /// over: whoever asks waits for the next server.
    pub fn freeze_audit(&self, patience: Duration) {
        if let Some(audit) = &self.audit {
            audit.freeze();
            audit.flush(patience);
        }
    }
}
