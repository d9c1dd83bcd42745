//! Gives back memory that a process has for nothing while nobody asks: pages of the program, and what was freed. All `unsafe` about it
//! is here.

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use libc::{PF_W, PT_LOAD, dl_phdr_info};
use rustix::mm::{Advice, madvise};

use crate::process::heartbeat::{HeartbeatPage, Slot};

/// How long nobody must have asked.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// Gives memory back once the process has started, and again each time it has been idle for a while.
pub(super) struct IdlePages {
    /// The last request of each mount, when it was looked last.
    last: [u64; 2],
    changed_at: Instant,
    is_released: bool,
}

impl IdlePages {
    pub(super) fn after_start() -> Self {
        release();
        Self {
            last: [0; 2],
            changed_at: Instant::now(),
            is_released: false,
        }
    }

    /// To be called now and then.
    pub(super) fn look(&mut self, page: &HeartbeatPage) {
        let last = [Slot::LastRequest, Slot::LastViewsRequest].map(|slot| page.get(slot));
        if last != self.last {
            *self = Self {
                last,
                changed_at: Instant::now(),
                is_released: false,
            };
        } else if !self.is_released && self.changed_at.elapsed() >= IDLE_AFTER {
            release();
            self.is_released = true;
        }
    }
}

/// Unmaps the program's code and constants, which nothing ever writes: the kernel maps what is used again from its page
/// cache. Starting uses most of them once (settings, the command line, TLS, the database), serving uses few, and with each page the
/// kernel maps many beside it.
fn release() {
    // SAFETY: `release_program` has the type that dl_iterate_phdr(3) wants, and ignores its last argument.
    unsafe { libc::dl_iterate_phdr(Some(release_program), std::ptr::null_mut()) };
    // SAFETY: it gives only memory back that is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Called with the program first, and ends the walk there: the libraries are small, and shared with other programs.
unsafe extern "C" fn release_program(
    object: *mut dl_phdr_info,
    _: libc::size_t,
    _: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr gives a valid object, whose headers stay as long as the program.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, count);
        (object.dlpi_addr, headers)
    };
    let page = rustix::param::page_size();
    for segment in headers {
        if segment.p_type != PT_LOAD || segment.p_flags & PF_W != 0 {
            continue;
        }
        // As the loader mapped it: whole pages.
        let Ok(start) = usize::try_from(base + segment.p_vaddr) else {
            continue;
        };
        let Ok(size) = usize::try_from(segment.p_memsz) else {
            continue;
        };
        let first = start - start % page;
        let size = (start + size).next_multiple_of(page) - first;
        // SAFETY: a private mapping of a file that nothing has written to reads the same again. The loader writes only to
        // segments with `PF_W`, also where it makes a part of one read-only afterwards.
        let _ = unsafe { madvise(first as *mut c_void, size, Advice::LinuxDontNeed) };
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this program's own file that are mapped and resident, without what may be written.
    fn resident() -> u64 {
        let program = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut counts, mut total) = (false, 0);
        for line in maps.lines() {
            if line.contains('-') && !line.contains(" kB") {
                counts = line.ends_with(program.to_str().unwrap()) && line.contains(" r-xp ");
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| counts) {
                let size = size.trim_end_matches("kB").trim();
                total += size.parse::<u64>().unwrap();
            }
        }
        total
    }

    #[test]
    fn what_starting_has_mapped_is_given_back_and_is_there_when_it_is_needed() {
        // Other tests run in this process and map code meanwhile.
        let fell = (0..100).any(|_| {
            let before = resident();
            release();
            resident() < before
        });
        assert!(fell, "{} kB", resident());
    }
}
