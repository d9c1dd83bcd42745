//! The folder that is mounted on. It is opened once, and the checks and the mount use that descriptor.

use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::detach::detach;
use super::mount_point_state::is_own;
use super::trust::{OpenedPath, Trust, follow, path_error, path_of_descriptor, stat_of};
use crate::error::{Error, Result};
use crate::process::mountinfo::{self, Mount};

/// An empty folder of this user's.
pub(super) struct MountPoint(OpenedPath);

impl MountPoint {
    /// Opens the folder, and makes it if it is missing, for its owner only. Where root mounts, nobody else may be able to
    /// put another folder in its place.
    ///
    /// # Errors
    /// Why it cannot be a mount point.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let me = rustix::process::geteuid();
        let trust = Trust::of(me.as_raw());
        let refused = |error: Error| match error {
            Error::Settings(why) => Error::Settings(format!(
                "{} cannot be a mount point of this user's: {why}, or choose another folder",
                dir.display()
            )),
            error => error,
        };
        let found = follow(dir, Some(trust).filter(|_| me.is_root()), true).map_err(refused)?;
        let stat = stat_of(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(path_error(&found.path, Errno::NOTDIR));
        }
        trust.check_owner(&found.path, &stat).map_err(refused)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(&found.file, ".", flags, Mode::empty())
            .and_then(Dir::new)
            .map_err(|e| path_error(&found.path, e))?;
        let is_entry = |name: &[u8]| name != b"." && name != b"..";
        for entry in listed {
            let entry = entry.map_err(|e| path_error(&found.path, e))?;
            if is_entry(entry.file_name().to_bytes()) {
                let dir = found.path.display();
                return Err(Error::Settings(format!(
                    "{dir} is not empty: a mount would hide what is in it; choose another folder"
                )));
            }
        }
        Ok(Self(found))
    }

    /// Its path without links.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// A path that leads to this folder, even if another has its name now. Only this process can use it.
    pub(super) fn descriptor_path(&self) -> String {
        path_of_descriptor(&self.0.file)
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
