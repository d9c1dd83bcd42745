//! The master secret's source: an environment variable, else a key file, which the first write creates. Knows no value.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fernet::Fernet;
use zeroize::Zeroize;

use super::key_file::{new_key, path_of_next, read_key, real_path, retired};
use super::{CredentialCipher, cipher};
use crate::error::{Error, Result};
use crate::files::{Stamp, base_folder, place};
use crate::secret::SecretValue;
use crate::sync::Mutex;
use crate::text::shell_path;

/// The environment variable that holds the master secret itself and overrides the key file.
pub const KEY_VARIABLE: &str = "SIMPLETUNER_CREDENTIAL_KEY";

/// Two changes within a tick of the filesystem's clock have the same time, so a younger file is read again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The master secret's source, with the cipher of the key it last gave.
pub struct KeySource {
    variable: Option<SecretValue>,
    key_file: PathBuf,
    /// Locked while a key is derived, so that other threads wait for the result instead of deriving it, too.
    derived: Mutex<Option<Derived>>,
    /// A rotation has replaced the key since [`take_rotated`](KeySource::take_rotated) was called.
    rotated: AtomicBool,
    warned: AtomicBool,
    beside_warned: AtomicBool,
}

struct Derived {
    /// Of the texts of the key and of the key beside, so that a file with a new time and the same text costs no PBKDF2.
    fingerprints: (u64, Option<u64>),
    /// The files that were read; `None` for the variable, which never changes, and for files that are read again each time.
    files: Option<(Stamp, Option<Stamp>)>,
    cipher: Arc<CredentialCipher>,
}

impl Derived {
    /// The Fernet key of a text that was derived before.
    fn key_of(&self, fingerprint: u64) -> Option<&Arc<Fernet>> {
        match fingerprint {
            one if one == self.fingerprints.0 => Some(&self.cipher.key),
            other if Some(other) == self.fingerprints.1 => self.cipher.beside.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({})", self.describe())
    }
}

impl KeySource {
    /// A source: the text of [`KEY_VARIABLE`], unless it is absent or empty, else the file.
    pub fn new(variable: Option<String>, key_file: PathBuf) -> Self {
        let variable = variable.and_then(|mut text| {
            let value = (!text.is_empty()).then(|| SecretValue::new(&text));
            text.zeroize();
            value
        });
        Self {
            variable,
            key_file,
            derived: Mutex::new(None),
            rotated: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            beside_warned: AtomicBool::new(false),
        }
    }

    /// The cipher of the current key. Never creates a key.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`]: the key file is missing, empty, unreadable, a folder, or not text.
    pub fn cipher(&self) -> Result<Arc<CredentialCipher>> {
        self.cipher_if_present()?.ok_or_else(|| {
            let reason = if rustix::fs::lstat(&self.key_file).is_ok() {
                "it is a symbolic link to a file that does not exist".to_owned()
            } else {
                format!(
                    "there is no such file, so encrypted values cannot be read; \
                     restore the key there, or set {KEY_VARIABLE}"
                )
            };
            self.unusable(reason)
        })
    }

    /// The cipher of the current key. Creates a missing key file: 32 random bytes, 0600.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] as for [`cipher`](Self::cipher); an existing file is never overwritten. [`Error::Io`] if the file
    /// cannot be created.
    pub fn cipher_or_create(&self) -> Result<Arc<CredentialCipher>> {
        if let Some(cipher) = self.cipher_if_present()? {
            return Ok(cipher);
        }
        base_folder::refuse_anew(&self.key_file)?;
        create(&self.key_file).map_err(|error| {
            Error::io(
                format!(
                    "cannot create the credential key {}",
                    self.key_file.display()
                ),
                error,
            )
        })?;
        // Another process may have been first; the key is the one in the file.
        self.cipher()
    }

    /// Whether the present key can be used. Derives nothing, so it is quick.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`], but not for a key that is missing.
    pub(crate) fn check(&self) -> Result<()> {
        let stamp = rustix::fs::stat(&self.key_file).map(|stat| Stamp::of(&stat));
        let derived_from = self
            .derived
            .lock()
            .as_ref()
            .and_then(|derived| derived.files);
        match (&self.variable, stamp, derived_from) {
            (Some(_), ..) => Ok(()),
            (None, Ok(stamp), Some((known, _))) if stamp == known => Ok(()),
            _ => self.read().map(drop),
        }
    }

    /// The variable's name or the file's path, for messages.
    pub fn describe(&self) -> String {
        match self.variable {
            Some(_) => KEY_VARIABLE.into(),
            None => self.key_file.display().to_string(),
        }
    }

    /// The key file, unless the variable has the key.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.variable.is_none().then_some(&self.key_file)
    }

    /// The files that the key depends on: to be watched.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = self.file().map(|file| [file.to_owned(), self.beside()]);
        files.into_iter().flatten().collect()
    }

    /// Every file that has a key, or will: the key's, that of a rotation, and those of the keys before.
    pub(crate) fn all_files(&self) -> Vec<PathBuf> {
        let retired = retired(&real_path(&self.key_file));
        self.files().into_iter().chain(retired).collect()
    }

    /// Where the next key is while a rotation is under way: beside the file that a link at the key's path leads to.
    fn beside(&self) -> PathBuf {
        path_of_next(&real_path(&self.key_file))
    }

    /// Whether a rotation has replaced the key since the last call.
    pub(crate) fn take_rotated(&self) -> bool {
        self.rotated.swap(false, Ordering::Relaxed)
    }

    /// Whether there is a key, usable or not.
    pub fn exists(&self) -> bool {
        self.variable.is_some() || self.key_file.exists()
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.variable == other.variable && self.key_file == other.key_file
    }

    /// The cipher of the current key; `None`: there is none.
    pub(crate) fn cipher_if_present(&self) -> Result<Option<Arc<CredentialCipher>>> {
        let mut derived = self.derived.lock();
        if let Some(variable) = &self.variable {
            let derived = derived.get_or_insert_with(|| Derived {
                fingerprints: (variable.fingerprint(), None),
                files: None,
                cipher: Arc::new(CredentialCipher::derive(variable.as_str())),
            });
            return Ok(Some(derived.cipher.clone()));
        }
        // First the key beside: a rotation that ends meanwhile has made it the key by the time that one is read.
        let beside = self.beside();
        let stamp = |path: &Path| {
            let stat = rustix::fs::stat(path);
            stat.ok().map(|stat| Stamp::of(&stat))
        };
        if let Some(derived) = &*derived
            && let Some((file, next)) = &derived.files
            && stamp(&beside) == *next
            && stamp(&self.key_file) == Some(*file)
        {
            return Ok(Some(derived.cipher.clone()));
        }
        let next = self.read_beside(&beside);
        let Some((text, file)) = self.read()? else {
            // In a folder that was moved away, the key is what it was.
            if base_folder::refuse_anew(&self.key_file).is_err()
                && let Some(last) = &*derived
            {
                return Ok(Some(last.cipher.clone()));
            }
            *derived = None;
            return Ok(None);
        };
        let last = derived.take();
        let fingerprints = (
            text.fingerprint(),
            next.as_ref().map(|(text, _)| text.fingerprint()),
        );
        if let Some(last) = &last
            && last.fingerprints.0 != fingerprints.0
            && self.replaces(last, fingerprints.0)
        {
            self.rotated.store(true, Ordering::Relaxed);
        }
        let cipher = match &last {
            Some(last) if last.fingerprints == fingerprints => last.cipher.clone(),
            last => {
                let key_of = |fingerprint, text: &SecretValue| {
                    let known = last.as_ref().and_then(|last| last.key_of(fingerprint));
                    let derive = || cipher::derive(text.as_str());
                    known.cloned().unwrap_or_else(derive)
                };
                let next = next.as_ref().zip(fingerprints.1);
                Arc::new(CredentialCipher {
                    key: key_of(fingerprints.0, &text),
                    beside: next.map(|((text, _), fingerprint)| key_of(fingerprint, text)),
                })
            }
        };
        let next = next.map(|(_, stamp)| stamp);
        let is_settled = |stamp: &Stamp| !stamp.is_younger_than(SETTLED_AFTER);
        let are_settled = is_settled(&file) && next.as_ref().is_none_or(is_settled);
        *derived = Some(Derived {
            fingerprints,
            files: are_settled.then_some((file, next)),
            cipher: cipher.clone(),
        });
        Ok(Some(cipher))
    }

    /// Whether the key that replaced the last one came from a rotation: it lay beside, or the last one was retired.
    fn replaces(&self, last: &Derived, new: u64) -> bool {
        last.fingerprints.1 == Some(new) || {
            let retired = retired(&real_path(&self.key_file));
            let mut texts = retired.iter().filter_map(|path| read_key(path).ok()?);
            texts.any(|(text, ..)| text.fingerprint() == last.fingerprints.0)
        }
    }

    /// The text of the key beside, and its file's state. What cannot be a key is passed over: it must not make the key unusable.
    fn read_beside(&self, path: &Path) -> Option<(SecretValue, Stamp)> {
        match read_key(path) {
            Ok(read) => read.map(|(text, stamp, _)| (text, stamp)),
            Err(reason) => {
                if !self.beside_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!("{} is not used: {reason}", path.display());
                }
                None
            }
        }
    }

    /// The key file's text, stripped, and the file's state; `None` if there is no file.
    fn read(&self) -> Result<Option<(SecretValue, Stamp)>> {
        let read = read_key(&self.key_file).map_err(|reason| self.unusable(reason))?;
        let Some((text, stamp, mode)) = read else {
            return Ok(None);
        };
        if mode & 0o077 != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "other users may open the credential key {}; fix it with: chmod 600 {}",
                self.key_file.display(),
                shell_path(&self.key_file)
            );
        }
        Ok(Some((text, stamp)))
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::KeyUnusable {
            path: self.key_file.clone(),
            reason: reason.into(),
        }
    }
}

/// Creates the key file, unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    place::create_whole(path, new_key()?.as_bytes())
}

#[cfg(test)]
mod tests;
