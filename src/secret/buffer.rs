//! A value while a program writes it: a growing buffer in locked memory, zeroed when dropped or moved.

use std::fmt;

use super::SecretValue;
use super::locked::LockedBytes;
use crate::error::{Error, Result};

/// Bytes that can be written at any offset, as in a file.
pub struct SecretBuffer(LockedBytes);

impl SecretBuffer {
    /// A buffer that begins with a copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(LockedBytes::copy_of(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at `offset`, and fills a gap before it with zeros.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len());
        if end > self.len() {
            self.set_len(end);
        }
        self.0.as_mut_slice()[offset..end].copy_from_slice(bytes);
    }

    /// Truncates it or fills it with zeros to `len` bytes.
    pub fn set_len(&mut self, len: usize) {
        self.0.resize(len);
    }

    /// The bytes as a value.
    ///
    /// # Errors
    /// [`Error::NotUtf8`] with `name`.
    pub fn to_value(&self, name: &str) -> Result<SecretValue, Error> {
        SecretValue::from_bytes(name, self.as_bytes())
    }
}

impl fmt::Debug for SecretBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBuffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_shrinks_and_fills_gaps_with_zeros_as_a_file_does() {
        let mut buffer = SecretBuffer::new(b"abc");
        buffer.write_at(5, b"z");
        assert_eq!(buffer.as_bytes(), b"abc\0\0z");
        buffer.set_len(2);
        buffer.set_len(4);
        assert_eq!(buffer.as_bytes(), b"ab\0\0");
        let long = vec![b'x'; 200_000];
        buffer.write_at(1, &long);
        assert_eq!(buffer.len(), 200_001);
        assert_eq!(&buffer.as_bytes()[..3], b"axx");
    }
}
