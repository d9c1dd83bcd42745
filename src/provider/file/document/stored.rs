//! A value as it is stored in the file, and its decrypted form. Knows no document.

use std::sync::Arc;

use crate::credential::{CredentialCipher, is_encrypted};
use crate::error::Result;
use crate::secret::{MAX_VALUE, SecretValue};
use crate::sync::Mutex;

/// The longest encrypted form of a value: base64 twice, and the token's own fields.
const MAX_STORED: usize = 2 * MAX_VALUE;

/// A value as it is stored in the file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Plain(SecretValue),
    Encrypted(Sealed),
}

impl Stored {
    pub(super) fn from_text(text: &str) -> Self {
        if is_encrypted(text) {
            Stored::Encrypted(Sealed::new(text))
        } else {
            Stored::Plain(SecretValue::new(text))
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Stored::Plain(value) => value.as_str(),
            Stored::Encrypted(sealed) => sealed.as_str(),
        }
    }

    pub(super) fn fits(text: &str) -> bool {
        text.len()
            <= if is_encrypted(text) {
                MAX_STORED
            } else {
                MAX_VALUE
            }
    }
}

/// An encrypted value. Clones share the decrypted form, so that it is decrypted once.
#[derive(Clone)]
pub(crate) struct Sealed(Arc<Inner>);

struct Inner {
    text: Box<str>,
    /// A leaf lock, held while decrypting: some microseconds.
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    /// Another cipher may give another value, or fail.
    with: Arc<CredentialCipher>,
    value: SecretValue,
}

impl Sealed {
    pub(crate) fn new(text: &str) -> Self {
        Self(Arc::new(Inner {
            text: text.into(),
            opened: Mutex::default(),
        }))
    }

    /// The value, encrypted.
    pub(crate) fn seal(value: &SecretValue, cipher: &Arc<CredentialCipher>) -> Self {
        Self(Arc::new(Inner {
            text: cipher.encrypt(value).into(),
            opened: Mutex::new(Some(Opened {
                with: cipher.clone(),
                value: value.clone(),
            })),
        }))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The value; `name` is for the error.
    ///
    /// # Errors
    /// [`Error::CannotDecrypt`](crate::error::Error::CannotDecrypt).
    pub(crate) fn open(&self, name: &str, cipher: &Arc<CredentialCipher>) -> Result<SecretValue> {
        let mut opened = self.0.opened.lock();
        if let Some(opened) = &*opened
            && Arc::ptr_eq(&opened.with, cipher)
        {
            return Ok(opened.value.clone());
        }
        let value = cipher.decrypt(name, self.as_str())?;
        *opened = Some(Opened {
            with: cipher.clone(),
            value: value.clone(),
        });
        Ok(value)
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str()
    }
}
impl Eq for Sealed {}
