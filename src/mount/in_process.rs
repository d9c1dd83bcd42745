//! Mounts a tree in the process that built it, for programs with providers of their own. Knows no settings and no
//! signals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session};

use super::connection::Connection;
use super::detach::detach;
use super::mount_point::MountPoint;
use super::{acl, device};
use crate::error::{Error, Result};
use crate::fuse::{Drain, Fs};
use crate::live::Tree;
use crate::process::mountinfo::MountId;

/// A mounted tree. Dropping it unmounts, and waits until every closed write is on disk.
pub struct MountedTree {
    session: Option<BackgroundSession>,
    mount_point: PathBuf,
    mount: MountId,
    connection: io::Result<Connection>,
    drain: Drain,
}

/// Mounts a tree at an empty folder, which is made if it is missing, and serves it on another thread. With `allow_root`,
/// root may use the mount, too. Only other processes should use it: a thread of this process could wait for itself.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_tree(tree: Arc<Tree>, mount_point: &Path, allow_root: bool) -> Result<MountedTree> {
    let dir = std::path::absolute(mount_point)
        .map_err(|e| Error::io(mount_point.display().to_string(), e))?;
    let place = MountPoint::open(&dir)?.ok_or_else(|| {
        let dir = dir.display();
        Error::Settings(format!("{dir} has a mount on it; choose another folder"))
    })?;
    let mount_point = place.path().to_owned();
    tree.set_mount_info(|info| {
        info.mount_point = mount_point.display().to_string();
        info.allow_root = allow_root;
    });
    let failed = |e| Error::io("a thread cannot be started", e);
    let fs = Fs::new(tree.clone(), None).map_err(failed)?;
    let drain = fs.drain();
    let (device, mount) = device::mount(&place, allow_root)?;
    tree.set_mount_info(|info| info.filesystem = Some(mount.id().filesystem()));
    let connection = Connection::of(&mount);
    let start = || {
        let session = session(fs, device, allow_root)?;
        drain.set_device(session.as_fd()).map_err(failed)?;
        session.spawn().map_err(failed)
    };
    let session = start().inspect_err(|_| drop(detach(&mount)))?;
    Ok(MountedTree {
        session: Some(session),
        mount_point,
        mount: mount.id(),
        connection,
        drain,
    })
}

impl MountedTree {
    /// The mount point.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for MountedTree {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.find()
            && let Err(error) = detach(&mount)
        {
            tracing::warn!("{error}");
        }
        // Before the connection ends, so that closes under way get their answers.
        self.drain.finish();
        let ends = self.connection.as_ref().is_ok_and(|it| it.abort().is_ok());
        // Where it cannot be ended, the session ends when the last open file is closed: do not wait for that.
        if let Some(session) = self
            .session
            .take()
            .filter(|it| ends || it.guard.is_finished())
            && let Err(error) = session.join()
        {
            tracing::warn!("{}: {error}", self.mount_point.display());
        }
        self.drain.finish();
    }
}

fn session(fs: Fs, device: OwnedFd, allow_root: bool) -> Result<Session<Fs>> {
    let mut config = Config::default();
    config.acl = acl(allow_root);
    Session::from_fd(fs, device, acl(allow_root), config)
        .map_err(|e| Error::io("the kernel's first request", e))
}
