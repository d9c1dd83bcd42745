//! Which inodes the kernel knows: the lookups that were answered, and not yet forgotten by FORGET.

use std::collections::{HashMap, VecDeque};

/// The most inodes of an earlier server that are kept although the kernel may have forgotten them.
const MAX_DOUBTFUL: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    lookups: u64,
    /// An earlier server may have answered lookups of it, too.
    is_restored: bool,
}

/// The lookups of all inodes.
#[derive(Default)]
pub(super) struct Lookups {
    counts: HashMap<u64, Count>,
    /// Inodes of an earlier server that the kernel has forgotten once, perhaps for good; the oldest first.
    doubtful: VecDeque<u64>,
}

impl Lookups {
    /// Counts a lookup that is answered.
    pub(super) fn add(&mut self, ino: u64) {
        self.counts.entry(ino).or_default().lookups += 1;
    }

    /// An earlier server answered lookups of this inode. How many is not known.
    pub(super) fn restored(&mut self, ino: u64) {
        self.counts.entry(ino).or_default().is_restored = true;
    }

    /// Subtracts `count` lookups. Returns an inode that the kernel may no longer know.
    pub(super) fn forget(&mut self, ino: u64, count: u64) -> Option<u64> {
        let known = self.counts.get_mut(&ino)?;
        if count <= known.lookups {
            // A lookup that the kernel rejected, or all of them.
            known.lookups -= count;
            return Some(ino);
        }
        // The kernel forgets lookups that an earlier server answered, too. How many of this server's are among them is not
        // known: an answer may be on its way to the kernel while the kernel forgets all before it.
        known.lookups = 0;
        match known.is_restored {
            true => self.doubt(ino),
            false => Some(ino),
        }
    }

    fn doubt(&mut self, ino: u64) -> Option<u64> {
        self.doubtful.push_back(ino);
        if self.doubtful.len() <= MAX_DOUBTFUL {
            return None;
        }
        let oldest = self.doubtful.pop_front()?;
        self.counts.get_mut(&oldest)?.is_restored = false;
        Some(oldest)
    }

    /// Whether the kernel may know the inode.
    pub(super) fn is_known(&self, ino: u64) -> bool {
        let count = self.counts.get(&ino);
        count.is_some_and(|count| count.lookups > 0 || count.is_restored)
    }

    pub(super) fn remove(&mut self, ino: u64) {
        self.counts.remove(&ino);
    }
}
