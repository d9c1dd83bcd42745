//! The content of the settings file, as it was read once. It may hold credentials, so it is never printed.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files::{ReadError, read_file};
use crate::secret::{new_salt, salted_hash};

/// The size limit of the settings file, in bytes.
pub(crate) const MAX_SETTINGS: usize = 1024 * 1024;

/// What a record begins with: whether there is a file.
const NO_FILE: u8 = 1;
const FILE: u8 = 2;

/// The content of the settings file; without a file, none.
#[derive(Clone, Default)]
pub struct SettingsContent(Option<Zeroizing<Vec<u8>>>);

impl SettingsContent {
    pub(crate) fn of(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Some(bytes))
    }

    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|bytes| bytes.as_slice())
    }

    /// As a record for another process. It never begins with zero.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let content = self.bytes().unwrap_or_default();
        let mut record = Zeroizing::new(Vec::with_capacity(content.len() + 1));
        record.push(if self.0.is_some() { FILE } else { NO_FILE });
        record.extend_from_slice(content);
        record
    }

    /// The content in a record; `None` if it is not one.
    pub fn from_record(record: &[u8]) -> Option<Self> {
        match record.split_first()? {
            (&NO_FILE, []) => Some(Self(None)),
            (&FILE, content) => Some(Self::of(Zeroizing::new(content.to_vec()))),
            _ => None,
        }
    }

    /// A digest by which another process can compare it.
    pub fn digest(&self) -> SettingsDigest {
        let salt = new_salt();
        SettingsDigest {
            hash: salted_hash(&salt, &[&self.to_record()]),
            salt,
        }
    }
}

impl fmt::Debug for SettingsContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SettingsContent({:?} bytes)",
            self.bytes().map(<[u8]>::len)
        )
    }
}

/// Shows whether a settings file has the content that is in force, and not what that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsDigest {
    salt: String,
    hash: String,
}

impl SettingsDigest {
    /// Whether the settings file there now has another content. A file that cannot be read has.
    pub fn differs_from(&self, file: &Path) -> bool {
        let content = match read_file(file, MAX_SETTINGS) {
            Ok(content) => SettingsContent::of(content.bytes),
            Err(ReadError::Missing) => SettingsContent::default(),
            Err(_) => return true,
        };
        salted_hash(&self.salt, &[&content.to_record()]) != self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_and_a_mark_tell_a_file_from_no_file_and_one_content_from_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("live.yaml");
        let of = |text: &str| SettingsContent::of(Zeroizing::new(text.as_bytes().to_vec()));
        let (none, empty, some) = (
            SettingsContent::default(),
            of(""),
            of("vault_token: hunter2"),
        );
        for content in [&none, &empty, &some] {
            let record = content.to_record();
            assert_ne!(record[0], 0);
            let read = SettingsContent::from_record(&record).unwrap();
            assert_eq!(read.bytes(), content.bytes());
        }
        for bad in [&b""[..], b"\0rest", b"\x01rest", b"\x09"] {
            assert!(SettingsContent::from_record(bad).is_none());
        }
        let differ = || [&none, &empty, &some].map(|content| content.digest().differs_from(&file));
        assert_eq!(differ(), [false, true, true]);
        std::fs::write(&file, "").unwrap();
        assert_eq!(differ(), [true, false, true]);
        std::fs::write(&file, "vault_token: hunter2").unwrap();
        assert_eq!(differ(), [true, true, false]);
        assert!(!format!("{some:?}").contains("hunter2"));
    }
}
