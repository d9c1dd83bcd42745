//! Writers that come while another one writes are written together, in one rewrite of the file, each told its own result.
//! Knows nothing of what is written.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::document::Stored;
use crate::error::Result;
use crate::secret::{SecretName, SecretValue};

/// One change of the document that is done whole or not at all.
pub(super) enum Edit {
    /// Names with what each is to have; `None`: it is to be gone.
    Changes(Vec<(SecretName, Option<New>)>),
    /// The first one's value is to have the second name.
    Rename(SecretName, SecretName),
}

/// What a name is to have.
pub(super) enum New {
    /// As it is to be stored.
    Sealed(Stored),
    /// To be encrypted with a key that is made when the file could be read.
    Value(SecretValue),
}

/// An edit that waits, and its result when it is done.
struct Waiting {
    edit: Edit,
    result: Mutex<Option<Result<()>>>,
}

#[derive(Default)]
pub(super) struct Queue {
    // A leaf lock, never held while anything is written.
    inner: Mutex<Inner>,
    done: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Arc<Waiting>>,
    /// Somebody writes, for all who wait.
    is_led: bool,
}

impl Queue {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Has these edits written, together with all others that wait, and gives the result of each.
    pub(super) fn write(
        &self,
        edits: Vec<Edit>,
        write: impl Fn(&[&Edit]) -> Vec<Result<()>>,
    ) -> Vec<Result<()>> {
        let mine: Vec<Arc<Waiting>> = edits
            .into_iter()
            .map(|edit| {
                let result = Mutex::default();
                Arc::new(Waiting { edit, result })
            })
            .collect();
        let mut inner = self.inner();
        inner.waiting.extend(mine.iter().cloned());
        loop {
            if !mine.iter().any(|waiting| waiting.result().is_none()) {
                break;
            }
            if inner.is_led {
                inner = self.done.wait(inner).unwrap_or_else(|e| e.into_inner());
                continue;
            }
            inner.is_led = true;
            let group = std::mem::take(&mut inner.waiting);
            drop(inner);
            // Even if it panics the others go on.
            let led = Led(self);
            let edits: Vec<&Edit> = group.iter().map(|waiting| &waiting.edit).collect();
            let results = write(&edits);
            for (waiting, result) in group.iter().zip(results) {
                *waiting.result() = Some(result);
            }
            drop(led);
            inner = self.inner();
        }
        drop(inner);
        let results = mine.iter();
        let lost = || {
            let lost = std::io::Error::other("the write ended unexpectedly");
            Err(crate::error::Error::io("writing the secrets file", lost))
        };
        results
            .map(|waiting| waiting.result().take().unwrap_or_else(lost))
            .collect()
    }
}

impl Waiting {
    fn result(&self) -> MutexGuard<'_, Option<Result<()>>> {
        self.result.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// One leads until this is dropped.
struct Led<'a>(&'a Queue);

impl Drop for Led<'_> {
    fn drop(&mut self) {
        self.0.inner().is_led = false;
        self.0.done.notify_all();
    }
}
