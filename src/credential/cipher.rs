//! PBKDF2 and Fernet, combined as SimpleTuner does. Does not know where the master secret comes from.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use fernet::Fernet;
use pbkdf2::{Algorithm, Params, pbkdf2_hmac_with_params};
use ring::hmac;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::secret::SecretValue;

// SimpleTuner's constants; with others, its server could not decrypt the values.
const SALT: &[u8] = b"simpletuner-credential-encryption-v1";
const ITERATIONS: u32 = 100_000;

/// Every encrypted value begins with it: base64 of `gAAAAA`, with which every Fernet token begins (its version byte and the
/// high bytes of its time).
const PREFIX: &str = "Z0FBQUFB";

/// The bytes of a token beside the ciphertext: version, time, IV and HMAC.
const TOKEN_FRAME: usize = 1 + 8 + 16 + 32;
/// AES encrypts whole blocks.
const BLOCK: usize = 16;

/// Whether a stored text is encrypted (it begins with `Z0FBQUFB`) or plain. A token that is damaged at its front still
/// counts as encrypted, so that nobody gets the ciphertext for the value.
pub fn is_encrypted(stored: &str) -> bool {
    let stored = stored.trim();
    stored.starts_with(PREFIX) || is_damaged_token(stored)
}

/// Whether the text has the form of an encrypted value, but its first characters were changed, lost or added to: half of
/// the prefix is there, and the rest is what base64 makes of a token.
fn is_damaged_token(stored: &str) -> bool {
    const LENGTH: usize = PREFIX.len();
    // Once, because every plain value of a store is looked at.
    let mut front = ['\0'; 2 * LENGTH];
    for (place, c) in front.iter_mut().zip(stored.chars()) {
        *place = c;
    }
    let half = LENGTH as isize / 2;
    (-half..=LENGTH as isize).any(|added| {
        let mut same = 0;
        for (at, byte) in PREFIX.bytes().enumerate() {
            let there = at.checked_add_signed(added).and_then(|at| front.get(at));
            same += usize::from(there == Some(&char::from(byte)));
        }
        same >= LENGTH / 2 && {
            let rest = LENGTH.checked_add_signed(added);
            let rest = rest.and_then(|rest| stored.char_indices().nth(rest));
            rest.is_some_and(|(at, _)| is_rest_of_token(&stored[at..]))
        }
    })
}

fn is_rest_of_token(rest: &str) -> bool {
    let whole = Zeroizing::new(format!("{PREFIX}{rest}"));
    let token = URL_SAFE.decode(&*whole).map(Zeroizing::new);
    let token = token.and_then(|token| URL_SAFE.decode(&*token));
    token.is_ok_and(|token| {
        let ciphertext = token.len().checked_sub(TOKEN_FRAME);
        ciphertext.is_some_and(|length| length > 0 && length.is_multiple_of(BLOCK))
    })
}

/// Encrypts and decrypts values under one derived key, which is zeroed when it is dropped. While a rotation of the key is under
/// way, it decrypts under the key beside, too.
pub struct CredentialCipher {
    pub(super) key: Arc<Fernet>,
    pub(super) beside: Option<Arc<Fernet>>,
}

impl fmt::Debug for CredentialCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialCipher")
    }
}

/// Derives the Fernet key (URL-safe base64 with padding) from a master secret.
fn fernet_key(master_secret: &str) -> Zeroizing<String> {
    let Ok(params) = Params::new(ITERATIONS) else {
        unreachable!("so many iterations are allowed");
    };
    let mut key = Zeroizing::new([0u8; 32]);
    let (secret, hmac_sha256) = (master_secret.as_bytes(), Algorithm::Pbkdf2Sha256);
    pbkdf2_hmac_with_params(secret, SALT, hmac_sha256, params, &mut *key);
    Zeroizing::new(URL_SAFE.encode(key.as_slice()))
}

/// Shows which key is derived from a master secret. It helps nobody to guess the secret: each guess takes as long as with an encrypted
/// value. Derives the key anew.
pub(crate) fn key_fingerprint(master_secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, fernet_key(master_secret).as_bytes());
    let tag = hmac::sign(&key, b"simpletuner-live key fingerprint");
    let first = &tag.as_ref()[..8];
    first.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn derive(master_secret: &str) -> Arc<Fernet> {
    let Some(fernet) = Fernet::new(&fernet_key(master_secret)) else {
        unreachable!("32 bytes in base64 are a Fernet key");
    };
    Arc::new(fernet)
}

impl CredentialCipher {
    /// Derives the key from a master secret. Takes 100,000 rounds of PBKDF2, so keep the result.
    pub fn derive(master_secret: &str) -> Self {
        Self {
            key: derive(master_secret),
            beside: None,
        }
    }

    /// Whether it decrypts under a second key, too.
    pub(crate) fn has_key_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// The same without the second key.
    pub(crate) fn without_key_beside(&self) -> Arc<Self> {
        Arc::new(Self {
            key: self.key.clone(),
            beside: None,
        })
    }

    /// Encrypts a value to its stored form, which [`is_encrypted`] recognizes.
    pub fn encrypt(&self, value: &SecretValue) -> String {
        // `Fernet::encrypt` panics on a clock before 1970.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.encrypt_at(value, now)
    }

    fn encrypt_at(&self, value: &SecretValue, seconds: u64) -> String {
        URL_SAFE.encode(self.key.encrypt_at_time(value.as_bytes(), seconds))
    }

    /// Decrypts a stored value of any age; `name` is for the error.
    ///
    /// # Errors
    /// [`Error::CannotDecrypt`]: it was encrypted with another key, or is damaged.
    pub fn decrypt(&self, name: &str, stored: &str) -> Result<SecretValue> {
        self.try_decrypt(stored).map_err(|why| why.error(name))
    }

    /// Decrypts a stored value of any age.
    pub(crate) fn try_decrypt(&self, stored: &str) -> Result<SecretValue, Undecryptable> {
        let damaged = Undecryptable::Damaged;
        let token = URL_SAFE.decode(stored.trim()).map_err(|_| damaged)?;
        let token = std::str::from_utf8(&token).map_err(|_| damaged)?;
        // With the largest time, no token is from the future. Python's Fernet ignores the time without a limit, so a value
        // that was encrypted under a fast clock must be readable here, too.
        let decrypt = |key: &Fernet| key.decrypt_at_time(token, None, u64::MAX - 60);
        let text = decrypt(&self.key)
            .or_else(|error| self.beside.as_deref().map_or(Err(error), decrypt))
            .map(Zeroizing::new)
            .map_err(|_| Undecryptable::OtherKey)?;
        SecretValue::from_bytes("", &text).map_err(|_| Undecryptable::NotText)
    }
}

/// Why a stored value cannot be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Undecryptable {
    /// It is no token at all, whatever the key.
    Damaged,
    /// Its signature is not of this key, or it was changed.
    OtherKey,
    /// It is of this key, and is no text.
    NotText,
}

impl Undecryptable {
    /// The reason, for people.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Undecryptable::Damaged => {
                "the stored value is damaged; restore it from a backup, or set it again"
            }
            Undecryptable::OtherKey => {
                "it was encrypted with another credential key, or is damaged; restore that key, or set the value again"
            }
            Undecryptable::NotText => "what it decrypts to is not UTF-8 text",
        }
    }

    pub(crate) fn error(self, name: &str) -> Error {
        Error::CannotDecrypt {
            name: name.into(),
            reason: self.reason().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static CIPHER: LazyLock<CredentialCipher> =
        LazyLock::new(|| CredentialCipher::derive("correct horse battery staple"));

    #[derive(serde::Deserialize)]
    struct Vector {
        master_secret: String,
        derived_key: String,
        plaintext: String,
        stored: String,
    }

    #[test]
    fn values_that_simpletuner_encrypted_are_decrypted_and_the_reverse() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../tests/vectors/credential.json")).unwrap();
        assert!(!vectors.is_empty());
        for vector in vectors {
            assert_eq!(*fernet_key(&vector.master_secret), vector.derived_key);
            assert!(is_encrypted(&vector.stored));
            let cipher = CredentialCipher::derive(&vector.master_secret);
            let value = cipher.decrypt("K", &vector.stored).unwrap();
            assert_eq!(value.as_str(), vector.plaintext);

            // And back: Fernet itself, without our code, under the key that Python derived.
            let ours = cipher.encrypt(&value);
            let token = String::from_utf8(URL_SAFE.decode(&ours).unwrap()).unwrap();
            let theirs = Fernet::new(&vector.derived_key).unwrap();
            assert_eq!(theirs.decrypt(&token).unwrap(), vector.plaintext.as_bytes());
        }
    }

    #[test]
    fn the_error_for_another_key_or_damage_does_not_contain_the_value() {
        let stored = CIPHER.encrypt(&SecretValue::new("hunter2"));
        let other = CredentialCipher::derive("another");
        let error = other.decrypt("HF_TOKEN", &stored).unwrap_err();
        assert_eq!(error.errno(), libc::EKEYREJECTED);
        let text = format!("{error} {error:?}");
        assert!(text.contains("HF_TOKEN") && !text.contains("hunter2") && !text.contains(&stored));

        for damaged in [
            "",
            "Z0FBQUFB",
            "not base64!",
            &stored[..stored.len() - 8],
            &stored[8..],
            &format!("{stored}AAAA"),
            &stored.replacen("Z0FBQUFB", "Z0FBQUFC", 1),
        ] {
            assert!(
                matches!(
                    CIPHER.decrypt("K", damaged),
                    Err(Error::CannotDecrypt { .. })
                ),
                "{damaged}"
            );
        }
    }

    #[test]
    fn a_token_that_is_damaged_at_its_front_is_not_taken_for_a_plain_value() {
        for value in ["", "hunter2", &"x".repeat(5000)] {
            let stored = CIPHER.encrypt(&SecretValue::new(value));
            let mut damaged = vec![
                format!("x{stored}"),
                format!("\u{feff}{stored}"),
                stored[1..].to_owned(),
                stored[4..].to_owned(),
            ];
            for at in 0..PREFIX.len() {
                for new in ["1", "z", " ", "ä"] {
                    let mut changed = stored.clone();
                    changed.replace_range(at..=at, new);
                    damaged.push(changed);
                }
            }
            for damaged in damaged {
                assert!(is_encrypted(&damaged), "{damaged}");
            }
            let spaced = format!(" {stored}\n");
            assert!(is_encrypted(&spaced));
            assert_eq!(CIPHER.decrypt("K", &spaced).unwrap().as_str(), value);
        }
    }

    #[test]
    fn a_plain_value_is_not_taken_for_a_damaged_token() {
        let twice = |bytes: &[u8]| URL_SAFE.encode(URL_SAFE.encode(bytes));
        let jwt = format!("{}.{}", URL_SAFE.encode([7; 90]), URL_SAFE.encode([8; 90]));
        let long = "Z0FBQUEq".repeat(40);
        for plain in [
            "",
            "Z0FBQUE",
            "Z0FBQUExxxxx",
            &twice(&[7; 73]),
            &twice(&[0x80; 73]),
            &URL_SAFE.encode([0; 300]),
            &jwt,
            &long,
        ] {
            assert!(!is_encrypted(plain), "{plain}");
        }
    }

    #[test]
    fn the_age_of_a_token_does_not_matter() {
        let value = SecretValue::new("v");
        let year_3871 = 60_000_000_000;
        for seconds in [0, 1, year_3871] {
            let stored = CIPHER.encrypt_at(&value, seconds);
            assert!(is_encrypted(&stored));
            assert_eq!(CIPHER.decrypt("K", &stored).unwrap(), value);
        }
    }

    #[test]
    fn every_byte_of_a_token_is_authenticated() {
        let stored = CIPHER.encrypt(&SecretValue::new("hunter2"));
        let token = String::from_utf8(URL_SAFE.decode(&stored).unwrap()).unwrap();
        let bytes = URL_SAFE.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE.encode(URL_SAFE.encode(changed));
            assert!(CIPHER.decrypt("K", &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_token_whose_content_is_not_utf8_is_refused() {
        let stored = URL_SAFE.encode(CIPHER.key.encrypt(b"\xff\xfe"));
        assert!(matches!(
            CIPHER.decrypt("K", &stored),
            Err(Error::CannotDecrypt { .. })
        ));
    }

    proptest! {
        #[test]
        fn every_text_survives_encryption_and_decryption(text in any::<String>()) {
            let value = SecretValue::new(&text);
            let stored = CIPHER.encrypt(&value);
            prop_assert!(is_encrypted(&stored));
            prop_assert_eq!(CIPHER.decrypt("K", &stored).unwrap(), value);
        }

        // A change may be harmless (a lost padding character), but must never decrypt to another value.
        #[test]
        fn a_changed_token_never_decrypts_to_another_value(at in any::<proptest::sample::Index>(), to in any::<char>()) {
            let value = SecretValue::new("some value of a key");
            let mut changed = CIPHER.encrypt(&value);
            let at = at.index(changed.len());
            changed.replace_range(at..=at, &to.to_string());
            if let Ok(read) = CIPHER.decrypt("K", &changed) {
                prop_assert_eq!(read, value);
            }
        }
    }
}
