//! The end of a mount: by umount(2) as root, through `fusermount3` as anyone else.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::device;
use super::state::{MountState, is_mounted, resolve, state};
use crate::error::{Error, Result};
use crate::process::has_ended;

/// How long the daemon may take to finish what it was writing.
const DAEMON_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Unmounts what is at `dir`, and waits until its processes have ended. A mount that is in use is taken out of the tree at
/// once, and ends when the last file in it is closed.
///
/// # Errors
/// [`Error::Io`] where the system refuses it.
pub fn unmount(dir: &Path) -> Result<()> {
    let dir = resolve(dir);
    let pids = match state(&dir)? {
        MountState::Ours { pids, .. } => pids,
        MountState::NotMounted => return Err(not_mounted(&dir)),
        MountState::Foreign { .. } => Vec::new(),
    };
    if detach(&dir)? {
        tracing::warn!(
            "{} was in use: it is gone from the tree, and ends when the last file in it is closed",
            dir.display()
        );
        return Ok(());
    }
    let begun = Instant::now();
    for pid in pids {
        while !has_ended(pid) && begun.elapsed() < DAEMON_ENDS_WITHIN {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

fn not_mounted(dir: &Path) -> Error {
    Error::io(
        format!("nothing is mounted at {}", dir.display()),
        Errno::INVAL,
    )
}

/// Takes the mount out of the tree; says whether it was still in use.
pub(super) fn detach(dir: &Path) -> Result<bool> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(false),
        Err(Errno::BUSY) => {
            let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
            rustix::mount::unmount(dir, flags)
                .map_err(|e| Error::io(dir.display().to_string(), e))?;
            Ok(true)
        }
        Err(Errno::PERM) => by_fusermount(dir),
        Err(_) if !is_mounted(dir) => Err(not_mounted(dir)),
        Err(error) => Err(Error::io(
            format!("{} cannot be unmounted", dir.display()),
            error,
        )),
    }
}

fn by_fusermount(dir: &Path) -> Result<bool> {
    let run = |flag: &str| {
        let run = |program: OsString| {
            Command::new(program)
                .args([flag, "-q", "--"])
                .arg(dir)
                .stdin(Stdio::null())
                .output()
        };
        let is_there = |result: &std::io::Result<Output>| {
            result.as_ref().err().map(std::io::Error::kind) != Some(ErrorKind::NotFound)
        };
        let mut results = device::fusermount().into_iter().map(run);
        results
            .find(is_there)
            .unwrap_or_else(|| Err(ErrorKind::NotFound.into()))
    };
    let failed = |e: std::io::Error| {
        Error::io(
            "`fusermount3`, by which an ordinary user unmounts, cannot be run (Debian: apt install fuse3)",
            e,
        )
    };
    if run("-u").map_err(failed)?.status.success() {
        return Ok(false);
    }
    let output = run("-uz").map_err(failed)?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io(
        format!("{} cannot be unmounted: {said}", dir.display()),
        Errno::PERM,
    ))
}
