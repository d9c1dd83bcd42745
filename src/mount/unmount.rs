//! Ends a mount: takes it out of the tree (umount(2) for root, `fusermount3` for other users), ends its daemon, and with it
//! the kernel's connection to it. A mount is what its id says, never what lies at a path.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use super::connection::Connection;
use super::daemon::{self, wait_for_exit, wake};
use super::state::{MountState, mounted, resolve, state_at};
use super::trust::of_descriptor;
use super::{belongs_to_another, device, usage};
use crate::error::{Error, Result};
use crate::process;
use crate::process::mountinfo::{Mount, MountId};
use crate::sync::{self, LARGE_STACK};

/// The command ends within 5 seconds, whatever hangs.
const TIMEOUT: Duration = Duration::from_millis(4700);
/// By then the daemon should have finished its writes and ended.
const DAEMON_TIMEOUT: Duration = Duration::from_millis(4200);
/// How long a mount may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the system may take to take a mount out of the tree: another filesystem, on which its folder lies, may hang.
const DETACH_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a daemon may take to end after its connection has ended.
const ABORTED_TIMEOUT: Duration = Duration::from_millis(300);

/// What becomes of those who still use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// The mount ends: their next operation fails with ENOTCONN.
    Now,
    /// They go on, and the mount ends when the last of them has.
    Lazily,
}

/// Ends what is mounted at `dir`, within 5 seconds; warnings name the processes that used it. What was closed is written
/// first, unless that takes longer: the daemon then goes on with that.
///
/// # Errors
/// [`Error::Settings`] if nothing of this user's is mounted there (root may end any user's mount); [`Error::Io`] if the
/// system refuses to unmount it, or a filesystem on the way to it does not answer.
pub fn unmount(dir: &Path, how: Unmount) -> Result<()> {
    let (sender, receiver) = channel();
    let place = dir.to_owned();
    let begun = Instant::now();
    let run = move || drop(sender.send(unmount_by(&place, how, begun)));
    sync::spawn("unmount", LARGE_STACK, run).map_err(|e| Error::io("threads", e))?;
    let ended = receiver.recv_timeout(TIMEOUT);
    ended.unwrap_or_else(|_| {
        let context = format!("{}, or a folder on the way to it,", dir.display());
        Err(Error::io(context, Errno::TIMEDOUT))
    })
}

fn unmount_by(dir: &Path, how: Unmount, begun: Instant) -> Result<()> {
    let dir = resolve(dir);
    let place = dir.display();
    let refuse = |why: String| Err(Error::Settings(why));
    let Some(mount) = mounted(&dir)? else {
        return refuse(format!("nothing is mounted at {place}"));
    };
    let mut state = state_at(&dir, ANSWER_TIMEOUT)?;
    if matches!(state, MountState::Ours { alive: false, .. }) && wake(&mount) {
        state = state_at(&dir, ANSWER_TIMEOUT)?;
    }
    let pids = match state {
        MountState::Ours { pids, .. } => pids,
        MountState::OfAnother { .. } if rustix::process::geteuid().is_root() => Vec::new(),
        MountState::OfAnother { uid } => return refuse(belongs_to_another(&dir, uid)),
        MountState::NotMounted => return refuse(format!("nothing is mounted at {place}")),
        MountState::Foreign { fstype } => {
            return refuse(format!(
                "{place} is a {fstype} mount, not one of simpletuner-live; it is left alone"
            ));
        }
    };
    // Before the detach: afterwards `/proc` no longer shows the mount.
    let uses = usage::uses_of(&mount);
    let connection = Connection::of(&mount);
    let detached = match detach(&mount) {
        // Nobody can use it any more, but it stays where it is.
        Err(error) if how == Unmount::Now && error.errno() == libc::ETIMEDOUT => Err(error),
        detached => Ok(detached?),
    };
    match how {
        _ if uses.found.is_empty() => {}
        Unmount::Now => tracing::warn!(
            "{place} was in use: what still has a file or a folder of it open gets ENOTCONN from now on"
        ),
        Unmount::Lazily => tracing::warn!(
            "{place} was in use: it is detached now, and ends when the last file in it is closed, and where it is still mounted"
        ),
    }
    usage::warn_of(&uses);
    if how == Unmount::Now {
        end(&mount, connection, &pids, begun + DAEMON_TIMEOUT);
    }
    detached
}

/// Takes a mount out of the tree, if it is still there, for one of its own processes, which ends then. Returns its connection
/// if that fails: once the last writes are done, [`end_connection`] ends it, because a thread that the kernel holds may keep
/// `/dev/fuse` open.
pub(super) fn leave(mount: &MountId) -> Option<io::Result<Connection>> {
    let mount = mount.find()?;
    let connection = Connection::of(&mount);
    let error = detach(&mount).err()?;
    tracing::error!("{error}");
    Some(connection)
}

/// Ends what [`leave`] left.
pub(super) fn end_connection(left: Option<io::Result<Connection>>) {
    if let Some(Err(error)) = left.map(|left| left.and_then(|connection| connection.abort())) {
        tracing::error!("the connection of the mount cannot be ended: {error}");
    }
}

/// Removes a mount that does not answer. Processes that it still has end with the connection.
///
/// # Errors
/// As for [`detach`].
pub(super) fn remove_dead(mount: &Mount) -> Result<()> {
    let connection = Connection::of(mount);
    detach(mount)?;
    if let Err(error) = connection.and_then(|connection| connection.abort()) {
        tracing::debug!("the connection of the dead mount cannot be ended: {error}");
    }
    Ok(())
}

/// Ends the mount's processes, and with them the connection; if they take too long, first the connection. `named` are
/// those that the mount's `status` named.
fn end(mount: &Mount, connection: io::Result<Connection>, named: &[u32], until: Instant) {
    let daemons = daemon::of(mount, named);
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::CONT);
    }
    let left = wait_for_exit(daemons, until);
    // Even where no process is left to be seen, one may be there.
    let aborted = connection.and_then(|connection| connection.abort());
    for daemon in left.iter().filter(|daemon| daemon.is_stopped()) {
        tracing::warn!("process {} is stopped, and is killed", daemon.pid);
        daemon.signal(Signal::KILL);
    }
    for daemon in wait_for_exit(left, Instant::now() + ABORTED_TIMEOUT) {
        let pid = daemon.pid;
        match &aborted {
            Ok(()) => tracing::warn!(
                "process {pid} has not finished its writes yet; it ends when it has, see its log"
            ),
            Err(error) => tracing::warn!(
                "process {pid} has not ended yet, and the connection cannot be ended before ({error}): until then, those who \
                 have files or folders of the mount open can go on; see its log"
            ),
        }
    }
}

/// Takes this mount out of the tree, whether it is in use or not. Another filesystem on the way may never answer, so a
/// thread of its own does it.
///
/// # Errors
/// Another filesystem lies on its mount point, or the system refuses; ETIMEDOUT.
pub(super) fn detach(mount: &Mount) -> Result<()> {
    let (sender, receiver) = channel();
    let place = mount.clone();
    let run = move || drop(sender.send(detach_by_path(&place)));
    if sync::spawn("detach", LARGE_STACK, run).is_err() {
        return detach_by_path(mount);
    }
    let detached = receiver.recv_timeout(DETACH_TIMEOUT);
    detached.unwrap_or_else(|_| {
        let place = mount.point.display();
        let context = format!(
            "{place} cannot be unmounted, because the filesystem that this folder lies on does not answer \
             (`umount -l {place}` when it does)"
        );
        Err(Error::io(context, Errno::TIMEDOUT))
    })
}

fn detach_by_path(mount: &Mount) -> Result<()> {
    let dir = &mount.point;
    let refused = |error: Errno| Error::io(format!("{} cannot be unmounted", dir.display()), error);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(refused)?;
    let info = std::fs::read(format!("/proc/self/fdinfo/{}", root.as_raw_fd()));
    if info.ok().and_then(|info| process::mount_of(&info)) != Some(mount.id) {
        return Err(Error::Settings(format!(
            "{} cannot be unmounted: another filesystem is there now",
            dir.display()
        )));
    }
    // Through the descriptor, which is this mount's root, whatever has its path now.
    match rustix::mount::unmount(of_descriptor(&root), UnmountFlags::DETACH) {
        Err(Errno::PERM) => {}
        result => return result.map_err(refused),
    }
    drop(root);
    let output = fusermount(dir)?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io(
        format!("{} cannot be unmounted: {stderr}", dir.display()),
        Errno::PERM,
    ))
}

/// Runs `fusermount3`, through which an ordinary user unmounts. It unmounts only what this user has mounted.
fn fusermount(dir: &Path) -> Result<Output> {
    let run = |program: OsString| {
        Command::new(program)
            .args(["-uz", "-q", "--"])
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
