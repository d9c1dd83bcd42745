//! Writes the encrypted values of the secrets file in plain text. Knows no path.

use std::sync::Arc;

use super::document::looks_encrypted;
use super::{Document, Shared, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::Decrypted;

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
        let error = match sealed.open(name.as_str(), cipher) {
            Ok(value) if looks_encrypted(value.as_str()) => Error::Malformed {
                what: name.to_string(),
                reason: "its plain text would be taken for an encrypted value".to_owned(),
            },
            Ok(value) => {
                result.names.push(name.clone());
                return Ok(Some(Stored::Plain(value.without_newline())));
            }
            Err(error) => error,
        };
        result.failed.push((name.clone(), error));
        Ok(None)
    })?;
    Ok(result)
}
