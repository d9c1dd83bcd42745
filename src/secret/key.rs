//! The key that encrypts the journal: random, and only in locked memory.

use std::fmt;

use super::locked::LockedBytes;
use crate::error::{Error, Result};

/// 32 random bytes in locked memory, zeroed when dropped.
pub struct SealingKey(LockedBytes);

impl SealingKey {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// A new key.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random numbers.
    pub fn random() -> Result<Self> {
        let mut key = Self::zeroed();
        getrandom::fill(key.as_mut_bytes())
            .map_err(|e| Error::io("random numbers", std::io::Error::other(e.to_string())))?;
        Ok(key)
    }

    /// Zeros, to be overwritten with a key that is received.
    pub fn zeroed() -> Self {
        Self(LockedBytes::zeroed(Self::LEN))
    }

    /// The key.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The buffer to receive a key into.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

impl Clone for SealingKey {
    fn clone(&self) -> Self {
        Self(LockedBytes::copy_of(self.as_bytes()))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_equal_new_keys_differ_and_no_key_is_printed() {
        let key = SealingKey::random().unwrap();
        assert_eq!(key.clone().as_bytes(), key.as_bytes());
        assert_ne!(SealingKey::random().unwrap().as_bytes(), key.as_bytes());
        assert_eq!(format!("{key:?}"), "SealingKey");
    }
}
