//! `fusermount3`, the set-user-id program by which an ordinary user mounts and unmounts.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use crate::error::{Error, Result};
use crate::sync::not_started;
use crate::users;

/// What to do if the system may not mount.
pub(super) const MISSING_CAPABILITY: &str = "a container needs the capability SYS_ADMIN (`--cap-add SYS_ADMIN`, and `--security-opt apparmor=unconfined` where AppArmor is)";

/// Where to look for `fusermount3`. An ordinary user's PATH comes first, and need not contain its folder.
const PROGRAMS: [&str; 4] = [
    "fusermount3",
    "/bin/fusermount3",
    "/sbin/fusermount3",
    "/usr/bin/fusermount3",
];

/// The programs to try that mount and unmount for an ordinary user: the variable `FUSERMOUNT_PATH`, as for other FUSE
/// filesystems, else `fusermount3`. Root runs only what lies in the system's folders.
fn programs() -> Vec<OsString> {
    if rustix::process::geteuid().is_root() {
        return PROGRAMS[1..].iter().map(OsString::from).collect();
    }
    match std::env::var_os("FUSERMOUNT_PATH") {
        Some(path) => vec![path],
        None => PROGRAMS.map(OsString::from).into(),
    }
}

/// Whether an ordinary user can mount.
pub enum FusermountState {
    /// There is no `fusermount3` where it is looked for.
    Missing,
    /// It is there, and has not the rights of root.
    NotSetUserId(PathBuf),
    /// It is there.
    Ready(PathBuf),
}

/// The first `fusermount3` that a mount would run.
pub fn fusermount_state() -> FusermountState {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let paths = programs().into_iter().flat_map(|program| {
        let program = PathBuf::from(program);
        match program.components().count() {
            1 => std::env::split_paths(&search)
                .map(|folder| folder.join(&program))
                .collect(),
            _ => vec![program],
        }
    });
    let found = paths
        .into_iter()
        .find_map(|path| Some((rustix::fs::stat(&path).ok()?, path)));
    match found {
        None => FusermountState::Missing,
        Some((stat, path)) if stat.st_uid == 0 && stat.st_mode & 0o4000 != 0 => {
            FusermountState::Ready(path)
        }
        Some((_, path)) => FusermountState::NotSetUserId(path),
    }
}

/// Why `allow_other` is refused.
const NO_OTHERS: &str =
    "--allow-root needs the line `user_allow_other` in /etc/fuse.conf (or root)";

/// Whether a mount failed because this user may not let other users in.
pub(super) fn is_refusal_of_others(error: &Error) -> bool {
    matches!(error, Error::Settings(why) if why == NO_OTHERS)
}

/// Mounts with these further options, and returns the device.
///
/// # Errors
/// Why it failed, and what to do about it.
pub(super) fn mount(mount_point: &Path, source: &str, options: &str) -> Result<OwnedFd> {
    let options = format!("fsname={source},subtype={source},nosuid,nodev,noexec,noatime{options}");
    let failed = |e: io::Error| Error::io("fusermount3 cannot be run", not_started(e));
    let mut unusable = None;
    for program in programs() {
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
            Err(error) if is_elsewhere(&error) => {
                unusable = unusable
                    .or(Some(error))
                    .filter(|error| error.kind() != ErrorKind::NotFound);
                continue;
            }
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
    Err(match unusable {
        Some(error) => Error::io("an ordinary user mounts through `fusermount3`, which this user may not run", error),
        None => Error::Settings(
            "an ordinary user mounts through `fusermount3`, which is not installed (Debian: apt install fuse3)".into(),
        ),
    })
}

/// Whether the program may be found in another folder: it is not in this one, or this user may not look into it.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory
    )
}

fn explain_failure(mount_point: &Path, stderr: &[u8]) -> String {
    let stderr = String::from_utf8_lossy(stderr);
    if stderr.contains("user_allow_other") {
        return NO_OTHERS.into();
    }
    let what_to_do = match () {
        // It has opened the device by then.
        () if stderr.contains("mount failed: Operation not permitted") => {
            format!("; fusermount3 must be set-user-id root, and {MISSING_CAPABILITY}")
        }
        () if stderr.contains("could not determine username") => format!(
            "; it mounts only for users of /etc/passwd, which has no number {}: add one, or run as another user",
            users::display_name(rustix::process::geteuid().as_raw())
        ),
        () if stderr.contains("failed to open /dev/fuse") => {
            "; give the container the device (`--device /dev/fuse`, also if it is there already)"
                .into()
        }
        () => String::new(),
    };
    format!(
        "{} cannot be mounted: {}{what_to_do}",
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

/// Unmounts, but only what this user has mounted.
pub(super) fn unmount(dir: &Path) -> Result<Output> {
    let run = |program: OsString| {
        Command::new(program)
            .args(["-uz", "-q", "--"])
            .arg(dir)
            .stdin(Stdio::null())
            .output()
    };
    let is_there = |result: &io::Result<Output>| !result.as_ref().is_err_and(is_elsewhere);
    let mut results = programs().into_iter().map(run);
    let result = results.find(is_there);
    result
        .unwrap_or_else(|| Err(ErrorKind::NotFound.into()))
        .map_err(|e| {
            let package = match is_elsewhere(&e) {
                true => " (Debian: apt install fuse3)",
                false => "",
            };
            let context = format!(
                "`fusermount3`, which an ordinary user needs to unmount, cannot be run{package}"
            );
            Error::io(context, not_started(e))
        })
}
