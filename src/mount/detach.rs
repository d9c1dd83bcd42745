//! Takes a mount out of the tree: umount(2) for root, `fusermount3` for other users. A mount is what its id says, never what
//! lies at a path.

use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::fusermount;
use super::trust::path_of_descriptor;
use crate::error::{Error, Result};
use crate::process;
use crate::process::mountinfo::Mount;

/// Takes this mount out of the tree, whether it is in use or not.
///
/// # Errors
/// Another filesystem lies on its mount point, or the system refuses.
pub(super) fn detach(mount: &Mount) -> Result<()> {
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
    // Through the descriptor of this mount's root: another filesystem may have its path now.
    match rustix::mount::unmount(path_of_descriptor(&root), UnmountFlags::DETACH) {
        Err(Errno::PERM) => {}
        result => return result.map_err(refused),
    }
    drop(root);
    let output = fusermount::unmount(dir)?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io(
        format!("{} cannot be unmounted: {stderr}", dir.display()),
        Errno::PERM,
    ))
}
