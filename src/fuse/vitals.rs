//! The heartbeat page: shared memory in which the server shows the keeper that it lives, which request each thread works
//! on, and which requests it has taken and not answered. All `unsafe` about it is here.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;
use rustix::fs::MemfdFlags;

use crate::error::{Error, Result};

/// Words of eight bytes, all of them.
const WORDS: usize = 16 * 1024;
/// The words with the numbers of requests that were taken and not answered; 0: free.
const TAKEN: std::ops::Range<usize> = 1024..9216;
/// Pairs of a request's number and how many servers died over it.
const BLAMED: std::ops::Range<usize> = 512..640;
/// After this many deaths a request is not tried again.
const DEATHS: u64 = 2;

/// What stands where.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    /// Counts up as long as the server lives.
    Pulse = 0,
    /// 1: the kernel's first request is answered.
    Initialized = 1,
    /// The request that the reading thread works on.
    Reading = 2,
    /// The request that the committing thread works on.
    Committing = 3,
    /// The request that the thread works on that saves into a database.
    Saving = 4,
    /// A thread of the server's that lives as long as the server.
    Thread = 5,
    /// The last request that was begun with.
    Last = 6,
    /// The request that the closer thread works on.
    Closing = 7,
}

impl Word {
    /// The word in which a thread writes which request it works on.
    const OF_REQUESTS: [Word; 4] = [Word::Reading, Word::Closing, Word::Committing, Word::Saving];
}

/// The page, mapped into this process.
#[derive(Clone)]
pub(crate) struct Vitals(Arc<MmapRaw>);

impl Vitals {
    /// A new page, and the memfd that holds it.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let failed = |e: rustix::io::Errno| Error::io("memory to share", e);
        let file = rustix::fs::memfd_create("simpletuner-live vitals", MemfdFlags::CLOEXEC)
            .map_err(failed)?;
        rustix::fs::ftruncate(&file, (WORDS * 8) as u64).map_err(failed)?;
        Ok((Self::of(&file)?, file))
    }

    /// Maps the page that another process has made.
    pub(crate) fn of(file: &OwnedFd) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io("memory to share", e);
        let file = File::from(file.try_clone().map_err(failed)?);
        let page = MmapRaw::map_raw(&file).map_err(failed)?;
        if page.len() < WORDS * 8 {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self(Arc::new(page)))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: within the mapping, aligned (a mapping begins at a page), and only ever used as atomics, by all
        // processes that have it.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast::<u64>().add(index)) }
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        self.word(word as usize).load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.word(word as usize).store(value, Ordering::Relaxed);
    }

    /// Shows that the server lives.
    pub(crate) fn beat(&self) {
        self.word(Word::Pulse as usize)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a thread works on this request, until the returned guard is dropped.
    pub(crate) fn at(&self, word: Word, request: u64) -> At {
        self.set(word, request);
        At(self.clone(), word)
    }

    /// Notes that the request is taken and will be answered later. If the table is full, it is left out.
    pub(crate) fn take(&self, request: u64) {
        for index in Self::places(request) {
            let word = self.word(index);
            if word.load(Ordering::Relaxed) == request {
                return;
            }
            let empty = word.compare_exchange(0, request, Ordering::Relaxed, Ordering::Relaxed);
            if empty.is_ok() {
                return;
            }
        }
    }

    /// Notes that the request is answered.
    pub(crate) fn answered(&self, request: u64) {
        for index in Self::places(request) {
            if self.word(index).load(Ordering::Relaxed) == request {
                return self.word(index).store(0, Ordering::Relaxed);
            }
        }
    }

    /// The words that may hold a request, its own first.
    fn places(request: u64) -> impl Iterator<Item = usize> {
        // The kernel counts requests in steps of two.
        let first = (request / 2) as usize % TAKEN.len();
        TAKEN.skip(first).chain(TAKEN.take(first))
    }

    /// Takes out the requests that a dead server had taken and not answered.
    pub(crate) fn drain_taken(&self) -> Vec<u64> {
        let parked = TAKEN.map(|index| self.word(index).swap(0, Ordering::Relaxed));
        let mut taken: Vec<u64> = parked.filter(|request| *request != 0).collect();
        for word in Word::OF_REQUESTS {
            taken.push(self.word(word as usize).swap(0, Ordering::Relaxed));
        }
        taken.sort_unstable();
        taken.dedup();
        taken.retain(|request| *request != 0);
        taken
    }

    /// Counts a server's death against the requests that its threads worked on.
    pub(crate) fn blame(&self) {
        // Two threads may be at the same request, where one has just handed it to the other.
        let mut requests = Word::OF_REQUESTS.map(|word| self.get(word)).to_vec();
        requests.sort_unstable();
        requests.dedup();
        for request in requests {
            if request == 0 {
                continue;
            }
            let place = self.blamed(request).or_else(|| {
                // The table is full, so the request with the fewest deaths gives way.
                BLAMED
                    .step_by(2)
                    .min_by_key(|index| self.word(index + 1).load(Ordering::Relaxed))
            });
            if let Some(index) = place {
                let known = self.word(index).swap(request, Ordering::Relaxed) == request;
                let deaths = self.word(index + 1);
                match known {
                    true => drop(deaths.fetch_add(1, Ordering::Relaxed)),
                    false => deaths.store(1, Ordering::Relaxed),
                }
            }
        }
    }

    fn blamed(&self, request: u64) -> Option<usize> {
        BLAMED
            .step_by(2)
            .find(|index| self.word(*index).load(Ordering::Relaxed) == request)
    }

    /// Whether too many servers ended over a request.
    pub(crate) fn is_deadly(&self, request: u64) -> bool {
        self.blamed(request)
            .is_some_and(|index| self.word(index + 1).load(Ordering::Relaxed) >= DEATHS)
    }
}

/// A guard: a thread works on a request until it is dropped.
pub(crate) struct At(Vitals, Word);

impl Drop for At {
    fn drop(&mut self) {
        self.0.set(self.1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_not_answered_is_known_to_the_next() {
        let (vitals, file) = Vitals::new().unwrap();
        // Two that have the same place, and one that two threads are at.
        let far = 2 * TAKEN.len() as u64;
        for request in [2, 4, 2 + far, 6] {
            vitals.take(request);
        }
        vitals.answered(4);
        let at = vitals.at(Word::Reading, 6);
        let next = Vitals::of(&file).unwrap();
        assert_eq!(next.drain_taken(), [2, 6, 2 + far]);
        assert!(next.drain_taken().is_empty());
        drop(at);
        for request in (2..20_002).step_by(2) {
            vitals.take(request);
        }
        assert_eq!(next.drain_taken().len(), TAKEN.len());
    }

    #[test]
    fn a_request_that_ends_two_servers_is_deadly_and_one_that_waits_is_not() {
        let (vitals, _file) = Vitals::new().unwrap();
        vitals.take(8);
        for deaths in 0..3 {
            assert_eq!(vitals.is_deadly(10), deaths >= 2);
            vitals.set(Word::Closing, 10);
            vitals.set(Word::Committing, 10);
            vitals.blame();
        }
        assert!(!vitals.is_deadly(8));
        for request in (100..1000).step_by(2) {
            vitals.set(Word::Reading, request);
            vitals.blame();
        }
        assert!(vitals.is_deadly(10), "it is not forgotten for others");
    }
}
