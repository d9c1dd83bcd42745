//! The files of a key that is being replaced: the next key lies beside the key until nothing needs the old one, and then the old
//! one is retired. Knows no encrypted value.
//!
//! 1. The next key is `NAME.new`, whole and on the disk. From then on every reader decrypts with both.
//! 2. The caller encrypts everything with it.
//! 3. A copy of the key is `NAME.old-TIME`, on the disk.
//! 4. `NAME.new` is renamed to `NAME`.
//!
//! There is a usable key at each moment. A later rotation that finds `NAME.new` goes on at step 2.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key::{new_key, read_key};
use super::{CredentialCipher, KEY_VARIABLE, KeySource};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::writable::check_replaceable;
use crate::files::{beside, is_mounted, place, sync_folder};
use crate::secret::SecretValue;

/// What a small file needs on a disk.
const BLOCK: u64 = 4096;

/// What follows the key's name.
const NEXT: &str = ".new";
const RETIRED: &str = ".old-";

/// The path of the next key.
pub(super) fn path_of_next(key: &Path) -> PathBuf {
    beside(key, "", NEXT)
}

/// The retired keys beside a key.
pub(super) fn retired(key: &Path) -> Vec<PathBuf> {
    beginning_with(key, "", RETIRED)
}

/// The files beside `key` whose names are `before`, the key's name, `after` and something more.
fn beginning_with(key: &Path, before: &str, after: &str) -> Vec<PathBuf> {
    let mut start = OsString::from(before);
    start.push(key.file_name().unwrap_or_default());
    start.push(after);
    let start = start.as_encoded_bytes();
    let entries = std::fs::read_dir(key.parent().unwrap_or(Path::new("/")));
    let entries = entries.into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start));
    found.map(|entry| entry.path()).collect()
}

/// A rotation of the key in a file.
pub(crate) struct KeyRotation {
    /// Without links.
    key_file: PathBuf,
    old_text: SecretValue,
    new_text: SecretValue,
    /// Decrypts with the old key, and with the next one if that exists.
    pub(crate) old: Arc<CredentialCipher>,
    /// Encrypts with the next key.
    pub(crate) new: Arc<CredentialCipher>,
    /// Whether the next key was there already: an earlier rotation did not end.
    pub(crate) is_resumed: bool,
    /// How long it takes to derive a key.
    pub(crate) derive_time: Duration,
}

impl KeySource {
    /// Begins a rotation, or goes on with one. Writes nothing. The caller holds the lock of the key, except to plan.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`]: the variable has the key, or there is no usable key file.
    pub(crate) fn begin_rotation(&self) -> Result<KeyRotation> {
        let Some(file) = self.file() else {
            return Err(Error::KeyUnusable {
                path: self.describe().into(),
                reason: format!("{KEY_VARIABLE} has the key, so there is no file to replace"),
            });
        };
        let unusable = |path: &Path, reason: String| Error::KeyUnusable {
            path: path.to_owned(),
            reason,
        };
        let found = place::find(file).map_err(|error| unusable(file, error.to_string()))?;
        let key_file = found.path().to_owned();
        let (old_text, ..) = read_key(&key_file)
            .map_err(|reason| unusable(&key_file, reason))?
            .ok_or_else(|| {
                let reason = "there is no such file, so there is nothing to replace; the first write makes a key";
                unusable(&key_file, reason.to_owned())
            })?;
        let next = path_of_next(&key_file);
        let next = read_key(&next).map_err(|reason| {
            let reason = format!(
                "{reason}; move it away, unless it is the only key that decrypts some values"
            );
            unusable(&next, reason)
        })?;
        let next = next.map(|(text, ..)| text);
        let next = next.filter(|text| text != &old_text);
        let is_resumed = next.is_some();
        let new_text = match next {
            Some(text) => text,
            None => {
                let text = new_key().map_err(|error| Error::io("making a key", error))?;
                SecretValue::new(&text)
            }
        };
        let begun = Instant::now();
        let key = super::cipher::derive(old_text.as_str());
        let derive_time = begun.elapsed();
        let new = CredentialCipher::derive(new_text.as_str());
        Ok(KeyRotation {
            old: Arc::new(CredentialCipher {
                key,
                beside: is_resumed.then(|| new.key.clone()),
            }),
            new: Arc::new(new),
            key_file,
            old_text,
            new_text,
            is_resumed,
            derive_time,
        })
    }
}

impl KeyRotation {
    /// The key file, without links.
    pub(crate) fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// Identifies the key that is replaced, within this process.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.old_text.fingerprint()
    }

    /// Whether the key file can be replaced, as far as that shows without doing it. `beside`: how many bytes are written beside it
    /// at the same time.
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
        checked.map_err(|error| self.failed("replacing", &self.key_file, error))
    }

    /// Puts the next key beside the key, and reads it back.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is there then.
    pub(crate) fn write_next(&self) -> Result<()> {
        let next = path_of_next(&self.key_file);
        // What killed rotations left. The caller holds the lock, so they are nobody's.
        for suffix in [NEXT, RETIRED] {
            for left in beginning_with(&self.key_file, ".", suffix) {
                let _ = std::fs::remove_file(left);
            }
        }
        let is_there = |text: Option<_>| text.is_some_and(|text| text == self.new_text);
        let read = || read_key(&next).ok().flatten().map(|(text, ..)| text);
        if is_there(read()) {
            // The rotation that made it may have been killed before it was on the disk.
            let synced = std::fs::File::open(&next).and_then(|file| file.sync_all());
            let synced = synced.and_then(|()| sync_folder(self.folder()));
            return synced.map_err(|error| self.failed("writing", &next, error));
        }
        // A copy of the key that is no next one.
        let _ = std::fs::remove_file(&next);
        place::create_whole(&next, self.new_text.as_bytes())
            .map_err(|error| self.failed("writing", &next, error))?;
        match is_there(read()) {
            true => Ok(()),
            false => {
                let _ = std::fs::remove_file(&next);
                let error = io::Error::other("it did not hold the new key when it was read again");
                Err(self.failed("writing", &next, error))
            }
        }
    }

    /// Removes the next key, with which nothing is encrypted.
    pub(crate) fn discard_next(&self) {
        let next = path_of_next(&self.key_file);
        if let Err(error) = std::fs::remove_file(&next)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {error}", next.display());
        }
    }

    /// Where the old key will be kept. A copy that a killed rotation made is used again.
    fn place_to_retire(&self, time: &str) -> PathBuf {
        let is_copy = |path: &PathBuf| matches!(read_key(path), Ok(Some((text, ..))) if text == self.old_text);
        if let Some(copy) = retired(&self.key_file).into_iter().find(is_copy) {
            return copy;
        }
        let path = beside(&self.key_file, "", &format!("{RETIRED}{time}"));
        let mut others = (2..).map(|n| beside(&self.key_file, "", &format!("{RETIRED}{time}-{n}")));
        match std::fs::symlink_metadata(&path) {
            Err(_) => path,
            Ok(_) => others
                .find(|path| std::fs::symlink_metadata(path).is_err())
                .unwrap_or(path),
        }
    }

    /// Keeps the old key in a file of its own, and makes the next one the key. Everything must be encrypted with it, and on the
    /// disk. `time` becomes part of the file's name. Returns where the old one is.
    ///
    /// # Errors
    /// [`Error::Io`]; both keys are still in place then.
    pub(crate) fn retire(&self, time: &str) -> Result<PathBuf> {
        let kept = self.place_to_retire(time);
        place::create_whole(&kept, self.old_text.as_bytes())
            .and_then(|()| sync_folder(self.folder()))
            .map_err(|error| self.failed("writing", &kept, error))?;
        match read_key(&kept) {
            Ok(Some((text, ..))) if text == self.old_text => {}
            _ => {
                let error = io::Error::other("it did not hold the old key when it was read again");
                return Err(self.failed("writing", &kept, error));
            }
        }
        std::fs::rename(path_of_next(&self.key_file), &self.key_file)
            .map_err(|error| self.failed("replacing", &self.key_file, error))?;
        sync_folder(self.folder())
            .map_err(|error| self.failed("writing", &self.key_file, error))?;
        Ok(kept)
    }

    fn folder(&self) -> &Path {
        self.key_file.parent().unwrap_or(Path::new("/"))
    }

    fn failed(&self, doing: &str, path: &Path, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", path.display()), error)
    }
}
