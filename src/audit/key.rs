//! What the rows of the trail are signed with: a variable of the environment, else a key file, else a key file made on the
//! first row. The formats are SimpleTuner's.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ring::hmac;

use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::settings::files::{ReadError, read_file};

/// The environment variable that holds the key itself and goes before the key file.
pub const KEY_VARIABLE: &str = "SIMPLETUNER_AUDIT_KEY";

/// No key is longer; a larger file is something else.
const MAX_KEY: usize = 64 * 1024;

/// The signing key's source.
#[derive(Clone)]
pub struct SigningKey {
    variable: Option<SecretValue>,
    file: PathBuf,
}

impl SigningKey {
    /// A source: the variable's text, if there is one, else the file.
    pub fn new(variable: Option<SecretValue>, file: PathBuf) -> Self {
        Self { variable, file }
    }

    /// The key. Never makes one.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`]: there is no key file, or it is empty or cannot be read.
    pub fn key(&self) -> Result<hmac::Key> {
        match self.find()? {
            Some(key) => Ok(key),
            None => Err(self.unusable(format!(
                "there is no such file, so the audit trail cannot be checked; put it back there, or into {KEY_VARIABLE}"
            ))),
        }
    }

    /// The key. Where there is none it is made: 32 random bytes, 0600.
    ///
    /// # Errors
    /// As for [`key`](Self::key); [`Error::Io`] where it cannot be made.
    pub fn key_or_create(&self) -> Result<hmac::Key> {
        if let Some(key) = self.find()? {
            return Ok(key);
        }
        make(&self.file).map_err(|error| {
            let file = self.file.display();
            Error::io(format!("cannot make the audit trail's key {file}"), error)
        })?;
        // Whoever was first, the key is what the file holds.
        self.key()
    }

    fn find(&self) -> Result<Option<hmac::Key>> {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        if let Some(variable) = &self.variable {
            return Ok(Some(key(variable.as_bytes())));
        }
        let content = match read_file(&self.file, MAX_KEY) {
            Ok(content) => content,
            Err(ReadError::Missing) => return Ok(None),
            Err(ReadError::NotAFile(what)) => return Err(self.unusable(what)),
            Err(ReadError::TooLarge) => return Err(self.unusable("it is too large for a key")),
            Err(ReadError::Io(error)) => return Err(self.unusable(error.to_string())),
        };
        if content.bytes.is_empty() {
            return Err(self.unusable(
                "it is empty; remove it, if no trail was signed with it, and a new one is made",
            ));
        }
        // It is read again and again.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if content.is_open_to_others() && !TOLD.swap(true, Ordering::Relaxed) {
            let file = self.file.display();
            tracing::warn!(
                "the audit trail's key {file} can be read by others, who could forge the trail; mend it with: chmod 600 {file}"
            );
        }
        Ok(Some(key(&content.bytes)))
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::KeyUnusable {
            path: self.file.clone(),
            reason: reason.into(),
        }
    }
}

/// A key that is whole as soon as it is there.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut key = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(|_| io::Error::other("no random numbers"))?;
    // Under a name of its own, whoever else makes one at the same time; temporary files of this kind are made 0600.
    let mut file = tempfile::Builder::new()
        .prefix(".audit.key.")
        .tempfile_in(folder)?;
    file.write_all(&*key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => Err(failed.error),
        _ => Ok(()),
    }
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
    fn a_key_is_made_once_for_the_owner_alone_and_only_for_a_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/audit.key");
        let source = SigningKey::new(None, path.clone());
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
        let variable = SigningKey::new(Some("text".into()), path);
        assert_eq!(
            sign(&variable.key().unwrap()),
            sign(&hmac::Key::new(hmac::HMAC_SHA256, b"text"))
        );
    }

    #[test]
    fn all_who_make_the_key_at_once_have_the_same_one() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let source = SigningKey::new(None, dir.path().join("audit.key"));
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
