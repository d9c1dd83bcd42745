//! The connection, the kernel's side of a mount (Documentation/filesystems/fuse.rst, "control filesystem").

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::process::mountinfo::Mount;

/// Where the control filesystem is mounted as a rule.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A connection, by a descriptor of its own: the kernel gives its number to another connection after its end.
pub(super) struct Connection(File);

impl Connection {
    /// The connection of a mount that is still there.
    ///
    /// # Errors
    /// No control filesystem is mounted, and this user cannot mount it; the mount is another user's, or has ended.
    pub(super) fn of(mount: &Mount) -> io::Result<Self> {
        let connection = Self::of_number(mount)?;
        // If the mount ended before, its number, and so what was opened, may be another mount's.
        match mount.is_there() {
            true => Ok(connection),
            false => Err(io::Error::other("the mount has ended meanwhile")),
        }
    }

    fn of_number(mount: &Mount) -> io::Result<Self> {
        // The device's major number is 0.
        let number = mount.filesystem.strip_prefix("0:").unwrap_or_default();
        let number = number.parse::<u32>().map_err(io::Error::other)?;
        let file = format!("{number}/abort");
        let usual = Path::new(CONNECTIONS).join(&file);
        match OpenOptions::new().write(true).open(usual) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Self),
        }
        // In many containers it is not mounted. This mount is in no tree.
        let control = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&control)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let root = fsmount(&control, flags, MountAttrFlags::empty())?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(Self(
            openat(&root, file.as_str(), flags, Mode::empty())?.into(),
        ))
    }

    /// Ends it: every request that waits and every later one fails, through each descriptor, bind mount and namespace.
    /// Does nothing to one that has ended already.
    pub(super) fn abort(&self) -> io::Result<()> {
        (&self.0).write_all(b"1")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::mount::{MountFlags, UnmountFlags};

    use super::*;
    use crate::mount::device::is_connected;
    use crate::process::mountinfo;

    #[test]
    fn a_connection_whose_number_was_another_mounts_is_not_ended() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fuse = rustix::fs::open("/dev/fuse", flags, Mode::empty()).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("other", dir.path(), "fuse", flags, &*options).unwrap();
        let other = mountinfo::of_this_process().unwrap();
        let other = mountinfo::at(&other, dir.path()).unwrap().clone();

        let mut ended = other.clone();
        ended.point = "/ended".into();
        assert!(Connection::of(&ended).is_err());
        ended.point.clone_from(&other.point);
        ended.id += 1;
        assert!(Connection::of(&ended).is_err());
        assert!(is_connected(&fuse));
        Connection::of(&other).unwrap().abort().unwrap();
        assert!(!is_connected(&fuse));
        rustix::mount::unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    }
}
