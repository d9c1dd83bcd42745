//! A tree that is mounted by the process which built it, for a chain of one's own. Knows no settings and no signals.

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

/// A mounted tree; it is unmounted when this is dropped, after what was closed is written.
pub struct MountedTree {
    session: Option<BackgroundSession>,
    mount_point: PathBuf,
    drain: Drain,
}

/// Mounts a tree at an empty folder, which is made if it is missing, and serves it on a thread of its own. With
/// `allow_root` root may use it, too. A thread of this process that used the mount could wait for itself: leave that to
/// other processes.
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
    /// Where it is.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for MountedTree {
    fn drop(&mut self) {
        let ends = match detach(&self.mount_point) {
            // With open files it ends when they are closed, and nobody can say when that is.
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
