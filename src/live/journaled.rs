//! What the journal keeps for the next server besides the state of `versions`: events, prices that were set, what each
//! process last saw of the bundle, and what the backends hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Tree;
use super::events::EventLog;
use crate::bundle::Base;
use crate::process::Process;
use crate::secret::SecretBuffer;
use crate::versions::{Record, State, Timestamp};

/// A record of this module, as bytes in a [`Record::Other`]. Here, too, a variant or a field is only ever added at the end.
#[derive(Serialize, Deserialize)]
enum TreeRecord {
    /// When the first server began.
    Started(Timestamp),
    /// Bytes that were added to the events; `true`: they replace all others.
    Events(bool, Vec<u8>),
    /// Prices that were set, as JSON; `None`: those of the configuration.
    Prices(Option<String>),
    /// What a process last saw of the bundle: its number, and when it began.
    Base(u32, u64, Base),
    /// What the backends hold, as the manager writes it.
    Backends(Zeroizing<Vec<u8>>),
}

impl TreeRecord {
    fn record(&self) -> Record {
        let len = postcard::serialize_with_flavor(self, Size::default()).unwrap_or(0);
        let bytes = postcard::to_extend(self, Vec::with_capacity(len)).unwrap_or_default();
        Record::Other(SecretBuffer::new(&Zeroizing::new(bytes)))
    }
}

/// What the next server continues with. The lock is held while it changes and until the change is appended.
pub(super) struct Journaled {
    pub(super) started_at: SystemTime,
    pub(super) events: EventLog,
    prices: Option<String>,
    bases: Bases,
    backends: Option<Zeroizing<Vec<u8>>>,
}

/// What the hardware prices and the manager continue with.
#[derive(Default)]
pub(super) struct Restored {
    pub(super) prices: Option<String>,
    pub(super) backends: Option<Zeroizing<Vec<u8>>>,
}

impl Journaled {
    pub(super) fn restore(records: &[SecretBuffer]) -> (Self, Restored) {
        let mut journaled = Self {
            started_at: SystemTime::now(),
            events: EventLog::default(),
            prices: None,
            bases: Bases::default(),
            backends: None,
        };
        for record in records {
            match postcard::from_bytes(record.as_bytes()) {
                Ok(TreeRecord::Started(at)) => journaled.started_at = at.into(),
                Ok(TreeRecord::Events(replaces_all, bytes)) => {
                    journaled.events.add(replaces_all, &bytes)
                }
                Ok(TreeRecord::Prices(prices)) => journaled.prices = prices,
                Ok(TreeRecord::Base(pid, started, base)) => {
                    journaled
                        .bases
                        .put(Process { pid, started }, Arc::new(base));
                }
                Ok(TreeRecord::Backends(bytes)) => journaled.backends = Some(bytes),
                Err(error) => {
                    tracing::error!("a record of the server before cannot be read: {error}");
                }
            }
        }
        let restored = Restored {
            prices: journaled.prices.clone(),
            backends: journaled.backends.clone(),
        };
        (journaled, restored)
    }

    fn records(&self) -> Vec<Record> {
        let mut entries = vec![
            TreeRecord::Started(self.started_at.into()),
            TreeRecord::Events(true, self.events.all().to_vec()),
            TreeRecord::Prices(self.prices.clone()),
        ];
        entries.extend(
            self.backends
                .as_ref()
                .map(|bytes| TreeRecord::Backends(bytes.clone())),
        );
        entries.extend(
            self.bases.in_order().map(|(process, base)| {
                TreeRecord::Base(process.pid, process.started, base.clone())
            }),
        );
        entries.iter().map(TreeRecord::record).collect()
    }
}

impl Tree {
    fn append(&self, entry: &TreeRecord) {
        if self.journal.is_kept() && self.journal.append(&[entry.record()]) {
            // Not here: the caller may hold the state's lock, which a checkpoint needs.
            self.checkpoint_is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Begins the journal anew with the whole state.
    pub(super) fn checkpoint(&self, state: &State) {
        if !self.journal.is_kept() {
            return;
        }
        let journaled = self.journaled.lock();
        let mut records = state.checkpoint();
        records.extend(journaled.records());
        self.journal.checkpoint(&records);
    }

    /// Adds a line to the events.
    pub(super) fn add_event(&self, event: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let mut journaled = self.journaled.lock();
        let replaces_all = journaled.events.append(&line);
        self.append(&TreeRecord::Events(replaces_all, line));
    }

    /// Journals the prices, which may have been set or reset.
    pub(super) fn journal_prices(&self) {
        let mut journaled = self.journaled.lock();
        journaled.prices = self.hardware.save();
        self.append(&TreeRecord::Prices(journaled.prices.clone()));
    }

    /// Journals what the backends hold, which has changed.
    pub(super) fn journal_backends(&self) {
        if !self.journal.is_kept() {
            return;
        }
        let mut journaled = self.journaled.lock();
        let backends = self.manager.save_backends();
        self.append(&TreeRecord::Backends(backends.clone()));
        journaled.backends = Some(backends);
    }

    /// Journals what a process has last seen of the bundle.
    pub(super) fn put_base(&self, process: Process, base: Arc<Base>) {
        let mut journaled = self.journaled.lock();
        if journaled.bases.put(process, base.clone()) {
            self.append(&TreeRecord::Base(
                process.pid,
                process.started,
                (*base).clone(),
            ));
        }
    }

    pub(super) fn base_of(&self, process: Process) -> Option<Arc<Base>> {
        self.journaled.lock().bases.get(process)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every record as another version of the program wrote it.
    const GOLDEN: [&[u8]; 6] = [
        b"\x00\x80\xc4\x9f\xd5\x0c\x05",
        b"\x01\x01\x03{}\n",
        b"\x02\x01\x07{\"a\":1}",
        b"\x02\x00",
        b"\x03\xac\x02\x07\x01\x01A\x09",
        b"\x04\x02b\xff",
    ];

    #[test]
    fn records_are_read_as_other_versions_of_the_program_wrote_them() {
        let started = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5);
        let samples = [
            TreeRecord::Started(started.into()),
            TreeRecord::Events(true, b"{}\n".to_vec()),
            TreeRecord::Prices(Some("{\"a\":1}".into())),
            TreeRecord::Prices(None),
            // One name, of one byte, and its fingerprint.
            TreeRecord::Base(300, 7, postcard::from_bytes(b"\x01\x01A\x09").unwrap()),
            TreeRecord::Backends(Zeroizing::new(b"b\xff".to_vec())),
        ];
        for (sample, golden) in samples.iter().zip(GOLDEN) {
            let written = postcard::to_stdvec(sample).unwrap();
            // A record is only ever added; one that is there is never another.
            assert_eq!(written, golden, "{}", written.escape_ascii());
        }
        let records = GOLDEN.map(SecretBuffer::new);
        let (journaled, restored) = Journaled::restore(&records);
        assert_eq!(journaled.started_at, started);
        assert_eq!(journaled.events.all(), b"{}\n");
        assert_eq!(restored.prices, None);
        assert_eq!(restored.backends.unwrap().as_slice(), b"b\xff");
        let process = Process {
            pid: 300,
            started: 7,
        };
        assert!(journaled.bases.get(process).is_some());
    }
}
