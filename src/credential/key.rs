//! The master secret's source: an environment variable, else a key file, which the first write creates. Knows no value.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::CredentialCipher;
use crate::error::{Error, Result, in_words};
use crate::files::{ReadError, Stamp, base_folder, place, read_file};
use crate::secret::SecretValue;
use crate::sync::Mutex;
use crate::text::shell_path;

/// The environment variable that holds the master secret itself and overrides the key file.
pub const KEY_VARIABLE: &str = "SIMPLETUNER_CREDENTIAL_KEY";

/// A larger file cannot be a key.
pub(crate) const MAX_KEY: usize = 64 * 1024;

/// Two changes within a tick of the filesystem's clock have the same time, so a younger file is read again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The master secret's source, with the cipher of the key it last gave.
pub struct KeySource {
    variable: Option<SecretValue>,
    key_file: PathBuf,
    /// Locked while a key is derived, so that other threads wait for the result instead of deriving it, too.
    derived: Mutex<Option<Derived>>,
    warned: AtomicBool,
}

struct Derived {
    /// Of the key's text, so that a file with a new time and the same text costs no PBKDF2.
    fingerprint: u64,
    /// The file that was read; `None` for the variable, which never changes, and for a file that is read again each time.
    file: Option<Stamp>,
    cipher: Arc<CredentialCipher>,
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
            warned: AtomicBool::new(false),
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
            .and_then(|derived| derived.file);
        match (&self.variable, stamp, derived_from) {
            (Some(_), ..) => Ok(()),
            (None, Ok(stamp), Some(known)) if stamp == known => Ok(()),
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
                fingerprint: variable.fingerprint(),
                file: None,
                cipher: Arc::new(CredentialCipher::derive(variable.as_str())),
            });
            return Ok(Some(derived.cipher.clone()));
        }
        if let Some(derived) = &*derived
            && let Some(file) = &derived.file
            && rustix::fs::stat(&self.key_file).is_ok_and(|stat| Stamp::of(&stat) == *file)
        {
            return Ok(Some(derived.cipher.clone()));
        }
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
        let fingerprint = text.fingerprint();
        let cipher = match derived.take() {
            Some(last) if last.fingerprint == fingerprint => last.cipher,
            _ => Arc::new(CredentialCipher::derive(text.as_str())),
        };
        *derived = Some(Derived {
            fingerprint,
            file: (!file.is_younger_than(SETTLED_AFTER)).then_some(file),
            cipher: cipher.clone(),
        });
        Ok(Some(cipher))
    }

    /// The key file's text, stripped, and the file's state; `None` if there is no file.
    fn read(&self) -> Result<Option<(SecretValue, Stamp)>> {
        let content = match read_file(&self.key_file, MAX_KEY) {
            Ok(content) => content,
            Err(ReadError::Missing) => return Ok(None),
            Err(ReadError::NotAFile(what)) => return Err(self.unusable(what)),
            Err(ReadError::TooLarge) => return Err(self.unusable("it is too large to be a key")),
            Err(ReadError::Io(error)) => {
                return Err(self.unusable(format!("it cannot be read: {}", in_words(&error))));
            }
        };
        let text = std::str::from_utf8(&content.bytes)
            .map_err(|_| self.unusable("it is not UTF-8 text; restore it from a backup"))?;
        let text = master_secret(text);
        if text.is_empty() {
            return Err(self.unusable(
                "it is empty; restore it from a backup, or remove it if nothing is encrypted yet",
            ));
        }
        if content.mode & 0o077 != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "other users may open the credential key {}; fix it with: chmod 600 {}",
                self.key_file.display(),
                shell_path(&self.key_file)
            );
        }
        Ok(Some((SecretValue::new(text), content.stamp)))
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::KeyUnusable {
            path: self.key_file.clone(),
            reason: reason.into(),
        }
    }
}

/// The master secret in a key file's text.
pub(crate) fn master_secret(text: &str) -> &str {
    // Python's str.strip() also strips four separators that Rust does not count as white space.
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
}

/// Creates the key file, unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *key).map_err(|error| io::Error::other(error.to_string()))?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.as_slice()));
    place::create_whole(path, text.as_bytes())
}

#[cfg(test)]
mod tests;
