//! Whether the secrets file can be written now, as far as that shows without writing: the file, its folder, the disk, the
//! key. A program learns it when it opens a secret to write, because many do not look at what close(2) returns.

use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use super::key_check::misfit;
use super::previous::path_for;
use super::reader::LoadedDocument;
use super::watch::CheckTarget;
use super::write::{Lock, hint_for, refuse_mounted};
use super::{Document, Shared};
use crate::error::{Error, Result};
use crate::files::place::{self, Place};
use crate::files::writable::{check_replaceable, check_writable};
use crate::files::{Stamp, beside};

impl Shared {
    /// Runs on the thread `store`. Reads the file only if it seems to have changed.
    ///
    /// # Errors
    /// Those that a write would have.
    pub(super) fn check_writable(&self) -> Result<()> {
        let mut located = self.options.location.locate()?;
        if !self.state.lock().seems_current(&located) {
            self.check();
            located = self.options.location.locate()?;
        }
        let loaded = {
            let state = self.state.lock();
            match &state.source.current().failure {
                Some(failure) => return Err(failure.error.duplicate()),
                None => state.loaded().cloned(),
            }
        };
        refuse_mounted(located.path())?;
        self.check_lock(&located)?;
        self.check_disk(&located, loaded.as_ref().map_or(0, LoadedDocument::size))?;
        let Some(loaded) = loaded else { return Ok(()) };
        match self.check_key(&loaded.document, located.path()) {
            // A rotation may have replaced the file and the key since the file was looked at.
            Err(_) if self.is_replaced(&located) => self.check_writable(),
            checked => checked,
        }
    }

    fn is_replaced(&self, before: &Place) -> bool {
        let stamp = |place: &Place| place.stat().map(Stamp::of);
        let now = self.options.location.locate();
        now.is_ok_and(|now| now.path() != before.path() || stamp(&now) != stamp(before))
    }

    /// Whether the folder may be written, and has room for a copy of the file and of what is kept beside it: both are written
    /// before either takes the place of the one there.
    fn check_disk(&self, located: &Place, size: u64) -> Result<()> {
        let path = located.path();
        let kept = self.check_previous(path)?;
        let failed = |error| {
            Error::io(
                format!("writing {}{}", path.display(), hint_for(&error)),
                error,
            )
        };
        match check_replaceable(located, size, kept) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                // Another writer's copy may take the room, and give it back.
                match Lock::take(path, Duration::ZERO) {
                    Err(error) if error.errno() == libc::ETIMEDOUT => Ok(()),
                    Err(error) => Err(error),
                    Ok(_lock) => check_replaceable(located, size, kept).map_err(failed),
                }
            }
            checked => checked.map_err(failed),
        }
    }

    /// Whether what is kept can be read, which each write does, and its size in bytes.
    fn check_previous(&self, store: &Path) -> Result<u64> {
        if self.options.keep_previous == 0 {
            return Ok(0);
        }
        let path = path_for(store);
        let read = place::find(&path).and_then(|place| match place.stat() {
            Some(stat) => {
                place.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                Ok(stat.st_size.unsigned_abs())
            }
            None => Ok(0),
        });
        read.map_err(|error| Error::io(format!("reading {}", path.display()), error))
    }

    /// Whether this process may take the lock. Another writer may have it just now.
    fn check_lock(&self, located: &Place) -> Result<()> {
        let lock = beside(located.path(), "", ".lock");
        let opened = place::find(&lock).and_then(|place| match place.stat() {
            Some(_) => place.open(OFlags::RDWR).map(drop),
            None => Ok(()),
        });
        opened.map_err(|error| Error::io(format!("opening {}", lock.display()), error))
    }

    /// Whether there is a key to encrypt values with, which is that of the document, or it can be made.
    fn check_key(&self, document: &Document, store: &Path) -> Result<()> {
        let key = &self.options.key;
        if !self.options.encrypt {
            return Ok(());
        }
        if document.encrypted().next().is_some() {
            let cipher = key.cipher_if_present()?;
            return match misfit(document, cipher.as_ref()) {
                Some(misfit) => Err(misfit.error(key, store)),
                None => Ok(()),
            };
        }
        if key.exists() {
            return key.check();
        }
        let Some(file) = key.file() else {
            return Ok(());
        };
        let checked = place::find(file).and_then(|place| check_writable(&place));
        checked.map_err(|error| {
            let what = format!("creating the credential key {}", file.display());
            Error::io(what, error)
        })
    }
}
