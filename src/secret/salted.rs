//! Hashes by which two processes can see whether they have the same text, without revealing it.

use ring::digest::{SHA256, digest};

/// A new salt.
pub(crate) fn new_salt() -> String {
    let mut salt = [0; 16];
    // Without random numbers, the salt is only weaker.
    let _ = getrandom::fill(&mut salt);
    hex(&salt)
}

/// The hash of these parts: 128 bits in hexadecimal.
pub(crate) fn salted_hash(salt: &str, parts: &[&[u8]]) -> String {
    let mut bytes = zeroize::Zeroizing::new(salt.as_bytes().to_vec());
    // Reserved at once, because a buffer that grows leaves copies behind.
    bytes.reserve_exact(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        bytes.push(0);
        bytes.extend_from_slice(part);
    }
    hex(&digest(&SHA256, &bytes).as_ref()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
