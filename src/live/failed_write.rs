//! The last write that failed, for `status` and `providers/NAME`: many programs do not look at what close(2) returns.

use std::time::SystemTime;

use serde::Serialize;

use super::{OpError, Tree, WorkQueue};
use crate::error::{Error, in_words};
use crate::provider::rfc3339;
use crate::versions::DirEntry;

/// A write that failed. No part of a value is in it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FailedWrite {
    /// When, as RFC 3339 has it.
    at: String,
    /// The file's path below the mount.
    file: String,
    reason: String,
    #[serde(skip)]
    queue: WorkQueue,
}

impl Tree {
    /// The last write that failed, if none to the same place has succeeded since.
    pub(super) fn failed_write(&self) -> Option<FailedWrite> {
        self.failed_write.lock().clone()
    }

    /// The same, if it was one of secrets.
    pub(super) fn failed_write_of_secrets(&self) -> Option<FailedWrite> {
        let failed = self.failed_write();
        failed.filter(|failed| failed.queue == WorkQueue::Store)
    }

    /// Records that a write of this file failed. An operation that would be wrong at any time, as the removal of a file that
    /// does not exist or of `status`, is none.
    pub(super) fn record_failed_write(&self, dir_entry: &DirEntry, error: &OpError) {
        let reason = match error {
            OpError::Blocked(_)
            | OpError::Error(
                Error::NotFound { .. } | Error::ReadOnlyProvider { .. } | Error::InvalidName { .. },
            ) => return,
            OpError::Errno(libc::EPERM | libc::ENOENT | libc::EEXIST | libc::EINVAL) => return,
            OpError::Error(error) => error.to_string(),
            OpError::Errno(errno) => in_words(&std::io::Error::from_raw_os_error(*errno)),
        };
        self.counters.failed_writes.increment();
        let Some(kind) = self.layout.kind_at(dir_entry) else {
            return;
        };
        let folder = self.layout.path_of_folder(dir_entry.dir);
        let file = format!("{}/{}", folder.unwrap_or_default(), dir_entry.name);
        *self.failed_write.lock() = Some(FailedWrite {
            at: rfc3339(SystemTime::now()),
            file: file.trim_start_matches('/').to_owned(),
            reason,
            queue: kind.written_by(),
        });
    }

    /// A write that this queue does has succeeded.
    pub(super) fn forget_failed_write(&self, queue: WorkQueue) {
        let mut failed = self.failed_write.lock();
        if failed.as_ref().is_some_and(|failed| failed.queue == queue) {
            *failed = None;
        }
    }
}
