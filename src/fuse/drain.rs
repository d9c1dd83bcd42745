//! What the module `mount` does with the filesystem beside its requests: it sets the device, continues the commits that an
//! earlier server left, and waits for the last writes when the mount ends.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::requests::Dispatcher;
use crate::live::Commits;

/// How long the end of a mount waits for the last writes.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it waits for the audit trail at least, even if the writes took all the time.
const MIN_AUDIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Finishes the writes under way when the mount ends.
#[derive(Clone)]
pub struct Drain(pub(super) Arc<Dispatcher>);

impl Drain {
    /// Sets the session's device, through which the epoch and some answers go past fuser.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn set_device(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.0.device.set(device.try_clone_to_owned()?);
        let names = self.0.tree.kernel_names();
        names.set_device(device.try_clone_to_owned()?);
        self.0
            .tree
            .set_mount_info(|info| info.kernel.epoch = names.are_held());
        Ok(())
    }

    /// Continues commits that an earlier server left unfinished.
    pub(crate) fn resume(&self, unfinished: Commits) {
        self.0.commit_released(unfinished, None);
    }

    /// Waits until every closed write is on disk, for at most 15 seconds.
    pub fn finish(&self) {
        let (sender, receiver) = channel();
        let until = Instant::now() + FINISH_TIMEOUT;
        // In this order, because the first worker queues work on the others.
        for worker in self.0.workers.running() {
            let sender = sender.clone();
            worker.run(move || {
                // After the timeout, the receiver is gone.
                let _ = sender.send(());
            });
            let left = until.saturating_duration_since(Instant::now());
            if receiver.recv_timeout(left).is_err() {
                tracing::error!("the last writes did not finish in time, and may be lost");
                break;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        self.0.tree.flush_audit(left.max(MIN_AUDIT_TIMEOUT));
    }
}
