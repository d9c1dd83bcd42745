//! The end of a mount: by umount(2) as root, through `fusermount3` as anyone else.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::state::{MountState, is_mounted, mounted, resolve, state};
use super::{device, usage};
use crate::error::{Error, Result};
use crate::process::has_ended;

/// How long the daemon may take to finish what it was writing.
const DAEMON_ENDS_WITHIN: Duration = Duration::from_secs(15);
/// After so long it is said that it is waited for.
const SAYS_SO_AFTER: Duration = Duration::from_secs(2);

/// Unmounts what is at `dir`, and waits until its processes have ended. A mount that is in use is taken out of the tree at
/// once, and ends when the last file in it is closed; who uses it is said as warnings.
///
/// # Errors
/// [`Error::Io`] where the system refuses it.
pub fn unmount(dir: &Path) -> Result<()> {
    let dir = resolve(dir);
    let pids = match state(&dir)? {
        MountState::Ours { pids, .. } => pids,
        MountState::NotMounted => return Err(not_mounted(&dir)),
        MountState::OfAnother { .. } | MountState::Foreign { .. } => Vec::new(),
    };
    let mount = mounted(&dir)?.ok_or_else(|| not_mounted(&dir))?;
    let place = dir.display();
    if !detach_if_unused(&dir)? {
        // Asked while it is there to be seen.
        let uses = usage::all_of(&mount);
        detach_at_once(&dir)?;
        tracing::warn!(
            "{place} was in use: it is gone from the tree, and ends when the last file in it is closed"
        );
        usage::say(&uses);
        return Ok(());
    }
    let elsewhere = usage::mounts_of(&mount);
    if !elsewhere.is_empty() {
        tracing::warn!(
            "{place} is unmounted here, but still used elsewhere, and its daemon serves it there until that ends"
        );
        usage::say(&elsewhere);
        return Ok(());
    }
    wait_for(&pids);
    Ok(())
}

/// Waits until the daemon has written what was closed.
fn wait_for(pids: &[u32]) {
    let begun = Instant::now();
    let mut said = false;
    let left = || {
        let left = pids.iter().find(|pid| !has_ended(**pid));
        left.copied()
    };
    while let Some(pid) = left() {
        if begun.elapsed() > DAEMON_ENDS_WITHIN {
            tracing::warn!(
                "process {pid} goes on: something that cannot be seen from here still uses the mount, or the secrets file \
                 cannot be written"
            );
            return;
        }
        if begun.elapsed() > SAYS_SO_AFTER && !said {
            said = true;
            tracing::warn!("waiting for the daemon, process {pid}, to finish what it is writing");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn not_mounted(dir: &Path) -> Error {
    Error::io(
        format!("nothing is mounted at {}", dir.display()),
        Errno::INVAL,
    )
}

/// Takes the mount out of the tree; says whether it was still in use.
pub(super) fn detach(dir: &Path) -> Result<bool> {
    if detach_if_unused(dir)? {
        return Ok(false);
    }
    detach_at_once(dir).map(|()| true)
}

/// Takes the mount out of the tree unless it is in use; says whether it did.
fn detach_if_unused(dir: &Path) -> Result<bool> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(Errno::PERM) => fusermount("-u", dir).map(|output| output.status.success()),
        Err(_) if !is_mounted(dir) => Err(not_mounted(dir)),
        Err(error) => Err(refused(dir, error)),
    }
}

/// Takes the mount out of the tree, whoever uses it.
fn detach_at_once(dir: &Path) -> Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let output = fusermount("-uz", dir)?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::io(
                format!("{} cannot be unmounted: {said}", dir.display()),
                Errno::PERM,
            ))
        }
        Err(error) => Err(refused(dir, error)),
    }
}

fn refused(dir: &Path, error: Errno) -> Error {
    Error::io(format!("{} cannot be unmounted", dir.display()), error)
}

/// What came of `fusermount3`, by which an ordinary user unmounts.
fn fusermount(flag: &str, dir: &Path) -> Result<Output> {
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
    let result = results.find(is_there);
    result
        .unwrap_or_else(|| Err(ErrorKind::NotFound.into()))
        .map_err(|e| {
            Error::io(
                "`fusermount3`, by which an ordinary user unmounts, cannot be run (Debian: apt install fuse3)",
                e,
            )
        })
}
