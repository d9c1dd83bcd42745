//! Memory for values: anonymous pages that are locked (if the limit allows), excluded from core dumps, and zeroed when
//! freed. All `unsafe` code for it is here, behind [`LockedBytes`].
//!
//! Values share pages: chunks are divided into blocks whose size is a power of two, and a freed block is reused for the next
//! value of that size. Chunks are never unmapped, so no page is unlocked while another value is in it.
//!
//! A page is locked when it is first touched (MLOCK_ONFAULT). To lock a whole mapping at once takes a millisecond for each
//! few MiB, and other requests wait meanwhile. To free a large one takes as long, so a thread of its own does that.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::mm::{
    Advice, MapFlags, MlockFlags, MremapFlags, ProtFlags, madvise, mlock_with, mmap_anonymous,
    mremap,
};
use zeroize::Zeroize;

use crate::sync::{self, Mutex, SMALL_STACK};

/// How many bytes are mapped at once.
const CHUNK: usize = 128 * 1024;
/// The smallest block.
const SMALLEST: usize = 64;
/// The number of block sizes: 64 bytes to 128 KiB.
const CLASSES: usize = 12;
/// What is larger takes longer to free than a thread takes to start.
const LARGE: usize = 256 * 1024;
/// How much of a mapping is freed at once.
const PIECE: usize = 32 * 1024;
/// The time between two pieces of a large one.
const PAUSE: Duration = Duration::from_micros(50);

/// Whether the warning about a page that could not be locked was logged.
static LOCK_FAILURE_LOGGED: AtomicBool = AtomicBool::new(false);

struct Block(NonNull<u8>);
// SAFETY: a block is plain memory that nobody else refers to while it is in the pool or in one `LockedBytes`.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

struct Pool {
    free: [Vec<Block>; CLASSES],
}

// A leaf lock: only mmap and mlock are called while it is held.
static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: [const { Vec::new() }; CLASSES],
});

/// Maps `size` bytes, locked when touched if the limit allows.
fn map(size: usize) -> NonNull<u8> {
    // SAFETY: a new anonymous mapping aliases nothing.
    let pages = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    let Some(start) = pages
        .ok()
        .and_then(|pages| NonNull::new(pages.cast::<u8>()))
    else {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; CHUNK]>());
    };
    // SAFETY: the range is the new mapping.
    unsafe {
        if mlock_with(start.as_ptr().cast(), size, MlockFlags::ONFAULT).is_err()
            && !LOCK_FAILURE_LOGGED.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "values may reach the swap: raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=) to lock them in memory"
            );
        }
        // May fail on an old kernel; core dumps are off for the whole process anyway.
        let _ = madvise(start.as_ptr().cast(), size, Advice::LinuxDontDump);
    }
    start
}

/// The size class for `len` bytes; `None` for a block with a mapping of its own.
fn class_of(len: usize) -> Option<usize> {
    let class = (len.max(SMALLEST).next_power_of_two() / SMALLEST).trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

/// Bytes in locked memory, zeroed when dropped.
pub(super) struct LockedBytes {
    start: NonNull<u8>,
    len: usize,
    /// The size of the block. Its bytes from `len` on are zero.
    capacity: usize,
}
// SAFETY: it owns its memory, and `&self` gives out only shared references.
unsafe impl Send for LockedBytes {}
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.as_mut_slice().copy_from_slice(bytes);
        copy
    }

    /// `len` zero bytes.
    pub(super) fn zeroed(len: usize) -> Self {
        // Fresh pages and returned blocks are zero.
        let (start, capacity) = take_block(len);
        Self {
            start,
            len,
            capacity,
        }
    }

    /// Truncates it, or appends zeros. It grows to a block of at least twice the size; the kernel moves the pages of a large one
    /// without copying them.
    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len {
            zero(&mut self.as_mut_slice()[len..]);
        } else if len > self.capacity {
            self.grow(len.next_power_of_two());
        }
        self.len = len;
    }

    fn grow(&mut self, capacity: usize) {
        if class_of(self.capacity).is_none() {
            // SAFETY: only `self` refers to the mapping, and it does not use the old address afterwards.
            let moved = unsafe {
                mremap(
                    self.start.as_ptr().cast(),
                    self.capacity,
                    capacity,
                    MremapFlags::MAYMOVE,
                )
            };
            // Fails at the limit of locked memory.
            if let Some(start) = moved
                .ok()
                .and_then(|start| NonNull::new(start.cast::<u8>()))
            {
                (self.start, self.capacity) = (start, capacity);
                return;
            }
        }
        let mut larger = Self::zeroed(capacity);
        larger.as_mut_slice()[..self.len].copy_from_slice(self.as_slice());
        *self = larger;
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: all `len` bytes are initialised, and only `as_mut_slice` writes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// A zeroed block of at least `len` bytes, and its size.
fn take_block(len: usize) -> (NonNull<u8>, usize) {
    let Some(class) = class_of(len) else {
        let size = len.next_multiple_of(rustix::param::page_size());
        return (map(size), size);
    };
    let size = SMALLEST << class;
    let mut pool = POOL.lock();
    if pool.free[class].is_empty() {
        let chunk = map(CHUNK);
        for offset in (0..CHUNK).step_by(size) {
            // SAFETY: within the chunk.
            pool.free[class].push(Block(unsafe { chunk.add(offset) }));
        }
    }
    let block = pool.free[class].pop();
    (block.map_or_else(|| map(CHUNK), |block| block.0), size)
}

/// Overwrites the bytes with zeros, word by word, which is eight times as fast.
fn zero(bytes: &mut [u8]) {
    // SAFETY: any bytes are a valid u64.
    let (head, words, tail) = unsafe { bytes.align_to_mut::<u64>() };
    head.zeroize();
    words.zeroize();
    tail.zeroize();
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        match class_of(self.capacity) {
            Some(class) => {
                zero(self.as_mut_slice());
                POOL.lock().free[class].push(Block(self.start));
            }
            None => Mapping {
                start: Block(self.start),
                len: self.len,
                size: self.capacity,
                pause: Duration::ZERO,
            }
            .free(),
        }
    }
}

/// A block with a mapping of its own. Freed when dropped.
struct Mapping {
    start: Block,
    /// Its bytes from here on are zero, and may never have been touched.
    len: usize,
    size: usize,
    /// How long the thread that drops it may sleep between two pieces.
    pause: Duration,
}

impl Mapping {
    fn free(mut self) {
        if self.len > LARGE {
            let slowly = move || {
                self.pause = PAUSE;
                drop(self);
            };
            // Without a thread, this one does it: the closure is dropped.
            let _ = sync::spawn("free", SMALL_STACK, slowly);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Piece by piece: meanwhile the kernel lets no other thread onto this processor, nor map or unmap anything.
        for at in (0..self.size).step_by(PIECE) {
            if !self.pause.is_zero() {
                // Otherwise this thread has the kernel's lock again before one that waits for it has woken.
                std::thread::sleep(self.pause);
            }
            let size = PIECE.min(self.size - at);
            let used = PIECE.min(self.len.saturating_sub(at));
            // SAFETY: nothing else is in this mapping, and each piece of it is unmapped once.
            unsafe {
                let start = self.start.0.add(at);
                zero(std::slice::from_raw_parts_mut(start.as_ptr(), used));
                let _ = rustix::mm::munmap(start.as_ptr().cast(), size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_keeps_the_bytes_and_appends_zeros() {
        let mut locked = LockedBytes::copy_of(b"abc");
        let mut expected = b"abc".to_vec();
        for len in [
            3, 100, 2, 131_072, 131_073, 500_000, 499_999, 20_000_000, 7, 300,
        ] {
            locked.resize(len);
            expected.resize(len, 0);
            assert_eq!(locked.as_slice(), expected);
            locked.as_mut_slice()[len - 1] = b'z';
            expected[len - 1] = b'z';
        }
    }

    #[test]
    fn blocks_keep_their_bytes_and_are_zeroed_when_freed() {
        for len in [0, 65_535, 65_536, 131_072, 131_073, 1_000_000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
            let locked = LockedBytes::copy_of(&bytes);
            assert_eq!(locked.as_slice(), bytes);
        }
        // Other tests may have taken these blocks again, but whatever is free is zero.
        let pool = POOL.lock();
        for (class, blocks) in pool.free.iter().enumerate() {
            for block in blocks {
                // SAFETY: chunks stay mapped, and nobody takes a block while the pool is locked.
                let bytes =
                    unsafe { std::slice::from_raw_parts(block.0.as_ptr(), SMALLEST << class) };
                assert!(bytes.iter().all(|&byte| byte == 0), "class {class}");
            }
        }
    }
}
