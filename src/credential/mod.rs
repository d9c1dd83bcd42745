//! Encrypts values as SimpleTuner's server does, under a key that is derived from a master secret. Does not know the files
//! that hold the encrypted values.
//!
//! Each value is a Fernet token (AES-128-CBC and HMAC-SHA256) in a second layer of base64. PBKDF2 derives the Fernet key
//! from the master secret in some hundredths of a second, so [`KeySource`] does it once per key.

mod cipher;
mod key;
mod key_file;
mod next_key;
mod rotation;

pub use cipher::{CredentialCipher, is_encrypted};
pub(crate) use cipher::{Undecryptable, key_fingerprint};
pub use key::{KEY_VARIABLE, KeySource};
pub(crate) use key_file::{MAX_KEY, master_secret};
pub(crate) use next_key::{NextKey, is_other_beside};
pub(crate) use rotation::KeyRotation;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::sync::Mutex;

/// Encrypts a text with this user's key (`SIMPLETUNER_CREDENTIAL_KEY`, else `~/.simpletuner/credential.key`, which is
/// created if it is missing). SimpleTuner's own `decrypt_credential` reads the result.
///
/// # Errors
/// [`Error::KeyUnusable`], [`Error::Settings`] without a home folder, [`Error::Io`] if the key file cannot be created.
///
/// # Examples
/// ```no_run
/// # fn main() -> simpletuner_live::error::Result<()> {
/// use simpletuner_live::credential::{decrypt_credential, encrypt_credential};
/// let stored = encrypt_credential("r8_0123456789")?;
/// assert_eq!(decrypt_credential(&stored)?.as_str(), "r8_0123456789");
/// # Ok(())
/// # }
/// ```
pub fn encrypt_credential(text: &str) -> Result<String> {
    let cipher = default_source()?.cipher_or_create()?;
    Ok(cipher.encrypt(&SecretValue::new(text)))
}

/// Decrypts what [`encrypt_credential`] or SimpleTuner's own function of that name returned. Never creates a key.
///
/// # Errors
/// [`Error::CannotDecrypt`] for a wrong key or a damaged value, [`Error::KeyUnusable`] without a key,
/// [`Error::Settings`] without a home folder.
pub fn decrypt_credential(stored: &str) -> Result<SecretValue> {
    default_source()?
        .cipher()?
        .decrypt("the credential", stored)
}

/// The source that the environment names now; kept between calls, so that its key is derived once.
fn default_source() -> Result<Arc<KeySource>> {
    static HELD: Mutex<Option<Arc<KeySource>>> = Mutex::new(None);
    let variable = match std::env::var(KEY_VARIABLE) {
        Ok(text) => Some(text),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Error::Settings(format!("{KEY_VARIABLE} is not UTF-8 text")));
        }
    };
    let has_variable = variable.as_ref().is_some_and(|text| !text.is_empty());
    let key_file = match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home).join(".simpletuner/credential.key"),
        None if has_variable => PathBuf::new(),
        None => {
            return Err(Error::Settings(format!(
                "HOME is not set, so the credential key cannot be found; set HOME or {KEY_VARIABLE}"
            )));
        }
    };
    let source = KeySource::new(variable, key_file);
    let mut held = HELD.lock();
    match &*held {
        Some(held) if held.is_same_as(&source) => Ok(held.clone()),
        _ => Ok(held.insert(Arc::new(source)).clone()),
    }
}
