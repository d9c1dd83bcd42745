//! Closing a file and hearing what `close` says, which is where a write to the mount takes effect or fails.

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;

/// Closes `file`; its error is the one that dropping it would swallow.
pub(super) fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone, and is not used afterwards: Linux frees it whatever `close` returns.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
