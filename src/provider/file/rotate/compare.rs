//! Reads what a rotation of the key has written, before it takes its place: it must decrypt to the same values. Replaces nothing.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Contents;
use crate::credential::KeyRotation;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::provider::file::document::{Sealed, Stored, parse_document};
use crate::provider::file::location::is_yaml;
use crate::provider::file::previous::Previous;
use crate::provider::file::write::Replacement;
use crate::provider::file::{Document, MAX_DOCUMENT};
use crate::sync::on_all_processors;

fn unreadable(what: &Path, reason: &str) -> Error {
    Error::Malformed {
        what: what.display().to_string(),
        reason: format!("{reason}, so nothing is replaced"),
    }
}

/// Whether each value is the same in both forms.
fn all_same(pairs: &[(Sealed, Sealed)], rotation: &KeyRotation, done: &AtomicUsize) -> bool {
    let is_same = |(before, after): &(Sealed, Sealed)| {
        done.fetch_add(1, Ordering::Relaxed);
        match before.reveal(&rotation.old) {
            Some(value) => after.reveal(&rotation.new) == Some(value),
            // What cannot be decrypted stays as it is.
            None => before == after,
        }
    };
    on_all_processors(pairs, is_same)
        .into_iter()
        .all(|same| same)
}

/// Reads what was written, and decrypts it.
pub(super) fn check_store(
    before: &Document,
    path: &Path,
    written: &Replacement,
    rotation: &KeyRotation,
    done: &AtomicUsize,
) -> Result<()> {
    let wrong = |reason: &str| unreadable(written.temporary(), reason);
    let content = read_file(written.temporary(), MAX_DOCUMENT)
        .map_err(|_| wrong("it cannot be read again"))?;
    let after = parse_document(is_yaml(path), &content.bytes)?;
    let mut pairs = Vec::new();
    let mut is_same = before.len() == after.len() && before.names().eq(after.names());
    for name in before.names() {
        match (before.get(name), after.get(name)) {
            (Some(Stored::Encrypted(before)), Some(Stored::Encrypted(after))) => {
                pairs.push((before.clone(), after.clone()));
            }
            (before, after) => is_same &= before == after,
        }
    }
    match is_same && all_same(&pairs, rotation, done) {
        true => Ok(()),
        false => Err(wrong("it does not decrypt to the same values")),
    }
}

/// The same for what is kept beside it.
pub(super) fn check_previous(
    contents: &Contents,
    written: &Replacement,
    rotation: &KeyRotation,
    done: &AtomicUsize,
) -> Result<()> {
    let wrong = |reason: &str| unreadable(written.temporary(), reason);
    let after = Previous::read_at(written.temporary())?;
    let (before, after) = (contents.previous.all()?, after.all()?);
    let mut pairs = Vec::new();
    let mut is_same = before.keys().eq(after.keys());
    for (before, after) in before.values().zip(after.values()) {
        is_same &= before.entries.len() == after.entries.len() && before.dropped == after.dropped;
        for (before, after) in before.entries.iter().zip(&after.entries) {
            is_same &= before.at == after.at && before.did == after.did;
            match (&before.before, &after.before) {
                (Some(Stored::Encrypted(before)), Some(Stored::Encrypted(after))) => {
                    pairs.push((before.clone(), after.clone()));
                }
                (before, after) => is_same &= before == after,
            }
        }
    }
    match is_same && all_same(&pairs, rotation, done) {
        true => Ok(()),
        false => Err(wrong("it does not decrypt to the same values")),
    }
}
