//! Closes a file and returns the result of `close`, which is where a write to the mount takes effect or fails.

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;

/// Closes `file`. Dropping it would discard the error.
pub(super) fn close(file: File) -> io::Result<()> {
    // SAFETY: this function owns the descriptor, and does not use it afterwards: Linux frees it even if `close` fails.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
