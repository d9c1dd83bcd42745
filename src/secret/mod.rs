//! Names and values of secrets: validated, zeroed when dropped, never printed. Does not know where they are stored.

mod buffer;
mod generate;
mod key;
mod locked;
mod pattern;
mod process;
mod salted;

pub use buffer::SecretBuffer;
pub(crate) use generate::{Alphabet, generate};
pub use key::SealingKey;
pub use pattern::NamePattern;
pub use process::protect_process;
pub(crate) use process::protect_until_exec;
pub(crate) use salted::{new_salt, salted_hash};

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use siphasher::sip::SipHasher13;

use crate::error::{Error, Result};
use locked::LockedBytes;

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;
/// The longest name, in bytes (the kernel's limit for a file name).
pub const MAX_NAME: usize = 255;

/// A secret's name: `[A-Za-z0-9_][A-Za-z0-9._-]{0,254}`, except editors' scratch names. Every value of this type is valid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// A valid name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self> {
        let invalid = |reason| {
            Err(Error::InvalidName {
                name: name.chars().take(300).collect(),
                reason,
            })
        };
        let Some(first) = name.bytes().next() else {
            return invalid("it is empty");
        };
        if name.len() > MAX_NAME {
            return invalid("it is longer than 255 bytes");
        }
        if is_scratch_name(name) {
            return invalid("editors use such names for scratch files");
        }
        if !(first.is_ascii_alphanumeric() || first == b'_') {
            return invalid("it must begin with a letter, a digit or '_'");
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        {
            return invalid("only letters, digits, '.', '_' and '-' are allowed");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether editors use such a name for scratch files: it begins with `.` (also emacs' `.#x`), ends in `~`, is vim's `4913` or
/// emacs' `#x#`. (`sedXXXXXX` of `sed -i` is scratch only if it is created exclusively, which the name does not show.)
pub fn is_scratch_name(name: &str) -> bool {
    name.starts_with('.')
        || name.ends_with('~')
        || name == "4913"
        || (name.starts_with('#') && name.ends_with('#') && name.len() > 1)
}

impl serde::Serialize for SecretName {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> serde::Deserialize<'de> for SecretName {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}
impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl Borrow<str> for SecretName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl std::str::FromStr for SecretName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::new(s)
    }
}

/// A secret's value: UTF-8 text of any length, in locked memory, zeroed when the last clone is dropped. `Debug` prints only
/// its length; there is no `Display`.
#[derive(Clone)]
pub struct SecretValue {
    bytes: Arc<LockedBytes>,
    /// The value is the first `len` bytes.
    len: usize,
}

/// The bytes without the newline that ends a single line. `echo` adds it to the file; it is not part of the value. Text of
/// several lines keeps its last newline.
pub fn without_newline(bytes: &[u8]) -> &[u8] {
    match bytes.split_last() {
        Some((b'\n', line)) if !line.contains(&b'\n') => line,
        _ => bytes,
    }
}

impl SecretValue {
    /// Copies the value to locked memory. The caller zeroes its own copy.
    pub fn new(text: &str) -> Self {
        Self {
            bytes: Arc::new(LockedBytes::copy_of(text.as_bytes())),
            len: text.len(),
        }
    }

    /// The value [without the newline](without_newline) that ends a single line; shares the memory.
    #[must_use]
    pub fn without_newline(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            len: without_newline(self.as_bytes()).len(),
        }
    }

    /// Copies the value from bytes.
    ///
    /// # Errors
    /// [`Error::NotUtf8`] with `name`.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(text)),
            Err(_) => Err(Error::NotUtf8 { name: name.into() }),
        }
    }

    /// The value as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice().get(..self.len).unwrap_or_default()
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        // Checked by the constructor; a value never changes.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash to compare values without keeping them: SipHash under a random key of this process, so it reveals nothing about
    /// the value to another process, and compares only with fingerprints under the same key.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.as_bytes())
    }
}

/// The [fingerprint](SecretValue::fingerprint) of any bytes.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    let random_key = || {
        let mut key = [0; 16];
        match getrandom::fill(&mut key) {
            Ok(()) => key,
            // The fallback if the system has no random numbers: it only has to differ from other processes' keys.
            Err(_) => u128::from(RandomState::new().hash_one(0)).to_le_bytes(),
        }
    };
    let key = FINGERPRINT_KEY.get_or_init(random_key);
    SipHasher13::new_with_key(key).hash(bytes)
}

static FINGERPRINT_KEY: OnceLock<[u8; 16]> = OnceLock::new();

/// Makes fingerprints comparable with those of another process that has the same key. Must be called before the first
/// fingerprint is computed.
pub(crate) fn set_fingerprint_key(key: [u8; 16]) {
    // Fails if a key is set already; then that one stays.
    let _ = FINGERPRINT_KEY.set(key);
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.len())
    }
}
impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes) && self.len == other.len
            || self.as_bytes() == other.as_bytes()
    }
}
impl Eq for SecretValue {}
impl From<&str> for SecretValue {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// A change to one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the value.
    Set(SecretName, SecretValue),
    /// Deletes the secret, if it exists.
    Delete(SecretName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_fingerprints_and_others_differ() {
        let value = |text| SecretValue::new(text).fingerprint();
        assert_eq!(value("hunter2"), value("hunter2"));
        assert_ne!(value("hunter2"), value("hunter3"));
        assert_ne!(value(""), value("\0"));
    }

    #[test]
    fn only_valid_names_are_accepted() {
        for good in [
            "HF_TOKEN",
            "a",
            "_x",
            "0day",
            "a.b-c_d",
            "9",
            &"k".repeat(255),
        ] {
            assert_eq!(SecretName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a~",
            "4913",
            "a/b",
            "-x",
            "ä",
            "a b",
            "a\n",
            "a\0",
            &"k".repeat(256),
        ] {
            assert!(
                matches!(SecretName::new(bad), Err(Error::InvalidName { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_newline_of_a_single_line_is_dropped_and_other_newlines_are_kept() {
        for (file, value) in [
            ("hf_x\n", "hf_x"),
            ("hf_x", "hf_x"),
            ("\n", ""),
            ("", ""),
            ("hf_x\r\n", "hf_x\r"),
            ("hf_x\n\n", "hf_x\n\n"),
            ("a\nb\n", "a\nb\n"),
            (
                "-----BEGIN KEY-----\nMII\n-----END KEY-----\n",
                "-----BEGIN KEY-----\nMII\n-----END KEY-----\n",
            ),
        ] {
            let raw = SecretValue::new(file);
            let trimmed = raw.without_newline();
            assert_eq!((raw.as_str(), trimmed.as_str()), (file, value));
            assert_eq!(trimmed, SecretValue::new(value));
            assert_eq!(trimmed.len(), value.len());
            assert_eq!(trimmed == raw, file == value);
            assert_eq!(trimmed.fingerprint(), SecretValue::new(value).fingerprint());
        }
    }

    #[test]
    fn a_value_is_never_printed() {
        let value = SecretValue::new("hunter2");
        assert_eq!(format!("{value:?}"), "SecretValue(7 bytes)");
        assert_eq!(value.as_str(), "hunter2");
        let error = SecretValue::from_bytes("K", b"hunter2\xff").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
