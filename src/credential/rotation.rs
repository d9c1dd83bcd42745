//! The files of a key that is being replaced: the next key lies beside the key until nothing needs the old one, and then the old
//! one is retired. Knows no encrypted value.
//!
//! 1. The next key is `NAME.new`, whole and on the disk. From then on every reader decrypts with both.
//! 2. The caller encrypts everything with it.
//! 3. A copy of the key is `NAME.old-TIME`, on the disk.
//! 4. `NAME.new` is renamed to `NAME`.
//!
//! There is a usable key at each moment. A later rotation that finds `NAME.new` goes on at step 2.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key_file::{RETIRED, new_key, path_of_next, read_key, retired};
use super::next_key::{NextKey, failed};
use super::{CredentialCipher, KEY_VARIABLE, KeySource};
use crate::error::{Error, Result};
use crate::files::{all_beside, beside, place, sync_folder};
use crate::secret::SecretValue;

/// A rotation of the key in a file.
pub(crate) struct KeyRotation {
    /// Of the file that has the old one.
    next: NextKey,
    old_text: SecretValue,
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
            next: NextKey::new(key_file, new_text.as_bytes()),
            old_text,
            is_resumed,
            derive_time,
        })
    }
}

impl KeyRotation {
    /// The key file, without links.
    pub(crate) fn key_file(&self) -> &Path {
        self.next.key_file()
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
        self.next.check_replaceable(beside)
    }

    /// Puts the next key beside the key.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is there then.
    pub(crate) fn write_next(&self) -> Result<()> {
        // What killed rotations left. The caller holds the lock, so they are nobody's.
        for left in all_beside(self.key_file(), ".", RETIRED) {
            let _ = std::fs::remove_file(left);
        }
        self.next.write().map(drop)
    }

    /// Removes the next key, with which nothing is encrypted.
    pub(crate) fn discard_next(&self) {
        self.next.discard();
    }

    /// Where the old key will be kept. A copy that a killed rotation made is used again.
    fn place_to_retire(&self, time: &str) -> PathBuf {
        let is_copy = |path: &PathBuf| matches!(read_key(path), Ok(Some((text, ..))) if text == self.old_text);
        if let Some(copy) = retired(self.key_file()).into_iter().find(is_copy) {
            return copy;
        }
        let path = beside(self.key_file(), "", &format!("{RETIRED}{time}"));
        let mut others =
            (2..).map(|n| beside(self.key_file(), "", &format!("{RETIRED}{time}-{n}")));
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
            .and_then(|()| sync_folder(self.next.folder()))
            .map_err(|error| failed("writing", &kept, error))?;
        match read_key(&kept) {
            Ok(Some((text, ..))) if text == self.old_text => {}
            _ => {
                let error = io::Error::other("it did not hold the old key when it was read again");
                return Err(failed("writing", &kept, error));
            }
        }
        self.next.take_place()?;
        Ok(kept)
    }
}
