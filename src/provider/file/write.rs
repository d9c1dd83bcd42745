//! Replaces a file atomically, one writer at a time. Knows nothing of its content.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Gid, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::{ACL_ATTRIBUTE, Stamp, beside, is_mounted, not_a_file, place};

/// The lock file beside a file, locked until dropped. The file stays, because a program that does not look again after it has
/// the lock, as this one does, could lock one that was removed.
pub(crate) struct Lock {
    /// The path of the lock file.
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for the lock of `path`, at most `timeout`; creates its folder (0700) if there is none.
    ///
    /// # Errors
    /// [`Error::Io`], with `ETIMEDOUT` after the timeout.
    pub(crate) fn take(path: &Path, timeout: Duration) -> Result<Self> {
        let lock = beside(path, "", ".lock");
        let failed =
            |error: std::io::Error| Error::io(format!("opening {}", lock.display()), error);
        let started = Instant::now();
        loop {
            let file = place::open_or_create(&lock, OFlags::RDWR).map_err(failed)?;
            let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
            // A user who can open the lock file can hold the lock.
            if stat.st_mode & 0o077 != 0 && stat.st_uid == rustix::process::geteuid().as_raw() {
                let chmod = rustix::fs::fchmod(&file, Mode::from(0o600));
                chmod.map_err(|errno| failed(errno.into()))?;
            }
            while let Err(errno) =
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            {
                if errno != Errno::WOULDBLOCK && errno != Errno::INTR {
                    return Err(Error::io(format!("locking {}", lock.display()), errno));
                }
                if started.elapsed() >= timeout {
                    let context = format!(
                        "another writer has held {} for over {} s",
                        lock.display(),
                        timeout.as_secs_f64()
                    );
                    return Err(Error::io(context, Errno::TIMEDOUT));
                }
                // Short, because a busy writer releases the lock only for a moment between two writes.
                std::thread::sleep(Duration::from_millis(1));
            }
            // If the file was removed meanwhile, other writers lock another one.
            let (mine, there) = (rustix::fs::fstat(&file), rustix::fs::stat(&lock));
            if let (Ok(mine), Ok(there)) = (mine, there)
                && (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
            {
                return Ok(Self {
                    path: lock,
                    _file: file,
                });
            }
        }
    }

    /// Removes the lock file: what it was the lock of is no longer used. Another writer that waits for it notices.
    pub(crate) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// New content in a temporary file beside its target. Dropped without [`commit`](Self::commit), it is removed.
pub(crate) struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    committed: bool,
}

impl Replacement {
    /// Writes the new content to the disk beside `target`, with the mode and ACL of `target` (and its group, if this is
    /// root), or with `mode` if there is none. The caller holds the target's lock, so the temporary file has a fixed name: the next writer
    /// replaces what a killed one left.
    ///
    /// # Errors
    /// [`Error::Io`], `EBUSY` for a file that is mounted; nothing is left behind.
    pub(crate) fn prepare(target: &Path, content: &[u8], mode: u32) -> Result<Self> {
        refuse_mounted(target)?;
        let temporary = beside(target, ".", ".tmp");
        let failed =
            |error: std::io::Error| Error::io(format!("writing {}", target.display()), error);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = place::create(&temporary, mode).map_err(failed)?;
        let mut replacement = Self {
            target: target.to_owned(),
            temporary,
            file,
            committed: false,
        };
        let there = rustix::fs::lstat(target).ok();
        let there = there.filter(|stat| not_a_file(stat).is_none());
        if let Some(there) = there
            && rustix::process::geteuid().is_root()
        {
            let group = Some(Gid::from_raw(there.st_gid));
            rustix::fs::fchown(&replacement.file, None, group).map_err(|e| failed(e.into()))?;
        }
        // The umask may have cleared bits that the old file has.
        let mode = there.map_or(mode, |stat| stat.st_mode & 0o777);
        rustix::fs::fchmod(&replacement.file, Mode::from_raw_mode(mode))
            .map_err(|errno| failed(errno.into()))?;
        if there.is_some() {
            copy_acl(target, &replacement.file).map_err(|errno| failed(errno.into()))?;
        }
        replacement.file.write_all(content).map_err(failed)?;
        replacement.file.sync_all().map_err(failed)?;
        Ok(replacement)
    }

    /// Where the new content is until then.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Renames it onto the target, and returns its stamp there.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file is unchanged then.
    pub(crate) fn commit(mut self) -> Result<Stamp> {
        let failed = |error: std::io::Error| {
            let hint = hint_for(&error);
            Error::io(format!("replacing {}{hint}", self.target.display()), error)
        };
        match std::fs::rename(&self.temporary, &self.target) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                return Err(mounted(&self.target));
            }
            renamed => renamed.map_err(failed)?,
        }
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| failed(errno.into()));
        self.committed = true;
        stat.map(|stat| Stamp::of(&stat))
    }
}

/// What may be the reason why a file cannot be replaced, to be put behind its path.
pub(super) fn hint_for(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => ", which may be immutable (lsattr shows that)",
        _ => "",
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Refuses a file that is a mount point. It cannot be replaced, and a crash while it is written in place would lose every
/// secret in it.
///
/// # Errors
/// [`Error::Io`], `EBUSY`.
pub(crate) fn refuse_mounted(path: &Path) -> Result<()> {
    match is_mounted(path) {
        true => Err(mounted(path)),
        false => Ok(()),
    }
}

fn mounted(path: &Path) -> Error {
    let context = format!(
        "{} is mounted as a single file (`docker run -v FILE:FILE` does that), so it cannot be replaced by a rename, and a \
         crash during a write in place would lose all of it; mount the folder that it is in instead, or let file_path \
         name a file in a folder",
        path.display()
    );
    Error::io(context, Errno::BUSY)
}

/// Syncs the folder of a file. A failure is only a warning, because the rename is done.
pub(crate) fn sync_folder_of(path: &Path) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    if let Err(error) = synced {
        tracing::warn!(
            "{} is written, but may be lost if the power fails now: {error}",
            path.display()
        );
    }
}

/// Replaces a file without its lock: for files other than the secrets file.
///
/// # Errors
/// [`Error::Io`]; the old file is unchanged then.
pub(crate) fn replace(target: &Path, content: &[u8], mode: u32) -> Result<()> {
    Replacement::prepare(target, content, mode)?.commit()?;
    sync_folder_of(target);
    Ok(())
}

/// Copies a file's ACL to another. If the first has none, this also removes a default ACL that the folder gave.
fn copy_acl(from: &Path, to: impl AsFd) -> rustix::io::Result<()> {
    let mut acl = [0; 4096];
    match rustix::fs::lgetxattr(from, ACL_ATTRIBUTE, &mut acl) {
        Ok(len) => {
            let acl = acl.get(..len).unwrap_or_default();
            rustix::fs::fsetxattr(to, ACL_ATTRIBUTE, acl, XattrFlags::empty())
        }
        Err(Errno::NODATA) => match rustix::fs::fremovexattr(to, ACL_ATTRIBUTE) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(errno) => Err(errno),
        },
        // A filesystem without ACLs.
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
