//! The master secret's source: an environment variable, else a key file, which the first write creates. Knows no value.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::CredentialCipher;
use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::sync::Mutex;

/// The environment variable that holds the master secret itself and overrides the key file.
pub const KEY_VARIABLE: &str = "SIMPLETUNER_CREDENTIAL_KEY";

/// A larger file cannot be a key.
const MAX_KEY: u64 = 64 * 1024;

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
    /// The file's state when it was read; `None` for the variable, which never changes.
    file: Option<FileState>,
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
            let reason = if fs::symlink_metadata(&self.key_file).is_ok() {
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

    fn cipher_if_present(&self) -> Result<Option<Arc<CredentialCipher>>> {
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
            && file.is_current(&self.key_file)
        {
            return Ok(Some(derived.cipher.clone()));
        }
        let Some((text, file)) = self.read()? else {
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
            file: Some(file),
            cipher: cipher.clone(),
        });
        Ok(Some(cipher))
    }

    /// The key file's text, stripped, and the file's state before it was read; `None` if there is no file.
    fn read(&self) -> Result<Option<(SecretValue, FileState)>> {
        let unreadable = |error: io::Error| self.unusable(format!("it cannot be read: {error}"));
        // Without O_NONBLOCK, opening a named pipe would block.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.key_file);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(self.unusable("it is not a regular file"));
        }
        if metadata.len() > MAX_KEY {
            return Err(self.unusable("it is too large to be a key"));
        }
        let state = FileState::of(&metadata);
        // One more byte than the file has, because a vector that grows at the end leaves an unzeroed copy.
        let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
        file.take(MAX_KEY)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| self.unusable("it is not UTF-8 text; restore it from a backup"))?;
        // Python's str.strip() also strips four separators that Rust does not count as white space.
        let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'));
        if text.is_empty() {
            return Err(self.unusable(
                "it is empty; restore it from a backup, or remove it if nothing is encrypted yet",
            ));
        }
        self.warn_if_open_to_others(&metadata);
        Ok(Some((SecretValue::new(text), state)))
    }

    fn warn_if_open_to_others(&self, metadata: &Metadata) {
        if metadata.mode() & 0o077 != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            let path = self.key_file.display();
            tracing::warn!(
                "other users may open the credential key {path}; fix it with: chmod 600 {path}"
            );
        }
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::KeyUnusable {
            path: self.key_file.clone(),
            reason: reason.into(),
        }
    }
}

/// Creates the key file atomically, unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *key).map_err(|error| io::Error::other(error.to_string()))?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.as_slice()));

    // `tempfile` creates it 0600.
    let mut file = tempfile::Builder::new()
        .prefix(".credential.key.")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(failed) => return Err(failed.error),
    }
    // If a power failure lost the key, every value that was encrypted meanwhile would be lost, too. Some filesystems cannot
    // sync a folder, and return EINVAL.
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

/// Identifies a state of the key file.
struct FileState {
    id: [i64; 7],
    settled: bool,
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        let changed = Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
        Self {
            id: Self::id(metadata),
            // Two changes within a tick of the filesystem's clock have the same time, so a young file is read again.
            settled: age.is_ok_and(|age| age > Duration::from_secs(2)),
        }
    }

    fn id(metadata: &Metadata) -> [i64; 7] {
        [
            metadata.dev() as i64,
            metadata.ino() as i64,
            metadata.size() as i64,
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]
    }

    fn is_current(&self, path: &Path) -> bool {
        self.settled && fs::metadata(path).is_ok_and(|metadata| Self::id(&metadata) == self.id)
    }
}

#[cfg(test)]
mod tests;
