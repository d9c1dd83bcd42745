//! A source that answers when the test says so, and counts its calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use simpletuner_live::error::{Error, Result};
use simpletuner_live::provider::{KeyedSource, Provided};
use simpletuner_live::secret::{SecretName, SecretValue};

/// Its answer: a value for every key, no key, or a failure.
#[derive(Clone, Copy)]
pub enum Has {
    Value(&'static str),
    Nothing,
    Failure,
}

pub struct Remote {
    has: Mutex<Has>,
    calls: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Remote {
    pub fn new(has: Has) -> Arc<Self> {
        Arc::new(Self {
            has: Mutex::new(has),
            calls: AtomicUsize::new(0),
            is_open: Mutex::new(true),
            opened: Condvar::new(),
        })
    }
    pub fn now_has(&self, has: Has) {
        *self.has.lock().unwrap() = has;
    }
    /// The number of calls.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
    /// Blocks callers until the gate is dropped; the answer is the one at the time of the call.
    #[must_use]
    pub fn close(self: &Arc<Self>) -> Gate {
        *self.is_open.lock().unwrap() = false;
        Gate(self.clone())
    }
}

/// Opens when it is dropped, so that a test that fails meanwhile does not hang.
pub struct Gate(Arc<Remote>);

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }
}

impl KeyedSource for Remote {
    fn name(&self) -> &str {
        "remote"
    }
    fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
        let has = *self.has.lock().unwrap();
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            is_open = self.opened.wait(is_open).unwrap();
        }
        match has {
            Has::Value(text) => Ok(Some(Provided::now(
                SecretValue::new(text),
                SystemTime::UNIX_EPOCH,
            ))),
            Has::Nothing => Ok(None),
            Has::Failure => Err(Error::io(
                "asking the remote",
                std::io::Error::from_raw_os_error(libc::ECONNREFUSED),
            )),
        }
    }
}
