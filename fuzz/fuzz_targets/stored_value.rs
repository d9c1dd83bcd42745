//! Stored values: whatever lies in the secrets file is decrypted or refused, and what was encrypted comes back.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use simpletuner_live::credential::{CredentialCipher, is_encrypted};
use simpletuner_live::secret::SecretValue;

// Derived once: with PBKDF2 in each round there would be twenty rounds a second.
static CIPHER: LazyLock<CredentialCipher> = LazyLock::new(|| CredentialCipher::derive("fuzz"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = is_encrypted(text);
    let _ = CIPHER.decrypt("KEY", text);

    let value = SecretValue::new(text);
    let stored = CIPHER.encrypt(&value);
    assert!(is_encrypted(&stored));
    assert!(CIPHER.decrypt("KEY", &stored).is_ok_and(|read| read == value));
});
