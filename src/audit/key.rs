//! The HMAC key of the trails: an environment variable, else a key file, which the first row creates. The formats are
//! SimpleTuner's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ring::hmac;

use crate::error::{Error, Result, in_words};
use crate::files::{ReadError, place, read_file};
use crate::secret::SecretValue;
use crate::text::shell_path;

/// The environment variable that holds the key itself and overrides the key file.
pub const KEY_VARIABLE: &str = "SIMPLETUNER_AUDIT_KEY";

/// A larger file cannot be a key.
const MAX_KEY: usize = 64 * 1024;

/// The signing key of a key file's content.
pub(crate) fn signing_key(content: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, content)
}

/// The source of the signing key.
#[derive(Clone)]
pub struct SigningKeySource {
    variable: Option<SecretValue>,
    file: PathBuf,
}

impl SigningKeySource {
    /// A source: the variable's text if there is one, else the file.
    pub fn new(variable: Option<SecretValue>, file: PathBuf) -> Self {
        Self { variable, file }
    }

    /// The key. Never creates one.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] if the key file is missing, empty or unreadable.
    pub fn key(&self) -> Result<hmac::Key> {
        match self.find()? {
            Some(key) => Ok(key),
            None => Err(self.unusable(format!(
                "there is no such file, so the audit trail cannot be checked; put it back there, or into {KEY_VARIABLE}"
            ))),
        }
    }

    /// The key. Creates a missing key file: 32 random bytes, 0600.
    ///
    /// # Errors
    /// As for [`key`](Self::key); [`Error::Io`] if the file cannot be created.
    pub fn key_or_create(&self) -> Result<hmac::Key> {
        if let Some(key) = self.find()? {
            return Ok(key);
        }
        create(&self.file).map_err(|error| {
            let file = self.file.display();
            Error::io(format!("cannot create the audit trail's key {file}"), error)
        })?;
        // Another process may have been first; the key is the one in the file.
        self.key()
    }

    fn find(&self) -> Result<Option<hmac::Key>> {
        if let Some(variable) = &self.variable {
            return Ok(Some(signing_key(variable.as_bytes())));
        }
        let content = match read_file(&self.file, MAX_KEY) {
            Ok(content) => content,
            Err(ReadError::Missing) => return Ok(None),
            Err(ReadError::NotAFile(what)) => return Err(self.unusable(what)),
            Err(ReadError::TooLarge) => return Err(self.unusable("it is too large for a key")),
            Err(ReadError::Io(error)) => {
                return Err(self.unusable(format!("it cannot be read: {}", in_words(&error))));
            }
        };
        if content.bytes.is_empty() {
            return Err(self.unusable(
                "it is empty; restore it from a backup, or remove it if no trail was signed with it yet",
            ));
        }
        // Once, because the key is read for every batch of rows.
        static WARNED: AtomicBool = AtomicBool::new(false);
        if content.is_open_to_others() && !WARNED.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the audit trail's key {} can be read by others, who could forge the trail; fix it with: chmod 600 {}",
                self.file.display(),
                shell_path(&self.file)
            );
        }
        Ok(Some(signing_key(&content.bytes)))
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::KeyUnusable {
            path: self.file.clone(),
            reason: reason.into(),
        }
    }
}

/// Creates the key file, unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(|_| io::Error::other("no random numbers"))?;
    place::create_whole(path, &*key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn sign(key: &hmac::Key) -> Vec<u8> {
        hmac::sign(key, b"x").as_ref().to_vec()
    }

    #[test]
    fn the_first_row_creates_a_private_key_and_verifying_creates_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/audit.key");
        let source = SigningKeySource::new(None, path.clone());
        assert_eq!(source.key().unwrap_err().errno(), libc::EKEYREJECTED);
        assert!(!path.exists());
        let made = sign(&source.key_or_create().unwrap());
        assert_eq!(sign(&source.key_or_create().unwrap()), made);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            (metadata.len(), metadata.permissions().mode() & 0o777),
            (32, 0o600)
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, "").unwrap();
        assert_eq!(
            source.key_or_create().unwrap_err().errno(),
            libc::EKEYREJECTED
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        let variable = SigningKeySource::new(Some("text".into()), path);
        assert_eq!(
            sign(&variable.key().unwrap()),
            sign(&hmac::Key::new(hmac::HMAC_SHA256, b"text"))
        );
    }

    #[test]
    fn processes_that_create_the_key_at_the_same_time_get_the_same_key() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let source = SigningKeySource::new(None, dir.path().join("audit.key"));
            let ready = std::sync::Barrier::new(8);
            let made: Vec<Vec<u8>> = std::thread::scope(|scope| {
                let make = || {
                    ready.wait();
                    sign(&source.key_or_create().unwrap())
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                let made = threads.into_iter().map(|thread| thread.join().unwrap());
                made.collect()
            });
            assert!(made.iter().all(|key| *key == made[0]));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
