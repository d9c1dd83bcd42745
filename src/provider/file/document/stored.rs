//! A value as it is stored in the file, and its decrypted form. Knows no document.

use std::sync::Arc;

use crate::credential::{CredentialCipher, Undecryptable, is_encrypted};
use crate::error::Result;
use crate::secret::{MAX_VALUE, SecretValue};
use crate::sync::Mutex;

/// The longest encrypted form of a value: base64 twice, and the token's own fields.
const MAX_STORED: usize = 2 * MAX_VALUE;

/// Whether a text in the file is read as an encrypted value.
pub(crate) fn looks_encrypted(text: &str) -> bool {
    is_encrypted(text.trim_start())
}

/// A value as it is stored in the file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Plain(SecretValue),
    Encrypted(Sealed),
}

impl Stored {
    /// White space around and in an encrypted value is not part of it: SimpleTuner's decoder skips it, too.
    pub(crate) fn from_text(text: &str) -> Self {
        if looks_encrypted(text) {
            Stored::Encrypted(Sealed::new(&text.split_whitespace().collect::<String>()))
        } else {
            Stored::Plain(SecretValue::new(text))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Stored::Plain(value) => value.as_str(),
            Stored::Encrypted(sealed) => sealed.as_str(),
        }
    }

    pub(super) fn fits(text: &str) -> bool {
        text.len()
            <= if looks_encrypted(text) {
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

/// What a cipher made of the text; another one may make something else of it.
struct Opened {
    with: Arc<CredentialCipher>,
    outcome: Outcome,
}

enum Outcome {
    Value(SecretValue),
    /// It can be decrypted, and no reader has needed the value yet.
    Decryptable,
    Cannot(Undecryptable),
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
                outcome: Outcome::Value(value.clone()),
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
        match opened
            .as_ref()
            .filter(|opened| Arc::ptr_eq(&opened.with, cipher))
            .map(|opened| &opened.outcome)
        {
            Some(Outcome::Value(value)) => return Ok(value.clone()),
            Some(Outcome::Cannot(why)) => return Err(why.error(name)),
            Some(Outcome::Decryptable) | None => {}
        }
        let value = cipher.try_decrypt(self.as_str());
        *opened = Some(Opened {
            with: cipher.clone(),
            outcome: match &value {
                Ok(value) => Outcome::Value(value.clone()),
                Err(why) => Outcome::Cannot(*why),
            },
        });
        value.map_err(|why| why.error(name))
    }

    /// Why this cipher cannot decrypt it; `None` if it can. Keeps no value.
    pub(crate) fn problem(&self, cipher: &Arc<CredentialCipher>) -> Option<Undecryptable> {
        let mut opened = self.0.opened.lock();
        if let Some(opened) = &*opened
            && Arc::ptr_eq(&opened.with, cipher)
        {
            return match opened.outcome {
                Outcome::Cannot(why) => Some(why),
                Outcome::Value(_) | Outcome::Decryptable => None,
            };
        }
        let problem = cipher.try_decrypt(self.as_str()).err();
        *opened = Some(Opened {
            with: cipher.clone(),
            outcome: problem.map_or(Outcome::Decryptable, Outcome::Cannot),
        });
        problem
    }

    /// The value, if this cipher decrypts it. Keeps nothing.
    pub(crate) fn reveal(&self, cipher: &Arc<CredentialCipher>) -> Option<SecretValue> {
        if let Some(Opened {
            with,
            outcome: Outcome::Value(value),
        }) = &*self.0.opened.lock()
            && Arc::ptr_eq(with, cipher)
        {
            return Some(value.clone());
        }
        cipher.try_decrypt(self.as_str()).ok()
    }

    /// The same value under this cipher, if another one sealed it.
    #[must_use]
    pub(crate) fn sealed_with(&self, cipher: &Arc<CredentialCipher>) -> Self {
        match &*self.0.opened.lock() {
            Some(Opened {
                with,
                outcome: Outcome::Value(value),
            }) if !Arc::ptr_eq(with, cipher) => Self::seal(value, cipher),
            _ => self.clone(),
        }
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str()
    }
}
impl Eq for Sealed {}
