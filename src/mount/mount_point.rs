//! The folder that is mounted on. It is opened once, and the checks and the mount use that descriptor.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::detach::detach;
use super::mount_point_state::{is_own, mounted};
use super::trust::{OpenedPath, Trust, follow, path_error, path_of_descriptor, stat_of};
use crate::error::{Error, Result};
use crate::process::mountinfo::{self, Mount};
use crate::users;

/// How long a keeper waits for another one that is mounting on the same folder. Then it goes on without its turn, because
/// any user who may read the folder can hold its lock.
const TURN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it tries meanwhile.
const TURN_INTERVAL: Duration = Duration::from_millis(5);

/// An empty folder of this user's.
pub(super) struct MountPoint {
    found: OpenedPath,
    /// Locked by the keeper that mounts on it.
    folder: OwnedFd,
}

impl MountPoint {
    /// Opens the folder, and makes it if it is missing, for its owner only. Where root mounts, nobody else may be able to
    /// put another folder in its place. `None`: something has been mounted there meanwhile.
    ///
    /// # Errors
    /// Why it cannot be a mount point, and what to do.
    pub(super) fn open(dir: &Path) -> Result<Option<Self>> {
        let me = rustix::process::geteuid();
        let trust = Trust::of(me.as_raw());
        let refused = |error: Error| match error {
            Error::Settings(why) => Error::Settings(format!(
                "{} cannot be a mount point of this user's: {why}, or choose another folder",
                dir.display()
            )),
            error => explained(dir, error),
        };
        let found = follow(dir, Some(trust).filter(|_| me.is_root()), true).map_err(refused)?;
        if mounted(&found.path)?.is_some() {
            return Ok(None);
        }
        let stat = stat_of(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(explained(dir, path_error(&found.path, Errno::NOTDIR)));
        }
        trust.check_owner(&found.path, &stat).map_err(refused)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&found.file, ".", flags, Mode::empty())
            .map_err(|e| match e {
                // It is root's: otherwise it would have been refused by now.
                Errno::ACCESS if stat.st_uid != me.as_raw() => Error::Settings(format!(
                    "{0} cannot be a mount point of this user's, who may not look into it; choose a folder of your own, or, if \
                     it is empty, type: sudo chown {1} {0}",
                    found.path.display(),
                    users::display_name(me.as_raw())
                )),
                e => explained(dir, path_error(&found.path, e)),
            })?;
        let place = Self { found, folder };
        match place.check() {
            // The mount covers the folder, so its own files are not those of the folder.
            Err(_) if mounted(place.path())?.is_some() => Ok(None),
            checked => checked.map(|()| Some(place)),
        }
    }

    /// Checks that the folder is empty, and that this user may mount on it.
    fn check(&self) -> Result<()> {
        let dir = self.path().display();
        // The system's rule for users who mount through fusermount3.
        let me = rustix::process::geteuid();
        let place = self.descriptor_path();
        let writable = rustix::fs::accessat(CWD, place, Access::WRITE_OK, AtFlags::EACCESS);
        let may_write = me.is_root() || writable != Err(Errno::ACCESS);
        match (self.is_empty()?, may_write) {
            (true, true) => Ok(()),
            (false, true) => Err(Error::Settings(format!(
                "{dir} is not empty: a mount would hide what is in it; choose an empty folder, or a name that does not exist \
                 yet (`simpletuner-live mount {}`)",
                self.path().join("live").display()
            ))),
            (false, false) => Err(Error::Settings(format!(
                "{dir} is not empty: a mount would hide what is in it; choose a folder of your own: `simpletuner-live mount DIR`"
            ))),
            (true, false) => Err(Error::Settings(format!(
                "{dir} cannot be a mount point of this user's, who may not write to it; choose a folder of your own, or type: \
                 sudo chown {} {dir}",
                users::display_name(me.as_raw())
            ))),
        }
    }

    fn is_empty(&self) -> Result<bool> {
        let failed = |e| path_error(self.path(), e);
        for entry in Dir::read_from(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?;
            if ![&b"."[..], b".."].contains(&name.file_name().to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until no other keeper is about to mount here. Its turn ends with this object.
    pub(super) fn take_turn(&self) {
        wait_for_turn(&self.folder);
    }

    /// Whether the folder still has its path.
    pub(super) fn is_current(&self) -> bool {
        let there = rustix::fs::lstat(self.path());
        there.is_ok_and(|there| {
            rustix::fs::fstat(&self.folder)
                .is_ok_and(|ours| (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
        })
    }

    /// Its path without links.
    pub(super) fn path(&self) -> &Path {
        &self.found.path
    }

    /// A path that leads to this folder, even if another has its name now. Only this process can use it.
    pub(super) fn descriptor_path(&self) -> String {
        path_of_descriptor(&self.found.file)
    }

    /// The mount that this process has just made here, from this source.
    ///
    /// # Errors
    /// The folder was exchanged meanwhile. Nothing of ours stays mounted.
    pub(super) fn mounted(&self, source: &str) -> Result<Mount> {
        let dir = self.path();
        // Where the folder is now: its owner, or a parent's, can have moved it.
        let here = std::fs::read_link(self.descriptor_path())
            .map_err(|e| Error::io(dir.display().to_string(), e))?;
        let mounts =
            mountinfo::of_this_process().map_err(|e| Error::io("/proc/self/mountinfo", e))?;
        let is_ours = |mount: &&Mount| is_own(mount, source);
        let ours = |point: &PathBuf| mountinfo::at(&mounts, point).filter(is_ours);
        match ours(&here) {
            Some(mount) if here == dir => Ok(mount.clone()),
            _ => {
                for mount in [&here, &dir.to_owned()].into_iter().filter_map(ours) {
                    if let Err(error) = detach(mount) {
                        tracing::warn!("{error}");
                    }
                }
                Err(Error::Settings(format!(
                    "{} was exchanged for another folder while it was being mounted",
                    dir.display()
                )))
            }
        }
    }
}

/// Waits until no other keeper is about to remove a dead mount from this folder; the turn ends with what is returned. Nobody can lock the
/// folder itself below that mount, so the one around it is locked.
pub(super) fn turn_to_clear(dir: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let around = rustix::fs::open(dir.parent()?, flags, Mode::empty()).ok()?;
    wait_for_turn(&around);
    Some(around)
}

fn wait_for_turn(folder: &OwnedFd) {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < TURN_TIMEOUT => {
                std::thread::sleep(TURN_INTERVAL);
            }
            // Not every filesystem has locks.
            _ => return,
        }
    }
}

/// Makes a missing mount point for another user, as root, in a folder that no other user can change; elsewhere that user makes
/// it.
///
/// # Errors
/// [`Error::Io`].
pub fn make_for(dir: &Path, user: u32, group: u32) -> Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Ok(());
    };
    let Ok(parent) = follow(parent, Some(Trust::of(0)), false) else {
        return Ok(());
    };
    let failed = |e| path_error(dir, e);
    match rustix::fs::mkdirat(&parent.file, name, Mode::RWXU) {
        Err(Errno::EXIST) => return Ok(()),
        made => made.map_err(failed)?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&parent.file, name, flags, Mode::empty()).map_err(failed)?;
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    rustix::fs::fchown(&made, Some(user), Some(group)).map_err(failed)
}

/// A system's error on the way to a mount point as a sentence, with what to do.
fn explained(dir: &Path, error: Error) -> Error {
    let Error::Io { context, source } = &error else {
        return error;
    };
    let at = Path::new(context);
    let folder = at.parent().unwrap_or(at).display();
    let seen = rustix::fs::lstat(at).map(drop);
    let why = match source.raw_os_error() {
        Some(libc::ENOTDIR) => {
            let file = if seen.is_ok() {
                at
            } else {
                at.parent().unwrap_or(at)
            };
            format!("{} is not a folder", file.display())
        }
        Some(libc::EROFS) => format!(
            "{folder} is on a read-only filesystem, so {} cannot be created",
            at.display()
        ),
        Some(libc::EACCES | libc::EPERM) if seen == Err(Errno::NOENT) => {
            format!(
                "you may not create {}: {folder} is not yours to write to",
                at.display()
            )
        }
        Some(libc::EACCES) if seen.is_err() => format!("you may not look into {folder}"),
        Some(libc::EACCES) => format!("you may not look into {}", at.display()),
        Some(libc::ENOENT) => format!("{} does not exist, and cannot be created", at.display()),
        _ => return error,
    };
    Error::Settings(format!(
        "{} cannot be a mount point: {why}; choose another folder: `simpletuner-live mount DIR`",
        dir.display()
    ))
}
