//! The heartbeat page: memory that keeper and server share. The server writes there that it is alive, which request each
//! of its threads works on, and which requests it has not answered yet. The keeper and the next server read it, also
//! after the server was killed. All `unsafe` about it is here.

use std::os::fd::OwnedFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::error::{Error, Result};

/// The size of the page, in slots of eight bytes.
const SLOTS: usize = 16 * 1024;
const SIZE: usize = SLOTS * size_of::<AtomicU64>();
/// The slots with the numbers of unanswered requests; 0: free.
const UNANSWERED: std::ops::Range<usize> = 1024..9216;
/// Pairs of slots: a request's number, and how many servers crashed while they worked on it.
const CRASHES: std::ops::Range<usize> = 512..640;
/// A request is poisonous once this many servers have crashed on it.
const POISONOUS_AFTER: u64 = 2;

/// The slots with a meaning of their own.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// Counts up as long as the server is alive.
    Beats = 0,
    /// 1: the kernel's first request (INIT) is answered.
    Initialized = 1,
    /// The request that the reading thread works on.
    Reading = 2,
    /// The request that the thread `commit` works on.
    Committing = 3,
    /// The request that the thread `save` works on.
    Saving = 4,
    /// The last request that a server began to work on.
    LastRequest = 6,
    /// The request that the thread `close` works on.
    Closing = 7,
    /// The request that the thread `views` works on, with [`OF_VIEWS`].
    ReadingViews = 8,
    /// 1: the first request (INIT) of the views' mount is answered.
    ViewsInitialized = 9,
    /// The last request of the views' mount that a server began to work on, with [`OF_VIEWS`].
    LastViewsRequest = 10,
}

/// The numbers of requests of the views' mount have this bit on the page, which no request's number has: the kernel numbers the requests of
/// each mount from the beginning.
pub(crate) const OF_VIEWS: u64 = 1 << 61;

impl Slot {
    /// The slots in which threads write the request that they work on.
    const OF_REQUESTS: [Slot; 5] = [
        Slot::Reading,
        Slot::Closing,
        Slot::Committing,
        Slot::Saving,
        Slot::ReadingViews,
    ];
}

/// The page, mapped into this process until it ends: threads may outlive their mount.
#[derive(Clone, Copy)]
pub(crate) struct HeartbeatPage(&'static [AtomicU64; SLOTS]);

impl HeartbeatPage {
    /// A new page, and the memfd that holds it.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let failed = |e: Errno| match e {
            Errno::FBIG => Error::io(
                "the heartbeat page: raise the limit for the size of files (`ulimit -f`; LimitFSIZE= in a unit)",
                e,
            ),
            _ => Error::io("the heartbeat page", e),
        };
        let file = rustix::fs::memfd_create("simpletuner-live heartbeat", MemfdFlags::CLOEXEC)
            .map_err(failed)?;
        rustix::fs::ftruncate(&file, SIZE as u64).map_err(failed)?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps the page that another process has made.
    pub(crate) fn map(file: &OwnedFd) -> Result<Self> {
        let failed = |e: Errno| Error::io("the heartbeat page", e);
        if rustix::fs::fstat(file).map_err(failed)?.st_size < SIZE as i64 {
            return Err(failed(Errno::NODATA));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the mapping is new, as large as the array, begins at a page boundary, and is never unmapped. Every process
        // that has it uses it only as atomics.
        let page = unsafe {
            mmap(null_mut(), SIZE, access, MapFlags::SHARED, file, 0)
                .map(|start| &*start.cast::<[AtomicU64; SLOTS]>())
        };
        page.map(Self).map_err(failed)
    }

    fn slot(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }

    pub(crate) fn get(&self, slot: Slot) -> u64 {
        self.slot(slot as usize).load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, slot: Slot, value: u64) {
        self.slot(slot as usize).store(value, Ordering::Relaxed);
    }

    /// Shows that the server is alive.
    pub(crate) fn beat(&self) {
        self.slot(Slot::Beats as usize)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a thread works on this request, until the returned guard is dropped.
    pub(crate) fn working_on(&self, slot: Slot, request: u64) -> WorkingOn {
        self.set(slot, request);
        WorkingOn(*self, slot)
    }

    /// Records that the request was read and will be answered later. Where the table is full, nothing is recorded.
    pub(crate) fn mark_unanswered(&self, request: u64) {
        for index in Self::candidates(request) {
            let slot = self.slot(index);
            if slot.load(Ordering::Relaxed) == request {
                return;
            }
            let taken = slot.compare_exchange(0, request, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                return;
            }
        }
    }

    /// Records that the request is answered.
    pub(crate) fn mark_answered(&self, request: u64) {
        for index in Self::candidates(request) {
            if self.slot(index).load(Ordering::Relaxed) == request {
                return self.slot(index).store(0, Ordering::Relaxed);
            }
        }
    }

    /// The slots that may hold a request, its preferred one first.
    fn candidates(request: u64) -> impl Iterator<Item = usize> {
        // The kernel numbers requests in steps of two.
        let first = (request / 2) as usize % UNANSWERED.len();
        UNANSWERED.skip(first).chain(UNANSWERED.take(first))
    }

    /// Removes and returns the requests that a dead server had read and not answered.
    pub(crate) fn drain_unanswered(&self) -> Vec<u64> {
        let parked = UNANSWERED.map(|index| self.slot(index).swap(0, Ordering::Relaxed));
        let mut unanswered: Vec<u64> = parked.filter(|request| *request != 0).collect();
        for slot in Slot::OF_REQUESTS {
            unanswered.push(self.slot(slot as usize).swap(0, Ordering::Relaxed));
        }
        unanswered.sort_unstable();
        unanswered.dedup();
        unanswered.retain(|request| *request != 0);
        unanswered
    }

    /// Counts a server's crash against each request that its threads worked on.
    pub(crate) fn record_crash(&self) {
        // Two threads can show the same request, when one has just handed it to the other.
        let mut requests = Slot::OF_REQUESTS.map(|slot| self.get(slot)).to_vec();
        requests.sort_unstable();
        requests.dedup();
        for request in requests {
            if request == 0 {
                continue;
            }
            let entry = self.crash_entry(request).or_else(|| {
                // In a full table, the request with the fewest crashes is replaced.
                CRASHES
                    .step_by(2)
                    .min_by_key(|index| self.slot(index + 1).load(Ordering::Relaxed))
            });
            if let Some(index) = entry {
                let is_known = self.slot(index).swap(request, Ordering::Relaxed) == request;
                let crashes = self.slot(index + 1);
                match is_known {
                    true => drop(crashes.fetch_add(1, Ordering::Relaxed)),
                    false => crashes.store(1, Ordering::Relaxed),
                }
            }
        }
    }

    fn crash_entry(&self, request: u64) -> Option<usize> {
        CRASHES
            .step_by(2)
            .find(|index| self.slot(*index).load(Ordering::Relaxed) == request)
    }

    /// Whether so many servers crashed on this request that no further one may try it.
    pub(crate) fn is_poisonous(&self, request: u64) -> bool {
        self.crash_entry(request)
            .is_some_and(|index| self.slot(index + 1).load(Ordering::Relaxed) >= POISONOUS_AFTER)
    }
}

/// A guard: a thread works on a request until this is dropped.
pub(crate) struct WorkingOn(HeartbeatPage, Slot);

impl Drop for WorkingOn {
    fn drop(&mut self) {
        self.0.set(self.1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_server_finds_the_requests_that_were_read_and_not_answered() {
        let (page, file) = HeartbeatPage::new().unwrap();
        // Two have the same preferred slot, and two threads show the last one.
        let far = 2 * UNANSWERED.len() as u64;
        for request in [2, 4, 2 + far, 6] {
            page.mark_unanswered(request);
        }
        page.mark_answered(4);
        let working = page.working_on(Slot::Reading, 6);
        let next = HeartbeatPage::map(&file).unwrap();
        assert_eq!(next.drain_unanswered(), [2, 6, 2 + far]);
        assert!(next.drain_unanswered().is_empty());
        drop(working);
        for request in (2..20_002).step_by(2) {
            page.mark_unanswered(request);
        }
        assert_eq!(next.drain_unanswered().len(), UNANSWERED.len());
    }

    #[test]
    fn a_request_is_poisonous_once_two_servers_crashed_on_it_and_a_waiting_one_never_is() {
        let (page, _file) = HeartbeatPage::new().unwrap();
        page.mark_unanswered(8);
        for crashes in 0..3 {
            assert_eq!(page.is_poisonous(10), crashes >= 2);
            page.set(Slot::Closing, 10);
            page.set(Slot::Committing, 10);
            page.record_crash();
        }
        assert!(!page.is_poisonous(8));
        for request in (100..1000).step_by(2) {
            page.set(Slot::Reading, request);
            page.record_crash();
        }
        assert!(
            page.is_poisonous(10),
            "a full table keeps the most dangerous request"
        );
    }
}
