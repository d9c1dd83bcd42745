//! Records who opens which file. The kernel reports each open by its own queue, or asks the server to open.

use std::sync::Arc;

use super::open_audit::{OpenAudit, Opens};
use super::owner::FileOwner;
use super::tree::Views;
use crate::audit::{Actor, AuditTrail, ReadTarget};
use crate::process::process_of;
use crate::versions::Inode;

/// The kernel names no user in an open if views can be mounted with mapped users.
const NO_UID: u32 = u32::MAX;

impl Views {
    /// Has opens recorded so from now on.
    pub fn record_opens(&self, audit: OpenAudit, trail: Arc<AuditTrail>) {
        *self.opens.lock() = Opens {
            audit,
            trail: Some(trail),
        };
    }

    /// How opens are recorded.
    pub fn open_audit(&self) -> OpenAudit {
        self.opens.lock().audit
    }

    /// Records an open by a user's thread, which waits for the answer.
    pub fn record_open(&self, ino: u64, uid: u32, tid: u32) {
        self.record_open_by(
            ino,
            match uid {
                NO_UID => Actor::of_opener(process_of(tid).unwrap_or(tid), |look| look(tid)),
                uid => Actor::of_thread(uid, tid),
            },
        );
    }

    /// Records an open that the kernel has reported.
    pub fn record_open_by(&self, ino: u64, actor: Actor) {
        let trail = self.opens.lock().trail.clone();
        if let Some((trail, target)) = trail.zip(self.target_of(ino)) {
            self.counters.opens.increment();
            trail.record_read_by(actor, target);
        }
    }

    fn target_of(&self, ino: u64) -> Option<ReadTarget> {
        let state = self.state.lock();
        let Some(Inode::Version(version)) = state.inode(ino) else {
            return None;
        };
        let place = state.file(version.file)?.last.clone();
        drop(state);
        let definitions = self.store.current();
        Some(ReadTarget::ViewFile {
            view: definitions.at(place.dir).map(|view| view.name.clone()),
            file: FileOwner::file_of(&place).to_owned(),
        })
    }
}
