//! Keeps the memory resident into which fuser reads requests. All `unsafe` about it is here.
//!
//! When a server is killed while the kernel copies a request to it (`fuse_dev_do_read`, fs/fuse/dev.c), the kernel puts
//! the request back for the next server only if the copy succeeds. A page that is not resident must be faulted in, which
//! fails in a process that is being killed, and then the kernel answers the request with EIO (seen on Linux 6.18: a write
//! to a server that was killed before it was scheduled). fuser allocates 16 MiB of zeros for requests, of which a page
//! becomes resident when it is first used, and offers no other buffer; so this is done where memory is allocated.

use std::alloc::{GlobalAlloc, Layout, System};

use super::init::MAX_WRITE;

/// Only fuser's buffer is as large as this: the largest write that it knows of, and a header.
const OF_FUSER: usize = 16 * 1024 * 1024;
/// The largest request: a write, and a page for what is before its bytes.
const LARGEST_REQUEST: usize = MAX_WRITE as usize + 2 * PAGE;
const PAGE: usize = 4096;

/// The system's allocator for the server's program. It makes the first pages of fuser's read buffer resident, and locks
/// them if that is allowed, because bytes of secrets pass through them. Other programs do not need it.
pub struct Allocator;

// SAFETY: all memory comes from and goes to `System`, under the same layout.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.alloc_zeroed(layout) };
        if layout.size() > OF_FUSER && !start.is_null() {
            // SAFETY: so many bytes are allocated there, and are zero.
            unsafe { make_resident(start) };
        }
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

/// # Safety
/// There must be more than [`LARGEST_REQUEST`] zero bytes that nobody else uses.
unsafe fn make_resident(start: *mut u8) {
    for offset in (0..=LARGEST_REQUEST).step_by(PAGE) {
        // SAFETY: within those bytes. A write, because a read would give the shared page of zeros.
        unsafe { start.add(offset).write_volatile(0) };
    }
    // SAFETY: as above; locking changes no byte. Where it is refused the pages may be swapped out, and are resident again
    // after their next use.
    let _ = unsafe { rustix::mm::mlock(start.cast(), LARGEST_REQUEST) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pages_of_a_buffer_like_fusers_are_resident_and_its_others_are_not() {
        let layout = Layout::from_size_align(OF_FUSER + PAGE, 1).unwrap();
        // SAFETY: the layout is not empty, and the memory is given back under the same one.
        unsafe {
            let start = Allocator.alloc_zeroed(layout);
            let first = start.add(PAGE - start as usize % PAGE);
            let mut resident = vec![0u8; OF_FUSER / PAGE - 1];
            let looked = libc::mincore(first.cast(), resident.len() * PAGE, resident.as_mut_ptr());
            assert_eq!(looked, 0);
            let pages = resident.iter().take_while(|page| **page & 1 == 1).count();
            assert!(
                (MAX_WRITE as usize / PAGE + 1..100).contains(&pages),
                "{pages}"
            );
            Allocator.dealloc(start, layout);
        }
    }
}
