//! `/dev/fuse`: mounts it, and reads the kernel's first request.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::fusermount::{self, MISSING_CAPABILITY};
use super::mount_point::MountPoint;
use super::mount_point_state::{SOURCE, VIEWS_SOURCE};
use super::poll::poll;
use crate::error::{Error, Result};
use crate::process::mountinfo::Mount;

const DEVICE: &str = "/dev/fuse";

/// Why the device cannot be opened, and what to do.
pub(super) fn unusable_device(error: Errno) -> Error {
    Error::Settings(match error {
        Errno::NOENT => "there is no /dev/fuse: load the kernel module (`modprobe fuse`), or give the container the device \
                         (`--device /dev/fuse`)"
            .to_owned(),
        Errno::NODEV | Errno::NXIO => format!(
            "{DEVICE} cannot be opened: {error}; the kernel has no FUSE: load its module (`modprobe fuse`)"
        ),
        Errno::ACCESS | Errno::PERM => format!(
            "{DEVICE} may not be opened: {error}; give the container the device (`--device /dev/fuse`, also if it is there \
             already), or type: sudo chmod 666 {DEVICE}"
        ),
        error => format!("{DEVICE} cannot be opened: {error}"),
    })
}

/// Mounts a filesystem, and returns the descriptor through which a process answers its requests, and the mount.
///
/// # Errors
/// Why it failed, and what to do about it.
pub(super) fn mount(mount_point: &MountPoint, allow_root: bool) -> Result<(OwnedFd, Mount)> {
    require_device()?;
    let device = match rustix::process::geteuid().is_root() {
        true => mount_as_root(mount_point, SOURCE, MountFlags::empty(), ""),
        // The kernel can admit only the owner or all users, so the server refuses all others but root. The kernel also
        // answers from its cache without asking the server, so it must check the modes by itself.
        false if allow_root => fusermount::mount(
            mount_point.path(),
            SOURCE,
            ",allow_other,default_permissions",
        ),
        false => fusermount::mount(mount_point.path(), SOURCE, ""),
    }?;
    Ok((device, mount_point.mounted(SOURCE)?))
}

/// Mounts the views, for all users if that is allowed, and returns whether it is, too.
///
/// # Errors
/// As for [`mount`].
pub(super) fn mount_views(mount_point: &MountPoint) -> Result<(OwnedFd, Mount, bool)> {
    const OPTIONS: &str = ",default_permissions";
    const FOR_ALL: &str = ",default_permissions,allow_other";
    require_device()?;
    let by_helper = |options: &str| {
        fusermount::mount(mount_point.path(), VIEWS_SOURCE, &format!(",ro{options}"))
    };
    let (device, allow_other) = match rustix::process::geteuid().is_root() {
        true => {
            let device = mount_as_root(mount_point, VIEWS_SOURCE, MountFlags::RDONLY, FOR_ALL);
            (device?, true)
        }
        false => match by_helper(FOR_ALL) {
            Err(error) if fusermount::is_refusal_of_others(&error) => (by_helper(OPTIONS)?, false),
            device => (device?, true),
        },
    };
    Ok((device, mount_point.mounted(VIEWS_SOURCE)?, allow_other))
}

fn require_device() -> Result<()> {
    if !Path::new(DEVICE).exists() {
        return Err(unusable_device(Errno::NOENT));
    }
    Ok(())
}

fn mount_as_root(
    mount_point: &MountPoint,
    source: &str,
    flags: MountFlags,
    options: &str,
) -> Result<OwnedFd> {
    let dir = mount_point.path().display();
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(unusable_device)?;
    // The options of mount(8) for FUSE (Documentation/filesystems/fuse.rst).
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{options}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let options =
        CString::new(options).map_err(|e| Error::io("mount options", std::io::Error::from(e)))?;
    let flags =
        flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let target = mount_point.descriptor_path();
    let mount =
        |fstype: &str| rustix::mount::mount(source, &target, fstype, flags, Some(&*options));
    // By the type, `updatedb`, `df -x` and backups leave it out.
    let mounted = match mount(&format!("fuse.{source}")) {
        // This kernel knows no subtypes.
        Err(Errno::NODEV) => mount("fuse"),
        mounted => mounted,
    };
    mounted.map_err(|error| match error {
        Errno::PERM => Error::Settings(format!(
            "{dir} cannot be mounted: {error}; {MISSING_CAPABILITY}"
        )),
        error => Error::Settings(format!("{dir} cannot be mounted: {error}")),
    })?;
    Ok(device)
}

/// Whether the kernel still has the filesystem: it is mounted, or files in it are open.
pub(super) fn is_connected(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    match poll(&mut fds, Duration::ZERO) {
        Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

/// Reads the kernel's first request (INIT), which each server gets again.
///
/// # Errors
/// The mount has ended already.
pub(super) fn read_init(device: &OwnedFd) -> Result<Vec<u8>> {
    let failed = |e| Error::io("the kernel's first request", e);
    let mut file = File::from(device.try_clone().map_err(failed)?);
    // The kernel refuses a read with less than FUSE_MIN_READ_BUFFER, and with less than its largest write.
    let mut buffer = vec![0; 128 * 1024 + 4096];
    let len = file.read(&mut buffer).map_err(failed)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Whether the kernel that sent this INIT can resend requests that were read and not answered (`FUSE_HAS_RESEND`).
pub(super) fn can_resend(init: &[u8]) -> bool {
    // `fuse_in_header` (40 bytes), then `fuse_init_in`: major, minor, max_readahead, flags, flags2 (four bytes each).
    const FLAGS2: std::ops::Range<usize> = 56..60;
    const HAS_RESEND: u32 = 1 << 7;
    let flags2 = init.get(FLAGS2).and_then(|bytes| bytes.try_into().ok());
    flags2.is_some_and(|bytes| u32::from_ne_bytes(bytes) & HAS_RESEND != 0)
}
