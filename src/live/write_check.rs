//! What is told at the open of a file: that a write of it cannot succeed. Many programs do not look at what close(2)
//! returns. Which thread looks at the disk is not known here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::kind::FileKind;
use super::{Caller, OpError, Tree, WaitOn, WorkQueue};
use crate::error::Error;
use crate::provider::Done;
use crate::simpletuner_db::BUSY_TIMEOUT;
use crate::sync::Mutex;
use crate::versions::DirEntry;

/// How long the creation of a name waits. The kernel holds the folder's lock meanwhile. Other processes that need the lock wait
/// in the kernel, and no signal ends their wait.
const CREATE_PATIENCE: Duration = Duration::from_millis(250);

/// A request that waits until it is known whether its file can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteCheck {
    request: u64,
    queue: WorkQueue,
    /// How long it waits.
    patience: Duration,
}

/// The checks under way, by their requests, with their begin.
#[derive(Default)]
pub(super) struct WriteChecks(Mutex<HashMap<u64, Instant>>);

impl WriteChecks {
    /// Whether the check of this request is still under way.
    fn is_pending(&self, request: u64) -> bool {
        self.0.lock().contains_key(&request)
    }

    /// Whether one is under way that should have ended.
    fn is_any_late(&self) -> bool {
        let pending = self.0.lock();
        pending
            .values()
            .any(|began| began.elapsed() >= CREATE_PATIENCE)
    }
}

impl WaitOn {
    /// How long a caller waits for it at most; `None`: as long as it lasts, which has its own limit.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            WaitOn::WriteCheck(check) => Some(check.patience),
            _ => None,
        }
    }
}

impl Tree {
    /// Fails if it is known that a write of the file cannot succeed. `creates`: the file is being made, and the caller waits
    /// only for a moment.
    ///
    /// # Errors
    /// Blocked until it is known; then the error that the write would have, or ETIMEDOUT.
    pub(super) fn check_write(
        &self,
        caller: &Caller,
        dir_entry: &DirEntry,
        kind: &FileKind,
        creates: bool,
        has_waited: bool,
    ) -> Result<(), OpError> {
        let (queue, key) = match kind {
            FileKind::Secret(name) => (WorkQueue::Store, Some(name)),
            FileKind::Bundle(_) => (WorkQueue::Store, None),
            FileKind::Config(_) => (WorkQueue::Database, None),
            // Nothing of these is on a disk, and of a view's definition the close will tell.
            FileKind::View(_)
            | FileKind::Scratch
            | FileKind::Price(_)
            | FileKind::PriceTable
            | FileKind::Control(..) => return Ok(()),
        };
        let is_unknown = self.write_checks.is_pending(caller.request);
        let timeout = match queue {
            WorkQueue::Store => self.manager.store_timeout(),
            WorkQueue::Database => BUSY_TIMEOUT,
        };
        if !has_waited {
            let patience = match creates {
                true if self.write_checks.is_any_late() => return Ok(()),
                true => CREATE_PATIENCE,
                false => timeout,
            };
            return Err(OpError::Blocked(WaitOn::WriteCheck(WriteCheck {
                request: caller.request,
                queue,
                patience,
            })));
        }
        let refusal = match (is_unknown, creates, queue) {
            // The close will tell.
            (true, true, _) => None,
            (true, false, _) => Some(Error::io(
                format!("the disk has not answered for {} s", timeout.as_secs_f64()),
                rustix::io::Errno::TIMEDOUT,
            )),
            (false, _, WorkQueue::Store) => self.manager.store_refusal(key),
            (false, _, WorkQueue::Database) => {
                self.configs.as_ref().and_then(|configs| configs.refusal())
            }
        };
        match refusal {
            Some(refusal) => {
                let refusal = OpError::Error(refusal.at(&dir_entry.name));
                self.record_failed_write(dir_entry, &refusal);
                Err(refusal)
            }
            None => Ok(()),
        }
    }

    /// Finds out in the background whether the file can be written.
    pub(super) fn begin_write_check(self: &std::sync::Arc<Self>, check: &WriteCheck, done: Done) {
        let request = check.request;
        self.write_checks.0.lock().insert(request, Instant::now());
        let tree = std::sync::Arc::downgrade(self);
        let done: Done = Box::new(move || {
            if let Some(tree) = tree.upgrade() {
                tree.write_checks.0.lock().remove(&request);
            }
            done();
        });
        match (check.queue, &self.configs) {
            (WorkQueue::Store, _) => self.manager.check_store_async(done),
            (WorkQueue::Database, Some(configs)) => configs.check_writable(done),
            (WorkQueue::Database, None) => done(),
        }
    }
}
