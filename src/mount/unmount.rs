//! Unmounts: by umount(2) for root, through `fusermount3` for other users.

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

/// How long the daemon may take to finish its writes.
const DAEMON_EXIT_TIMEOUT: Duration = Duration::from_secs(15);
/// After this long, a warning says what the command waits for.
const WARN_AFTER: Duration = Duration::from_secs(2);

/// Unmounts what is mounted at `dir`, and waits until its processes have ended. A mount in use is detached from the tree at
/// once, and ends when the last file in it is closed; warnings name the processes that use it.
///
/// # Errors
/// [`Error::Io`] if nothing is mounted there, or the system refuses to unmount it.
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
        // Before the detach: afterwards `/proc` no longer shows the mount.
        let uses = usage::uses_of(&mount);
        detach_at_once(&dir)?;
        tracing::warn!(
            "{place} was in use: it is detached now, and ends when the last file in it is closed"
        );
        usage::warn_of(&uses);
        return Ok(());
    }
    let elsewhere = usage::other_mounts_of(&mount);
    if !elsewhere.is_empty() {
        tracing::warn!(
            "{place} is unmounted here, but still mounted elsewhere; its daemon goes on until it is unmounted there, too"
        );
        usage::warn_of(&elsewhere);
        return Ok(());
    }
    wait_for_exit(&pids);
    Ok(())
}

/// Waits until the daemon has ended, which it does once every closed write is on disk.
fn wait_for_exit(pids: &[u32]) {
    let begun = Instant::now();
    let mut has_warned = false;
    let running = || pids.iter().find(|pid| !has_ended(**pid)).copied();
    while let Some(pid) = running() {
        if begun.elapsed() > DAEMON_EXIT_TIMEOUT {
            tracing::warn!(
                "process {pid} still runs: a process that `/proc` does not show here uses the mount, or the secrets file \
                 cannot be written; see the daemon's log"
            );
            return;
        }
        if begun.elapsed() > WARN_AFTER && !has_warned {
            has_warned = true;
            tracing::warn!("waiting for the daemon, process {pid}, to finish its writes");
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

/// Detaches the mount from the tree; returns whether it was in use.
pub(super) fn detach(dir: &Path) -> Result<bool> {
    if detach_if_unused(dir)? {
        return Ok(false);
    }
    detach_at_once(dir).map(|()| true)
}

/// Detaches the mount unless it is in use; returns whether it did.
fn detach_if_unused(dir: &Path) -> Result<bool> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(Errno::PERM) => fusermount("-u", dir).map(|output| output.status.success()),
        Err(_) if !is_mounted(dir) => Err(not_mounted(dir)),
        Err(error) => Err(refused(dir, error)),
    }
}

/// Detaches the mount even if it is in use.
fn detach_at_once(dir: &Path) -> Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let output = fusermount("-uz", dir)?;
            if output.status.success() {
                return Ok(());
            }
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::io(
                format!("{} cannot be unmounted: {stderr}", dir.display()),
                Errno::PERM,
            ))
        }
        Err(error) => Err(refused(dir, error)),
    }
}

fn refused(dir: &Path, error: Errno) -> Error {
    Error::io(format!("{} cannot be unmounted", dir.display()), error)
}

/// Runs `fusermount3`, through which an ordinary user unmounts.
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
                "`fusermount3`, which an ordinary user needs to unmount, cannot be run (Debian: apt install fuse3)",
                e,
            )
        })
}
