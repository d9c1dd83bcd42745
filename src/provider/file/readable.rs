//! The secrets file's document together with the key that decrypts it. Touches no file.

use std::sync::Arc;

use super::document::{Document, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::provider::source_view::SourceDocument;
use crate::provider::{KeyChange, ViewLookup};
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

    fn changes_to(&self, newer: &Self) -> Vec<KeyChange> {
        match Arc::ptr_eq(&self.document, &newer.document) {
            true => Vec::new(),
            false => self.document.changes_to(&newer.document),
        }
    }
}
