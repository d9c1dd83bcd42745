//! The key that is to take the place of the one in the file: whole and on the disk, it lies beside it as `NAME.new`, and every reader
//! decrypts with both. A rotation makes a new one, and a restore brings the one of its backup. Knows no encrypted value.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::key_file::{NEXT, master_secret, path_of_next, read_key, real_path};
use crate::error::{Error, Result};
use crate::files::writable::check_replaceable;
use crate::files::{all_beside, is_mounted, place, sync_folder};

/// What a small file needs on a disk.
const BLOCK: u64 = 4096;

/// Whether another key than this one lies beside the key in this file: a rotation or a restore was interrupted.
pub(crate) fn is_other_beside(key: &Path, content: &[u8]) -> bool {
    let key = real_path(key);
    let text_at = |path: &Path| read_key(path).ok().flatten().map(|(text, ..)| text);
    match text_at(&path_of_next(&key)) {
        None => false,
        Some(next) if text_at(&key).is_some_and(|key| key == next) => false,
        Some(next) => next.as_bytes() != stripped(content),
    }
}

/// What counts of a key file's content.
fn stripped(content: &[u8]) -> &[u8] {
    std::str::from_utf8(content).map_or(content, |text| master_secret(text).as_bytes())
}

/// The next key of a file. The caller holds the lock of the key.
pub(crate) struct NextKey {
    /// Without links.
    key_file: PathBuf,
    content: Zeroizing<Vec<u8>>,
}

impl NextKey {
    /// `key_file`: without links. Writes nothing.
    pub(crate) fn new(key_file: PathBuf, content: &[u8]) -> Self {
        Self {
            key_file,
            content: Zeroizing::new(content.to_owned()),
        }
    }

    /// The file whose key it will be, without links.
    pub(crate) fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// Whether it can take its place, as far as that shows without doing it. `beside`: how many bytes are written beside it at the same
    /// time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn check_replaceable(&self, beside: u64) -> Result<()> {
        if is_mounted(&self.key_file) {
            let context = format!(
                "{} is mounted as a single file, so it cannot be replaced; mount the folder that it is in instead",
                self.key_file.display()
            );
            return Err(Error::io(context, Errno::BUSY));
        }
        // The next key, and the copy of the old one.
        let keys = 2 * BLOCK;
        let checked =
            place::find(&self.key_file).and_then(|place| check_replaceable(&place, keys, beside));
        checked.map_err(|error| failed("replacing", &self.key_file, error))
    }

    fn is_at(&self, path: &Path) -> bool {
        let text = read_key(path).ok().flatten().map(|(text, ..)| text);
        text.is_some_and(|text| text.as_bytes() == stripped(&self.content))
    }

    /// Puts it beside the key, and reads it back. Returns whether it lay there already.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is there then.
    pub(crate) fn write(&self) -> Result<bool> {
        let next = path_of_next(&self.key_file);
        // What killed writers left. The caller holds the lock, so they are nobody's.
        for left in all_beside(&self.key_file, ".", NEXT) {
            let _ = std::fs::remove_file(left);
        }
        if self.is_at(&next) {
            // Its writer may have been killed before it was on the disk.
            let synced = std::fs::File::open(&next).and_then(|file| file.sync_all());
            let synced = synced.and_then(|()| sync_folder(self.folder()));
            return synced
                .map(|()| true)
                .map_err(|error| failed("writing", &next, error));
        }
        // A copy of the key that is no next one.
        let _ = std::fs::remove_file(&next);
        place::create_whole(&next, &self.content)
            .map_err(|error| failed("writing", &next, error))?;
        match self.is_at(&next) {
            true => Ok(false),
            false => {
                let _ = std::fs::remove_file(&next);
                let error = io::Error::other("it did not hold the new key when it was read again");
                Err(failed("writing", &next, error))
            }
        }
    }

    /// Removes it: nothing is encrypted with it.
    pub(crate) fn discard(&self) {
        let next = path_of_next(&self.key_file);
        if let Err(error) = std::fs::remove_file(&next)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {error}", next.display());
        }
    }

    /// Makes it the key. Everything must be encrypted with it, and on the disk; the caller has kept the old key.
    ///
    /// # Errors
    /// [`Error::Io`]; both keys are still in place then.
    pub(crate) fn take_place(&self) -> Result<()> {
        std::fs::rename(path_of_next(&self.key_file), &self.key_file)
            .map_err(|error| failed("replacing", &self.key_file, error))?;
        sync_folder(self.folder()).map_err(|error| failed("writing", &self.key_file, error))
    }

    pub(super) fn folder(&self) -> &Path {
        self.key_file.parent().unwrap_or(Path::new("/"))
    }
}

pub(super) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}
