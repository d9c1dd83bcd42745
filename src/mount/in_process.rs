//! Mounts a tree in the process that built it, for programs with providers of their own. Knows no settings and no
//! signals.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session};

use super::state::{SOURCE, resolve};
use super::unmount::detach;
use super::{acl, prepare};
use crate::error::{Error, Result};
use crate::fuse::{Drain, Fs};
use crate::live::Tree;

/// A mounted tree. Dropping it unmounts, and waits until every closed write is on disk.
pub struct MountedTree {
    session: Option<BackgroundSession>,
    mount_point: PathBuf,
    drain: Drain,
}

/// Mounts a tree at an empty folder, which is made if it is missing, and serves it on another thread. With `allow_root`,
/// root may use the mount, too. Only other processes should use it: a thread of this process could wait for itself.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_tree(tree: Arc<Tree>, mount_point: &Path, allow_root: bool) -> Result<MountedTree> {
    let mount_point = resolve(mount_point);
    prepare(&mount_point)?;
    tree.set_mount_info(|info| {
        info.mount_point = mount_point.display().to_string();
        info.allow_root = allow_root;
    });
    let threads = |e| Error::io("threads", e);
    let fs = Fs::new(tree, None).map_err(threads)?;
    let drain = fs.drain();
    let session = mount(fs, &mount_point, allow_root)?;
    drain.set_device(session.as_fd()).map_err(threads)?;
    Ok(MountedTree {
        session: Some(session.spawn().map_err(threads)?),
        mount_point,
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
        let ends = match detach(&self.mount_point) {
            // With open files, the session ends only when the last one is closed: do not wait for that.
            Ok(in_use) => !in_use,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        };
        if let Some(session) = self.session.take().filter(|_| ends)
            && let Err(error) = session.join()
        {
            tracing::warn!("{}: {error}", self.mount_point.display());
        }
        self.drain.finish();
    }
}

fn mount(fs: Fs, mount_point: &Path, allow_root: bool) -> Result<Session<Fs>> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(SOURCE.into()),
        MountOption::Subtype(SOURCE.into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = acl(allow_root);
    Session::new(fs, mount_point, &config)
        .map_err(|e| Error::io(format!("{} cannot be mounted", mount_point.display()), e))
}
