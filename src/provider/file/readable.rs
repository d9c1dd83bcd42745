//! The secrets file's document together with the key that decrypts it. Touches no file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{Document, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::source_view::SourceDocument;
use crate::provider::{KeyChange, UndecryptableKeys, ViewLookup};
use crate::secret::{SecretName, SecretValue};

/// The credential key, as far as a reader needed it.
#[derive(Clone, Default)]
pub(super) enum Key {
    /// No reader needed it yet.
    #[default]
    Unused,
    /// A reader waits for it.
    Requested,
    Usable(Arc<CredentialCipher>),
    Unusable(Arc<Error>),
}

/// A document that readers can read.
#[derive(Clone)]
pub(super) struct Readable {
    pub(super) document: Arc<Document>,
    pub(super) key: Key,
}

/// A failure that lasts until a check finds the file or the key changed.
fn failed(error: Error) -> ViewLookup {
    ViewLookup::Failed {
        error,
        must_ask: false,
    }
}

impl SourceDocument for Readable {
    fn value(&self, name: &SecretName) -> Result<Option<SecretValue>, ViewLookup> {
        match (self.document.get(name), &self.key) {
            (None, _) => Ok(None),
            (Some(Stored::Plain(value)), _) => Ok(Some(value.clone())),
            (Some(Stored::Encrypted(_)), Key::Unused | Key::Requested) => Err(ViewLookup::Unknown),
            (Some(Stored::Encrypted(_)), Key::Unusable(error)) => Err(failed(error.duplicate())),
            (Some(Stored::Encrypted(sealed)), Key::Usable(cipher)) => {
                sealed.open(name.as_str(), cipher).map(Some).map_err(failed)
            }
        }
    }

    fn has(&self, name: &SecretName) -> bool {
        self.document.contains(name)
    }

    fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.document.names()
    }

    fn skipped(&self) -> usize {
        self.document.skipped()
    }

    fn undecryptable(&self) -> Option<Vec<UndecryptableKeys>> {
        let names = self.document.names().filter_map(|name| {
            let stored = self.document.get(name)?;
            match stored {
                Stored::Encrypted(sealed) => Some((name, sealed)),
                Stored::Plain(_) => None,
            }
        });
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, sealed) in names {
            let reason = match &self.key {
                Key::Unused | Key::Requested => return None,
                Key::Unusable(error) => error.to_string(),
                Key::Usable(cipher) => match sealed.problem(cipher) {
                    Some(problem) => problem.reason().to_owned(),
                    None => continue,
                },
            };
            by_reason.entry(reason).or_default().push(name.to_string());
        }
        let groups = by_reason.into_iter();
        Some(
            groups
                .map(|(reason, keys)| UndecryptableKeys { reason, keys })
                .collect(),
        )
    }

    fn changes_to(&self, newer: &Self) -> Vec<KeyChange> {
        let is_same_document = Arc::ptr_eq(&self.document, &newer.document);
        match (&self.key, &newer.key) {
            (Key::Usable(one), Key::Usable(other)) => {
                let is_same_key = Arc::ptr_eq(one, other);
                if is_same_document && is_same_key {
                    return Vec::new();
                }
                // A rotation of the key writes each value anew.
                let by_value = !is_same_key || one.has_key_beside();
                let is_same = |before: &Stored, after: &Stored| match (before, after) {
                    (Stored::Encrypted(before), Stored::Encrypted(after)) if by_value => {
                        match (before.reveal(one), after.reveal(other)) {
                            (None, None) => before == after,
                            (before, after) => before == after,
                        }
                    }
                    _ => before == after,
                };
                self.document.changes_to(&newer.document, is_same)
            }
            _ if is_same_document => Vec::new(),
            _ => self.document.changes_to(&newer.document, Stored::eq),
        }
    }
}
