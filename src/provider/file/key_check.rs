//! Whether the credential key at hand fits a secrets file, so that no file gets values of two keys. Touches no secrets file.

use std::path::Path;
use std::sync::Arc;

use super::{Document, Sealed, Stored};
use crate::credential::{CredentialCipher, KeySource, Undecryptable};
use crate::error::{Error, Result};

/// The cipher with which values of this document are encrypted. A key is created only if the document has no encrypted
/// value, because a new key could not decrypt it.
///
/// One value that the key decrypts is enough: then it is the file's key, and what it cannot decrypt is damaged, or was copied
/// from elsewhere. Refusing to write because of such a value would only make it harder to set it anew.
///
/// # Errors
/// [`Error::KeyUnusable`] if there is no key, or the key decrypts none of the values.
pub(crate) fn cipher_for(
    document: &Document,
    key: &KeySource,
    store: &Path,
) -> Result<Arc<CredentialCipher>> {
    let cipher = key.cipher_if_present()?;
    match misfit(document, cipher.as_ref()) {
        None => cipher.map_or_else(|| key.cipher_or_create(), Ok),
        Some(misfit) => Err(misfit.error(key, store)),
    }
}

/// Why nothing may be encrypted with a key.
pub(super) struct Misfit {
    has_key: bool,
    encrypted: usize,
}

impl Misfit {
    pub(super) fn error(&self, key: &KeySource, store: &Path) -> Error {
        let (store, count) = (store.display(), self.encrypted);
        let reason = match self.has_key {
            true => format!(
                "it decrypts none of the encrypted values in {store} ({count}), so nothing is encrypted with it there; restore \
                 the key that they were encrypted with, or remove them first (`simpletuner-live rm KEY`)"
            ),
            false => format!(
                "there is no such file, and the encrypted values in {store} ({count}) need it, so no new key is made; restore \
                 the key there, or set {}, or remove them first (`simpletuner-live rm KEY`)",
                crate::credential::KEY_VARIABLE
            ),
        };
        Error::KeyUnusable {
            path: key.describe().into(),
            reason,
        }
    }
}

/// Why nothing may be encrypted with this key (`None`: there is no key) in this document; `None`: it may.
pub(super) fn misfit(
    document: &Document,
    cipher: Option<&Arc<CredentialCipher>>,
) -> Option<Misfit> {
    let mut others = 0;
    for sealed in document.encrypted() {
        match cipher.map(|cipher| sealed.problem(cipher)) {
            // One that is of this key.
            Some(None | Some(Undecryptable::NotText)) => return None,
            // One that says nothing of the key.
            Some(Some(Undecryptable::Damaged)) => {}
            Some(Some(Undecryptable::OtherKey)) | None => others += 1,
        }
    }
    (others > 0).then_some(Misfit {
        has_key: cipher.is_some(),
        encrypted: others,
    })
}

impl Document {
    /// Its encrypted values.
    pub(crate) fn encrypted(&self) -> impl Iterator<Item = &Sealed> {
        let stored = self.names().filter_map(|name| self.get(name));
        stored.filter_map(|stored| match stored {
            Stored::Encrypted(sealed) => Some(sealed),
            Stored::Plain(_) => None,
        })
    }

    /// Encrypts the values that are plain; returns how many.
    ///
    /// # Errors
    /// As for [`cipher_for`].
    pub(crate) fn encrypt_plain(&mut self, key: &KeySource, store: &Path) -> Result<usize> {
        let is_plain = |stored: &Stored| matches!(stored, Stored::Plain(_));
        if !self.names().filter_map(|name| self.get(name)).any(is_plain) {
            return Ok(0);
        }
        let cipher = cipher_for(self, key, store)?;
        self.replace_each(|_, stored| {
            Ok(match stored {
                Stored::Plain(value) => Some(Stored::Encrypted(Sealed::seal(value, &cipher))),
                Stored::Encrypted(_) => None,
            })
        })
    }
}
