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
    /// How many calls are answered, in their order; the others wait.
    answered: Mutex<usize>,
    opened: Condvar,
}

impl Remote {
    pub fn new(has: Has) -> Arc<Self> {
        Arc::new(Self {
            has: Mutex::new(has),
            calls: AtomicUsize::new(0),
            answered: Mutex::new(usize::MAX),
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
        *self.answered.lock().unwrap() = self.calls();
        Gate(self.clone())
    }
}

/// Opens when it is dropped, so that a test that fails meanwhile does not hang.
pub struct Gate(Arc<Remote>);

impl Gate {
    /// Lets the first call through that waits.
    pub fn let_one_through(&self) {
        *self.0.answered.lock().unwrap() += 1;
        self.0.opened.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.answered.lock().unwrap() = usize::MAX;
        self.0.opened.notify_all();
    }
}

impl KeyedSource for Remote {
    fn name(&self) -> &str {
        "remote"
    }
    fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
        let has = *self.has.lock().unwrap();
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let answered = self.answered.lock().unwrap();
        let waits = |answered: &mut usize| call >= *answered;
        drop(self.opened.wait_while(answered, waits).unwrap());
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
