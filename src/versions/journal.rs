//! The journal: the records of all changes, encrypted in a [`Log`] that outlives the server. The records of an operation are
//! appended before it is answered, and the next server restores the state from them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use postcard::ser_flavors::Size;

use super::log::Log;
use super::record::Record;
use super::restore::Restored;
use crate::secret::SealingKey;
use crate::sync::{Mutex, MutexGuard};

/// How many bytes the encryption adds to a record of the log.
const TAG: usize = 16;
/// How many records a checkpoint puts into one record of the log.
const BATCH: usize = 64;

/// The journal of one mount. The default one keeps no records, for a tree that ends with its process.
#[derive(Default)]
pub struct Journal {
    log: Option<Mutex<Log>>,
    /// The last checkpoint failed, and that was logged.
    has_failed: AtomicBool,
}

impl Journal {
    /// Opens the journal in the files of a log, and reads what earlier servers left in it. Call
    /// [`checkpoint`](Self::checkpoint) before anything is appended.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn open(
        files: [std::fs::File; 2],
        key: SealingKey,
        numbers_from: u64,
    ) -> io::Result<(Self, Restored)> {
        let mut restored = Restored::new(numbers_from);
        let log = Log::open(files, key, |records| apply_all(&mut restored, records))?;
        restored.finish();
        let journal = Self {
            log: Some(Mutex::new(log)),
            has_failed: AtomicBool::new(false),
        };
        Ok((journal, restored))
    }

    /// Whether records are kept.
    pub fn is_kept(&self) -> bool {
        self.log.is_some()
    }

    fn log(&self) -> Option<MutexGuard<'_, Log>> {
        let log = self.log.as_ref()?;
        Some(log.lock())
    }

    /// Appends the records of one operation, all or none. Returns whether to ask if a checkpoint [is due](Self::is_due).
    #[must_use]
    pub fn append(&self, records: &[Record]) -> bool {
        let Some(mut log) = self.log().filter(|_| !records.is_empty()) else {
            return false;
        };
        match sealed(records).and_then(|mut record| log.append(&mut record)) {
            Ok(()) => log.may_need_rewrite(),
            Err(error) => {
                if !self.has_failed.load(Ordering::Relaxed) {
                    tracing::warn!("the journal is begun anew: {error}");
                }
                true
            }
        }
    }

    /// Whether [`checkpoint`](Self::checkpoint) is due: an append failed, or the journal has grown long for what would be
    /// left of it; `needed` says about how many bytes.
    pub fn is_due(&self, needed: impl FnOnce() -> u64) -> bool {
        self.log().is_some_and(|mut log| log.needs_rewrite(needed))
    }

    /// Begins the journal anew with the records of the whole state. The caller must hold the state's lock from collecting
    /// `all` until this returns, so that no record is appended in between.
    pub fn checkpoint(&self, all: &[Record]) {
        let Some(mut log) = self.log() else {
            return;
        };
        let rewritten = log.rewrite(|write| {
            // In pieces, so that none of them is large.
            all.chunks(BATCH)
                .try_for_each(|records| write(&mut sealed(records)?))
        });
        // After a failure each append tries again.
        let had_failed = self.has_failed.swap(rewritten.is_err(), Ordering::Relaxed);
        match rewritten {
            Err(error) if !had_failed => tracing::error!(
                "the journal cannot be written, so the next server will not know what is done from now on: {error}"
            ),
            Ok(()) if had_failed => tracing::info!("the journal is written again"),
            _ => {}
        }
    }
}

/// Records one after the other, with room for the seal, so that no copy of a value is left in a buffer that grew.
fn sealed(records: &[Record]) -> io::Result<Vec<u8>> {
    let failed = io::Error::other;
    let mut len = TAG;
    for record in records {
        len += postcard::serialize_with_flavor(record, Size::default()).map_err(failed)?;
    }
    let mut bytes = Vec::with_capacity(len);
    for record in records {
        bytes = postcard::to_extend(record, bytes).map_err(failed)?;
    }
    Ok(bytes)
}

fn apply_all(restored: &mut Restored, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match postcard::take_from_bytes::<Record>(bytes) {
            Ok((record, rest)) => {
                restored.apply(record);
                bytes = rest;
            }
            Err(error) => {
                tracing::error!("a record of the server before cannot be read: {error}");
                return;
            }
        }
    }
}
