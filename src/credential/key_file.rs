//! The file of a key, and the names of those beside it: the one that is to take its place, and those that had it before.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::FileType;
use zeroize::Zeroizing;

use crate::error::in_words;
use crate::files::{ReadError, Stamp, all_beside, beside, read_file};
use crate::secret::SecretValue;

/// A larger file cannot be a key.
pub(crate) const MAX_KEY: usize = 64 * 1024;
/// What follows the key's name in that of the next one.
pub(super) const NEXT: &str = ".new";
/// What follows it in that of a retired one, before the time.
pub(super) const RETIRED: &str = ".old-";

/// The path of the next key.
pub(super) fn path_of_next(key: &Path) -> PathBuf {
    beside(key, "", NEXT)
}

/// The retired keys beside a key.
pub(super) fn retired(key: &Path) -> Vec<PathBuf> {
    all_beside(key, "", RETIRED)
}

/// The master secret in a key file's text.
pub(crate) fn master_secret(text: &str) -> &str {
    // Python's str.strip() also strips four separators that Rust does not count as white space.
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
}

/// The text of a key's file, stripped, the file's state and its mode; `None` if there is no file. The error says why it cannot be
/// a key.
pub(super) fn read_key(
    path: &Path,
) -> std::result::Result<Option<(SecretValue, Stamp, u32)>, String> {
    let content = match read_file(path, MAX_KEY) {
        Ok(content) => content,
        Err(ReadError::Missing) => return Ok(None),
        Err(ReadError::NotAFile(what)) => return Err(what.to_owned()),
        Err(ReadError::TooLarge) => return Err("it is too large to be a key".to_owned()),
        Err(ReadError::Io(error)) => {
            return Err(format!("it cannot be read: {}", in_words(&error)));
        }
    };
    let text = std::str::from_utf8(&content.bytes)
        .map_err(|_| "it is not UTF-8 text; restore it from a backup".to_owned())?;
    let text = master_secret(text);
    if text.is_empty() {
        let reason =
            "it is empty; restore it from a backup, or remove it if nothing is encrypted yet";
        return Err(reason.to_owned());
    }
    Ok(Some((SecretValue::new(text), content.stamp, content.mode)))
}

/// The path with a link at its end followed.
pub(super) fn real_path(path: &Path) -> PathBuf {
    let is_link = rustix::fs::lstat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    let real = is_link.then(|| path.canonicalize().ok()).flatten();
    real.unwrap_or_else(|| path.to_owned())
}

/// The text of a new key: 32 random bytes in URL-safe base64 without padding, as SimpleTuner makes it.
pub(super) fn new_key() -> io::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *key).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(key.as_slice())))
}
