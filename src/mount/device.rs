//! `/dev/fuse`: opens and mounts it (mount(2) for root, `fusermount3` for other users), and reads the kernel's first
//! request.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::mount_point::MountPoint;
use super::poll::poll;
use super::state::SOURCE;
use crate::error::{Error, Result};
use crate::process::mountinfo::Mount;

const DEVICE: &str = "/dev/fuse";
/// Where to look for `fusermount3`. An ordinary user's PATH comes first, and need not contain its folder.
const FUSERMOUNT: [&str; 4] = [
    "fusermount3",
    "/bin/fusermount3",
    "/sbin/fusermount3",
    "/usr/bin/fusermount3",
];

/// The programs to try that mount and unmount for an ordinary user: the variable `FUSERMOUNT_PATH`, as for other FUSE
/// filesystems, else `fusermount3`. Root runs only what lies in the system's folders.
pub(super) fn fusermount() -> Vec<OsString> {
    if rustix::process::geteuid().is_root() {
        return FUSERMOUNT[1..].iter().map(OsString::from).collect();
    }
    match std::env::var_os("FUSERMOUNT_PATH") {
        Some(path) => vec![path],
        None => FUSERMOUNT.map(OsString::from).into(),
    }
}

/// Mounts a filesystem, and returns the descriptor through which a process answers its requests, and the mount.
///
/// # Errors
/// Why it failed, and what to do about it.
pub(super) fn mount(mount_point: &MountPoint, allow_root: bool) -> Result<(OwnedFd, Mount)> {
    if !Path::new(DEVICE).exists() {
        return Err(Error::Settings(
            "there is no /dev/fuse: load the kernel module (`modprobe fuse`), or give the container the device (`--device /dev/fuse`)".into(),
        ));
    }
    let device = match rustix::process::geteuid().is_root() {
        true => mount_as_root(mount_point),
        false => mount_by_fusermount(mount_point.path(), allow_root),
    }?;
    Ok((device, mount_point.mounted()?))
}

fn mount_as_root(mount_point: &MountPoint) -> Result<OwnedFd> {
    let dir = mount_point.path().display();
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(DEVICE, e))?;
    // The options of mount(8) for FUSE (Documentation/filesystems/fuse.rst).
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let options =
        CString::new(options).map_err(|e| Error::io("mount options", std::io::Error::from(e)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let target = mount_point.descriptor_path();
    let mounted = rustix::mount::mount(SOURCE, target, "fuse", flags, Some(&*options));
    mounted.map_err(|error| match error {
        rustix::io::Errno::PERM => Error::Settings(format!(
            "{dir} cannot be mounted: {error}; in a container, it needs the capability SYS_ADMIN"
        )),
        error => Error::Settings(format!("{dir} cannot be mounted: {error}")),
    })?;
    Ok(device)
}

fn mount_by_fusermount(mount_point: &Path, allow_root: bool) -> Result<OwnedFd> {
    let options = format!(
        "fsname={SOURCE},subtype={SOURCE},nosuid,nodev,noexec,noatime{}",
        // The kernel can admit only the owner or all users, so the server refuses all others but root. The kernel also
        // answers from its cache without asking the server, so it must check the modes by itself.
        if allow_root {
            ",allow_other,default_permissions"
        } else {
            ""
        }
    );
    let failed = |e: std::io::Error| Error::io("fusermount3", e);
    for program in fusermount() {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| failed(e.into()))?;
        let run = Command::new(program)
            .args(["-o", &options, "--"])
            .arg(mount_point)
            // fusermount3 sends the device through this descriptor, its standard input.
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = match run {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let received = receive_descriptor(&ours);
        let output = child.wait_with_output().map_err(failed)?;
        return match received {
            Some(device) if output.status.success() => Ok(device),
            _ => Err(Error::Settings(explain_failure(
                mount_point,
                &output.stderr,
            ))),
        };
    }
    Err(Error::Settings(
        "an ordinary user mounts through `fusermount3`, which is not installed (Debian: apt install fuse3)".into(),
    ))
}

fn explain_failure(mount_point: &Path, stderr: &[u8]) -> String {
    let stderr = String::from_utf8_lossy(stderr);
    if stderr.contains("user_allow_other") {
        return "--allow-root needs the line `user_allow_other` in /etc/fuse.conf (or root)".into();
    }
    format!(
        "{} cannot be mounted: {}",
        mount_point.display(),
        stderr.trim()
    )
}

/// `None` if fusermount3 ended without sending one.
fn receive_descriptor(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
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
