//! A fuser session on a device that an earlier server may have used.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuser::{Config, Filesystem, Session, SessionACL};

use super::channel::pair;
use crate::error::{Error, Result};
use crate::process::heartbeat::{HeartbeatPage, Slot};

/// Makes a fuser session on a device whose INIT an earlier server may have answered. The session first reads INIT from a
/// socket, and its answer goes to the kernel only if it is the first one. The device then replaces the socket under the
/// same descriptor number.
pub(super) fn attach_session<F: Filesystem>(
    fs: F,
    init: &[u8],
    device: &OwnedFd,
    heartbeat: &HeartbeatPage,
    initialized: Slot,
) -> Result<Session<F>> {
    let failed = |e: io::Error| Error::io("the device", e);
    let (ours, theirs) = pair().map_err(|e| failed(e.into()))?;
    rustix::io::write(&ours, init).map_err(|e| failed(e.into()))?;
    // No check by fuser: the kernel admits only the owner, and root with `allow_root`, and the tree checks again. fuser
    // would also refuse the close of a process that has changed its user since the open.
    let mut config = Config::default();
    config.acl = SessionACL::All;
    let session = Session::from_fd(fs, theirs, SessionACL::All, config).map_err(failed)?;
    let mut answer = [0; 1024];
    let len = rustix::io::read(&ours, &mut answer).map_err(|e| failed(e.into()))?;
    if heartbeat.get(initialized) == 0 {
        rustix::io::write(device, &answer[..len]).map_err(|e| failed(e.into()))?;
        heartbeat.set(initialized, 1);
    }
    replace_fd(&session, device).map_err(failed)?;
    Ok(session)
}

/// Puts the device under the descriptor number that the session reads and writes.
fn replace_fd<F: Filesystem>(session: &Session<F>, device: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both are open descriptors of this process. The session still owns its number, which now names the device.
    let result = unsafe {
        libc::dup3(
            device.as_raw_fd(),
            session.as_fd().as_raw_fd(),
            libc::O_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Asks the kernel to resend the requests that earlier servers read and did not answer. A kernel that cannot resend gets
/// EIO for them.
pub(super) fn request_resend(
    device: &OwnedFd,
    unanswered: &[u64],
    last: u64,
    can_resend: bool,
) -> io::Result<()> {
    /// The kernel numbers requests in steps (FUSE_REQ_ID_STEP, fs/fuse/fuse_i.h).
    const STEP: usize = 2;
    /// How many numbers after the last recorded one get EIO as well.
    const MAX_UNRECORDED: u64 = 1024;
    /// A message that is only a header (`fuse_out_header`): length, error, request number.
    fn header(error: i32, unique: u64) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&16u32.to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        header
    }
    const FUSE_NOTIFY_RESEND: i32 = 7;
    if can_resend {
        rustix::io::write(device, &header(FUSE_NOTIFY_RESEND, 0))?;
        return Ok(());
    }
    // A server may have read one more request and died before it recorded it. A number that the kernel has not used yet
    // has no effect, and its request later arrives here.
    let unrecorded = (last..last + MAX_UNRECORDED * STEP as u64).step_by(STEP);
    for request in unanswered.iter().copied().chain(unrecorded.skip(1)) {
        // ENOENT: the request was answered, or its caller is gone.
        let _ = rustix::io::write(device, &header(-libc::EIO, request));
    }
    Ok(())
}
