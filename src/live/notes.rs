//! What this room leaves for the next server, besides the state of `versions`: events, prices that were set, what each
//! process last saw of the bundle, what the backends hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::bundle::Base;
use super::events::EventLog;
use super::{Tree, lock};
use crate::process::Process;
use crate::secret::SecretBuffer;
use crate::versions::{Record, State, Timestamp};

/// A record of this room. As those below: a variant or a field is only ever added behind the last one.
#[derive(Serialize, Deserialize)]
enum Note {
    /// When the first server began.
    Begun(Timestamp),
    /// Bytes that were added to the events; `true`: they replace all others.
    Events(bool, Vec<u8>),
    /// Prices that were set, as JSON; `None`: those of the configuration.
    Prices(Option<String>),
    /// What a process last saw of the bundle: its number, and when it began.
    Base(u32, u64, Base),
    /// What the backends hold, as the manager writes it.
    Backends(Zeroizing<Vec<u8>>),
}

impl Note {
    fn record(&self) -> Record {
        let len = postcard::serialize_with_flavor(self, Size::default()).unwrap_or(0);
        let bytes = postcard::to_extend(self, Vec::with_capacity(len)).unwrap_or_default();
        Record::Other(SecretBuffer::new(&Zeroizing::new(bytes)))
    }
}

/// What is left for the next server. One lock is held while it changes and while the change is appended.
pub(super) struct Notes {
    pub(super) begun: SystemTime,
    pub(super) events: EventLog,
    prices: Option<String>,
    bases: Bases,
    backends: Option<Zeroizing<Vec<u8>>>,
}

/// What other rooms go on from.
#[derive(Default)]
pub(super) struct Left {
    pub(super) prices: Option<String>,
    pub(super) backends: Option<Zeroizing<Vec<u8>>>,
}

impl Notes {
    pub(super) fn restore(records: &[SecretBuffer]) -> (Self, Left) {
        let mut notes = Self {
            begun: SystemTime::now(),
            events: EventLog::default(),
            prices: None,
            bases: Bases::default(),
            backends: None,
        };
        for record in records {
            match postcard::from_bytes(record.as_bytes()) {
                Ok(Note::Begun(at)) => notes.begun = at.into(),
                Ok(Note::Events(anew, bytes)) => notes.events.take_in(anew, &bytes),
                Ok(Note::Prices(prices)) => notes.prices = prices,
                Ok(Note::Base(pid, started, base)) => {
                    notes.bases.put(Process { pid, started }, Arc::new(base));
                }
                Ok(Note::Backends(bytes)) => notes.backends = Some(bytes),
                Err(error) => {
                    tracing::error!("a record of the server before cannot be read: {error}");
                }
            }
        }
        let left = Left {
            prices: notes.prices.clone(),
            backends: notes.backends.clone(),
        };
        (notes, left)
    }

    fn records(&self) -> Vec<Record> {
        let mut notes = vec![
            Note::Begun(self.begun.into()),
            Note::Events(true, self.events.all().to_vec()),
            Note::Prices(self.prices.clone()),
        ];
        notes.extend(
            self.backends
                .as_ref()
                .map(|bytes| Note::Backends(bytes.clone())),
        );
        notes.extend(
            self.bases
                .in_order()
                .map(|(process, base)| Note::Base(process.pid, process.started, base.clone())),
        );
        notes.iter().map(Note::record).collect()
    }
}

impl Tree {
    fn append(&self, note: &Note) {
        if self.journal.is_kept() && self.journal.append(&[note.record()]) {
            // Not here: the caller may hold the state's lock, which a checkpoint needs.
            self.checkpoint_is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Begins the journal anew with the whole state.
    pub(super) fn checkpoint(&self, state: &State) {
        if !self.journal.is_kept() {
            return;
        }
        let notes = lock(&self.notes);
        let mut records = state.checkpoint();
        records.extend(notes.records());
        self.journal.checkpoint(&records);
    }

    /// Adds a line to the events.
    pub(super) fn add_event(&self, event: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let mut notes = lock(&self.notes);
        let anew = notes.events.push(&line);
        self.append(&Note::Events(anew, line));
    }

    /// Notes the prices, which may have been set or reset.
    pub(super) fn note_prices(&self) {
        let mut notes = lock(&self.notes);
        notes.prices = self.hardware.save();
        self.append(&Note::Prices(notes.prices.clone()));
    }

    /// Notes what the backends hold, which has changed.
    pub(super) fn note_backends(&self) {
        if !self.journal.is_kept() {
            return;
        }
        let mut notes = lock(&self.notes);
        let backends = self.manager.save_backends();
        self.append(&Note::Backends(backends.clone()));
        notes.backends = Some(backends);
    }

    /// Notes what a process has last seen of the bundle.
    pub(super) fn put_base(&self, process: Process, base: Arc<Base>) {
        let mut notes = lock(&self.notes);
        if notes.bases.put(process, base.clone()) {
            self.append(&Note::Base(process.pid, process.started, (*base).clone()));
        }
    }

    pub(super) fn base_of(&self, process: Process) -> Option<Arc<Base>> {
        lock(&self.notes).bases.get(process)
    }
}

/// What each process last saw of the bundle, for the most recent ones.
#[derive(Default)]
struct Bases {
    by_process: HashMap<Process, (u64, Arc<Base>)>,
    clock: u64,
}

impl Bases {
    const MAX: usize = 256;

    /// Returns whether anything has changed.
    fn put(&mut self, process: Process, base: Arc<Base>) -> bool {
        self.clock += 1;
        if let Some((at, known)) = self.by_process.get_mut(&process) {
            *at = self.clock;
            if Arc::ptr_eq(known, &base) {
                return false;
            }
            *known = base;
            return true;
        }
        if self.by_process.len() >= Self::MAX {
            let oldest = self.by_process.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(process, _)| *process) {
                self.by_process.remove(&oldest);
            }
        }
        self.by_process.insert(process, (self.clock, base));
        true
    }

    /// The oldest first.
    fn in_order(&self) -> impl Iterator<Item = (Process, &Base)> {
        let mut all: Vec<_> = self.by_process.iter().collect();
        all.sort_by_key(|(_, (at, _))| *at);
        all.into_iter()
            .map(|(process, (_, base))| (*process, &**base))
    }

    fn get(&self, process: Process) -> Option<Arc<Base>> {
        Some(self.by_process.get(&process)?.1.clone())
    }
}
