//! Writes the encrypted values of the secrets file in plain text. Knows no path.

use std::sync::Arc;

use super::document::looks_encrypted;
use super::{Document, Sealed, Shared, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::Decrypted;
use crate::secret::SecretName;

impl Shared {
    pub(super) fn decrypt_all(&self, dry_run: bool) -> Result<Decrypted> {
        let found = self.read_now().loaded?.document;
        if found.encrypted().next().is_none() {
            return Ok(Decrypted::default());
        }
        let cipher = self.options.key.cipher()?;
        if dry_run {
            return decrypt(&mut (*found).clone(), &cipher);
        }
        let mut result = Decrypted::default();
        self.edit(|document, _| {
            result = decrypt(document, &cipher)?;
            Ok((!result.names.is_empty()).then(Vec::new))
        })?;
        Ok(result)
    }
}

/// Makes each encrypted value plain that this cipher opens, without the newline of a single line: SimpleTuner reads plain values
/// as they are stored.
fn decrypt(document: &mut Document, cipher: &Arc<CredentialCipher>) -> Result<Decrypted> {
    let mut result = Decrypted::default();
    document.replace_each(|name, stored| {
        let Stored::Encrypted(sealed) = stored else {
            return Ok(None);
        };
        match in_plain_text(name, sealed, cipher) {
            Ok(plain) => {
                result.names.push(name.clone());
                Ok(Some(plain))
            }
            Err(error) => {
                result.failed.push((name.clone(), error));
                Ok(None)
            }
        }
    })?;
    Ok(result)
}

/// What is stored for a value in plain text.
///
/// # Errors
/// [`Error::CannotDecrypt`]; [`Error::Malformed`] if the text would be taken for an encrypted value.
pub(crate) fn in_plain_text(
    name: &SecretName,
    sealed: &Sealed,
    cipher: &Arc<CredentialCipher>,
) -> Result<Stored> {
    let value = sealed.open(name.as_str(), cipher)?;
    if looks_encrypted(value.as_str()) {
        return Err(Error::Malformed {
            what: name.to_string(),
            reason: format!(
                "its plain text would be taken for an encrypted value; keep it elsewhere (`simpletuner-live get {name}` prints it), \
                 and remove it by `simpletuner-live rm {name}`"
            ),
        });
    }
    Ok(Stored::Plain(value.without_newline()))
}
