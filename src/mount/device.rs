//! `/dev/fuse`: opened and mounted, by mount(2) as root and through `fusermount3` as anyone else, and the first words
//! that the kernel says there.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::state::SOURCE;
use crate::error::{Error, Result};

const DEVICE: &str = "/dev/fuse";
/// Where `fusermount3` is looked for, so that it is found whatever PATH is.
const FUSERMOUNT: [&str; 3] = ["fusermount3", "/bin/fusermount3", "/sbin/fusermount3"];

/// The programs that may mount and unmount for an ordinary user: what the variable `FUSERMOUNT_PATH` names, as for
/// other FUSE filesystems, else `fusermount3`.
pub(super) fn fusermount() -> Vec<OsString> {
    match std::env::var_os("FUSERMOUNT_PATH") {
        Some(path) => vec![path],
        None => FUSERMOUNT.map(OsString::from).into(),
    }
}

/// Mounts a filesystem that whoever holds the descriptor answers for.
///
/// # Errors
/// What to do about it.
pub(super) fn mount(mount_point: &Path, allow_root: bool) -> Result<OwnedFd> {
    if !Path::new(DEVICE).exists() {
        return Err(Error::Settings(
            "there is no /dev/fuse: load the kernel module (`modprobe fuse`), or give the container the device (`--device /dev/fuse`)".into(),
        ));
    }
    match rustix::process::geteuid().is_root() {
        true => mount_as_root(mount_point),
        false => mount_by_fusermount(mount_point, allow_root),
    }
}

fn mount_as_root(mount_point: &Path) -> Result<OwnedFd> {
    let dir = mount_point.display();
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
    let mounted = rustix::mount::mount(SOURCE, mount_point, "fuse", flags, Some(&*options));
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
        // The kernel knows its own user and everybody: the server refuses all others but root.
        // Names that the kernel holds tell a stranger nothing: it checks the modes by itself.
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
            // It sends the descriptor there: to its standard input.
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
            _ => Err(Error::Settings(why_not(mount_point, &output.stderr))),
        };
    }
    Err(Error::Settings(
        "an ordinary user mounts through `fusermount3`, which is not installed (Debian: apt install fuse3)".into(),
    ))
}

fn why_not(mount_point: &Path, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    if said.contains("user_allow_other") {
        return "--allow-root needs the line `user_allow_other` in /etc/fuse.conf (or root)".into();
    }
    format!(
        "{} cannot be mounted: {}",
        mount_point.display(),
        said.trim()
    )
}

/// `None` where the other side ended without sending one.
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

/// Whether the mount is still there, or files of it are open.
pub(super) fn is_connected(device: &OwnedFd) -> bool {
    let mut ends = [PollFd::new(device, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut ends, Some(&now)) {
        Ok(_) => !ends[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

/// The kernel's first request (INIT), which each server answers anew.
///
/// # Errors
/// Where the mount has ended already.
pub(super) fn read_init(device: &OwnedFd) -> Result<Vec<u8>> {
    let failed = |e| Error::io("the kernel's first request", e);
    let mut file = File::from(device.try_clone().map_err(failed)?);
    // The kernel reads no less than this at once (FUSE_MIN_READ_BUFFER).
    let mut buffer = vec![0; 128 * 1024 + 4096];
    let len = file.read(&mut buffer).map_err(failed)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Whether the kernel that said this can send again what was taken and not answered (`FUSE_HAS_RESEND`).
pub(super) fn can_resend(init: &[u8]) -> bool {
    // `fuse_in_header` (40 bytes), then `fuse_init_in`: major, minor, max_readahead, flags, flags2 (four bytes each).
    const FLAGS2: std::ops::Range<usize> = 56..60;
    const HAS_RESEND: u32 = 1 << 7;
    let flags2 = init.get(FLAGS2).and_then(|bytes| bytes.try_into().ok());
    flags2.is_some_and(|bytes| u32::from_le_bytes(bytes) & HAS_RESEND != 0)
}
