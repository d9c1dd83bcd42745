//! Group commit: edits that arrive during a write share the next rewrite of the file, and each gets its own result.
//! Knows nothing of the file.

use std::sync::Arc;

use super::document::Stored;
use super::undo::Undo;
use crate::error::Result;
use crate::secret::{SecretName, SecretValue};
use crate::sync::{Condvar, Mutex};

/// One atomic change of the document.
pub(super) enum Edit {
    /// Names and their new values; `None` deletes the name.
    Changes(Vec<(SecretName, Option<NewValue>)>),
    /// Gives the first name's value the second name.
    Rename(SecretName, SecretName),
    /// Sets names back to what they held.
    Undo(Vec<Undo>),
}

/// The new value of a name.
pub(super) enum NewValue {
    /// In its stored form.
    Sealed(Stored),
    /// To be encrypted by the leader: the key is created only once the file could be read.
    Value(SecretValue),
}

/// An edit in the queue, and its result once it is written.
struct PendingEdit {
    edit: Edit,
    result: Mutex<Option<Result<()>>>,
}

#[derive(Default)]
pub(super) struct WriteQueue {
    // A leaf lock, never held during a write.
    inner: Mutex<Inner>,
    done: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Arc<PendingEdit>>,
    /// Whether a thread writes, for itself and the others.
    has_leader: bool,
}

impl WriteQueue {
    /// Writes these edits together with all others in the queue, and returns the result of each. The calling thread
    /// waits, or becomes the leader and calls `write`.
    pub(super) fn write(
        &self,
        edits: Vec<Edit>,
        write: impl Fn(&[&Edit]) -> Vec<Result<()>>,
    ) -> Vec<Result<()>> {
        let mine: Vec<Arc<PendingEdit>> = edits
            .into_iter()
            .map(|edit| {
                let result = Mutex::default();
                Arc::new(PendingEdit { edit, result })
            })
            .collect();
        let mut inner = self.inner.lock();
        inner.waiting.extend(mine.iter().cloned());
        loop {
            if !mine.iter().any(|pending| pending.result.lock().is_none()) {
                break;
            }
            if inner.has_leader {
                inner = self.done.wait(inner);
                continue;
            }
            inner.has_leader = true;
            let group = std::mem::take(&mut inner.waiting);
            drop(inner);
            // Resigns even if `write` panics, so that the others do not wait for ever.
            let guard = LeaderGuard(self);
            let edits: Vec<&Edit> = group.iter().map(|pending| &pending.edit).collect();
            let results = write(&edits);
            for (pending, result) in group.iter().zip(results) {
                *pending.result.lock() = Some(result);
            }
            drop(guard);
            inner = self.inner.lock();
        }
        drop(inner);
        let results = mine.iter();
        let lost = || {
            let lost = std::io::Error::other("the write ended unexpectedly");
            Err(crate::error::Error::io("writing the secrets file", lost))
        };
        results
            .map(|pending| pending.result.lock().take().unwrap_or_else(lost))
            .collect()
    }
}

impl PendingEdit {}

/// The thread leads until this is dropped.
struct LeaderGuard<'a>(&'a WriteQueue);

impl Drop for LeaderGuard<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().has_leader = false;
        self.0.done.notify_all();
    }
}
