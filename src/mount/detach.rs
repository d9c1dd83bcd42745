//! Takes a mount out of the tree: umount(2) for root, `fusermount3` for other users. A mount is what its id says, never what
//! lies at a path.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::connection::Connection;
use super::fusermount;
use super::trust::path_of_descriptor;
use crate::error::{Error, Result};
use crate::process;
use crate::process::mountinfo::{Mount, MountId};
use crate::sync::{self, LARGE_STACK};
use crate::text::shell_path;

/// How long the way to a mount may take: another filesystem, on which its folder lies, may hang.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long it may then take to take the mount out of the tree. That waits for no filesystem, but on a busy machine for its turn.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How often `fusermount3` is run if signals end it.
const MAX_ATTEMPTS: usize = 20;

/// Takes this mount out of the tree, whether it is in use or not. Another filesystem on the way may never answer, so a
/// thread of its own does it.
///
/// # Errors
/// Another filesystem lies on its mount point, or the system refuses; ETIMEDOUT.
pub(super) fn detach(mount: &Mount) -> Result<()> {
    let (sender, receiver) = channel();
    let place = mount.clone();
    let run = move || {
        let root = open_root(&place);
        let _ = sender.send(None);
        sender.send(Some(root.and_then(|root| detach_root(&place, root))))
    };
    if sync::spawn("detach", LARGE_STACK, run).is_err() {
        return detach_root(mount, open_root(mount)?);
    }
    let (mut timeout, mut why) = (
        OPEN_TIMEOUT,
        "the filesystem that this folder lies on does not answer",
    );
    loop {
        match receiver.recv_timeout(timeout) {
            Ok(Some(detached)) => return detached,
            Ok(None) => {
                (timeout, why) = (
                    DETACH_TIMEOUT,
                    "the system has not done so after ten seconds",
                )
            }
            Err(_) => {
                let context = format!(
                    "{} cannot be unmounted, because {why} (`umount -l {}` when it does)",
                    mount.point.display(),
                    shell_path(&mount.point)
                );
                return Err(Error::io(context, Errno::TIMEDOUT));
            }
        }
    }
}

/// Takes a mount out of the tree, if it is still there, for one of its own processes, which ends then. Returns its connection
/// if that fails: once the last writes are done, [`end_connection`] ends it, because a thread that the kernel holds may keep
/// `/dev/fuse` open.
pub(super) fn detach_own(mount: &MountId) -> Option<io::Result<Connection>> {
    let mount = mount.find()?;
    let connection = Connection::of(&mount);
    let error = detach(&mount).err()?;
    tracing::error!("{error}");
    Some(connection)
}

/// Ends the connection that [`detach_own`] returned.
pub(super) fn end_connection(left: Option<io::Result<Connection>>) {
    if let Some(Err(error)) = left.map(|left| left.and_then(|connection| connection.abort())) {
        tracing::error!("the connection of the mount cannot be ended: {error}");
    }
}

/// The root of this mount. `None`: another command has unmounted it meanwhile.
fn open_root(mount: &Mount) -> Result<Option<OwnedFd>> {
    let dir = &mount.point;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| refused(dir, error))?;
    let info = std::fs::read(format!("/proc/self/fdinfo/{}", root.as_raw_fd()));
    if info.ok().and_then(|info| process::mount_of(&info)) == Some(mount.id) {
        return Ok(Some(root));
    }
    if !mount.is_there() {
        return Ok(None);
    }
    Err(Error::Settings(format!(
        "{} cannot be unmounted: another filesystem is there now",
        dir.display()
    )))
}

fn refused(dir: &Path, error: Errno) -> Error {
    Error::io(format!("{} cannot be unmounted", dir.display()), error)
}

fn detach_root(mount: &Mount, root: Option<OwnedFd>) -> Result<()> {
    let Some(root) = root else { return Ok(()) };
    let dir = &mount.point;
    // Through the descriptor of this mount's root: another filesystem may have its path now.
    match rustix::mount::unmount(path_of_descriptor(&root), UnmountFlags::DETACH) {
        Err(Errno::PERM) => {}
        result => return result.map_err(|error| refused(dir, error)),
    }
    drop(root);
    let mut attempts = 0;
    loop {
        let output = fusermount::unmount(dir)?;
        attempts += 1;
        if output.status.success() || !mount.is_there() {
            return Ok(());
        }
        // Who stops a service sends a signal to all its processes, so also to this one.
        let why = match output.status.signal() {
            Some(_) if attempts < MAX_ATTEMPTS => continue,
            Some(signal) => format!("signal {signal} ended fusermount3"),
            None => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        };
        return Err(Error::io(
            format!("{} cannot be unmounted: {why}", dir.display()),
            Errno::PERM,
        ));
    }
}
