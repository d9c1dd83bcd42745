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

/// What was there, and what was written, value by value.
struct Comparison {
    /// Whether all that is not encrypted is the same.
    is_same: bool,
    encrypted: Vec<(Sealed, Sealed)>,
}

impl Comparison {
    fn new(is_same: bool) -> Self {
        Self {
            is_same,
            encrypted: Vec::new(),
        }
    }

    fn add(&mut self, before: Option<&Stored>, after: Option<&Stored>) {
        match (before, after) {
            (Some(Stored::Encrypted(before)), Some(Stored::Encrypted(after))) => {
                self.encrypted.push((before.clone(), after.clone()));
            }
            (before, after) => self.is_same &= before == after,
        }
    }

    /// Decrypts the values of both. `written`: for the error, if one is another.
    fn end(self, written: &Path, rotation: &KeyRotation, done: &AtomicUsize) -> Result<()> {
        let is_same = |(before, after): &(Sealed, Sealed)| {
            done.fetch_add(1, Ordering::Relaxed);
            match before.reveal(&rotation.old) {
                Some(value) => after.reveal(&rotation.new) == Some(value),
                // What cannot be decrypted stays as it is.
                None => before == after,
            }
        };
        let all_same = || {
            on_all_processors(&self.encrypted, is_same)
                .into_iter()
                .all(|same| same)
        };
        match self.is_same && all_same() {
            true => Ok(()),
            false => Err(unreadable(
                written,
                "it does not decrypt to the same values",
            )),
        }
    }
}

/// Reads what was written, and decrypts it.
pub(super) fn check_store(
    before: &Document,
    path: &Path,
    written: &Replacement,
    rotation: &KeyRotation,
    done: &AtomicUsize,
) -> Result<()> {
    let content = read_file(written.temporary(), MAX_DOCUMENT)
        .map_err(|_| unreadable(written.temporary(), "it cannot be read again"))?;
    let after = parse_document(is_yaml(path), &content.bytes)?;
    let has_same_names = before.len() == after.len() && before.names().eq(after.names());
    let mut comparison = Comparison::new(has_same_names);
    for name in before.names() {
        comparison.add(before.get(name), after.get(name));
    }
    comparison.end(written.temporary(), rotation, done)
}

/// The same for what is kept beside it.
pub(super) fn check_previous(
    contents: &Contents,
    written: &Replacement,
    rotation: &KeyRotation,
    done: &AtomicUsize,
) -> Result<()> {
    let after = Previous::read_at(written.temporary())?;
    let (before, after) = (contents.previous.all()?, after.all()?);
    let mut comparison = Comparison::new(before.keys().eq(after.keys()));
    for (before, after) in before.values().zip(after.values()) {
        comparison.is_same &=
            before.entries.len() == after.entries.len() && before.dropped == after.dropped;
        for (before, after) in before.entries.iter().zip(&after.entries) {
            comparison.is_same &= before.at == after.at && before.did == after.did;
            comparison.add(before.before.as_ref(), after.before.as_ref());
        }
    }
    comparison.end(written.temporary(), rotation, done)
}
