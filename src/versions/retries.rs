//! Pending retries: which threads got ESTALE for which name, and whether they will look it up again to read or to write.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::DirEntry;

/// How long a thread may take for its second lookup.
const LIFETIME: Duration = Duration::from_secs(60);
/// The same for callers of another pid namespace, who share the number 0.
const UNSEEN_LIFETIME: Duration = Duration::from_secs(1);
/// How long a thread that came back and found nothing may take for one more lookup. It is short, because the thread's
/// next lookup of the name may be for something else, and could be shown an old value.
const MISSED_LIFETIME: Duration = Duration::from_secs(1);
/// With more retries than this, expired ones are dropped.
const CLEANUP_THRESHOLD: usize = 1000;

/// A pending retry of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The thread opens to write; else to read.
    pub to_write: bool,
    at: Instant,
    /// When the thread came back and found nothing. The kernel may look the name up once more.
    pub(super) missed: Option<Instant>,
}

impl Retry {
    fn is_over(&self, tid: u32) -> bool {
        let (since, lifetime) = match (self.missed, tid) {
            (Some(missed), _) => (missed, MISSED_LIFETIME),
            (None, 0) => (self.at, UNSEEN_LIFETIME),
            (None, _) => (self.at, LIFETIME),
        };
        since.elapsed() >= lifetime
    }
}

/// The name under which a retry counts for every name.
pub(super) fn anywhere() -> DirEntry {
    DirEntry::new(0, "")
}

/// The pending retries, by thread and name.
#[derive(Default)]
pub(super) struct Retries(HashMap<(u32, DirEntry), Retry>);

impl Retries {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put(&mut self, tid: u32, dir_entry: DirEntry, to_write: bool) {
        if self.0.len() >= CLEANUP_THRESHOLD {
            self.0.retain(|(tid, _), retry| !retry.is_over(*tid));
        }
        let retry = Retry {
            to_write,
            at: Instant::now(),
            missed: None,
        };
        self.0.insert((tid, dir_entry), retry);
    }

    /// The newest retry of a thread, for this name or for any.
    pub(super) fn find(&self, tid: u32, dir_entry: &DirEntry) -> Option<Retry> {
        if self.0.is_empty() {
            return None;
        }
        let dir_entries = [dir_entry.clone(), anywhere()].into_iter();
        let retries = dir_entries.filter_map(|dir_entry| self.0.get(&(tid, dir_entry)));
        let retry = retries.max_by_key(|retry| retry.at)?;
        (!retry.is_over(tid)).then_some(*retry)
    }

    /// The thread's lookup of the name found nothing.
    pub(super) fn set_missed(&mut self, tid: u32, dir_entry: &DirEntry) {
        if let Some(retry) = self.0.get_mut(&(tid, dir_entry.clone())) {
            retry.missed = Some(Instant::now());
        }
    }

    /// Ends a retry.
    pub(super) fn remove(&mut self, tid: u32, dir_entry: &DirEntry) {
        self.0.remove(&(tid, dir_entry.clone()));
    }

    /// Ends all retries of a thread, and returns their names. Callers who share the number 0 share their retries, which
    /// expire.
    pub(super) fn take_all(&mut self, tid: u32) -> Vec<DirEntry> {
        if tid == 0 || self.0.is_empty() {
            return Vec::new();
        }
        let its = self.0.extract_if(|(of, _), _| *of == tid);
        its.map(|((_, dir_entry), _)| dir_entry).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &DirEntry, bool)> {
        let retries = self.0.iter();
        retries.map(|((tid, dir_entry), retry)| (*tid, dir_entry, retry.to_write))
    }
}
