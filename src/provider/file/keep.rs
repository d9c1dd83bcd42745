//! Keeps what a write replaces, in the same step as the write: the file beside the store is on the disk before the store is
//! replaced.

use std::path::{Path, PathBuf};

use super::previous::{self, Previous};
use super::write::Replacement;
use super::{Did, Document, Sealed, Shared, Stored, key_check};
use crate::error::Result;
use crate::provider::{ChangeKind, KeyChange};
use crate::secret::SecretName;

/// A key that an edit changed.
pub(super) struct Done {
    pub(super) key: KeyChange,
    did: Did,
    before: Option<Stored>,
    after: Option<Stored>,
}

impl Done {
    /// `document`: as it was before the change.
    pub(super) fn new(
        document: &Document,
        name: &SecretName,
        after: Option<&Stored>,
        did: Did,
    ) -> Self {
        Self {
            key: KeyChange {
                name: name.clone(),
                kind: match after {
                    Some(_) => ChangeKind::Set,
                    None => ChangeKind::Deleted,
                },
            },
            did,
            before: document.get(name).cloned(),
            after: after.cloned(),
        }
    }
}

/// What is kept, ready to be put in place.
pub(super) enum Kept {
    /// Nothing changes.
    Same,
    /// Nothing is to be kept any more, beside this store.
    Nothing(PathBuf),
    New {
        store: PathBuf,
        /// What was kept before this write.
        before: Previous,
        replacement: Replacement,
    },
}

/// What is in place.
pub(super) struct Replaced(Option<(PathBuf, Previous)>);

impl Kept {
    pub(super) fn put_in_place(self) -> Result<Replaced> {
        match self {
            Kept::Same => Ok(Replaced(None)),
            Kept::Nothing(store) => {
                previous::remove(&store)?;
                Ok(Replaced(None))
            }
            Kept::New {
                store,
                before,
                replacement,
            } => {
                replacement.commit()?;
                Ok(Replaced(Some((store, before))))
            }
        }
    }
}

impl Replaced {
    /// The write failed, so nothing has changed.
    pub(super) fn take_back(self) {
        if let Some((store, before)) = self.0 {
            let taken_back = before.prepare(&store).and_then(Replacement::commit);
            if let Err(error) = taken_back {
                tracing::warn!("{error}");
            }
        }
    }
}

impl Shared {
    /// Writes what these changes replace to the disk. `document`: as it will be.
    pub(super) fn prepare_previous(
        &self,
        store: &Path,
        document: &Document,
        changes: &[Done],
    ) -> Result<Kept> {
        let keep = self.options.keep_previous;
        if keep == 0 {
            return Ok(Kept::Nothing(store.to_owned()));
        }
        let is_new = |done: &&Done| !self.is_same(done.before.as_ref(), done.after.as_ref());
        let new: Vec<&Done> = changes.iter().filter(is_new).collect();
        // Without a change of a key, only the form of the values changes.
        if new.is_empty() && !changes.is_empty() {
            return Ok(Kept::Same);
        }
        let before = Previous::read_to_write(store)?;
        let mut previous = before.clone();
        for done in &new {
            previous.record(&done.key.name, done.did.clone(), done.before.clone());
        }
        previous.bound(keep, self.options.max_keys);
        let is_encrypted = self.options.encrypt && self.encrypt_kept(document, &mut previous);
        if new.is_empty() && !is_encrypted {
            return Ok(Kept::Same);
        }
        Ok(Kept::New {
            replacement: previous.prepare(store)?,
            store: store.to_owned(),
            before,
        })
    }

    /// Encrypts values that are kept as plain text, if the key at hand is that of the document; returns whether there were any.
    fn encrypt_kept(&self, document: &Document, previous: &mut Previous) -> bool {
        let mut plain = previous.plain().peekable();
        if plain.peek().is_none() {
            return false;
        }
        let Ok(Some(cipher)) = self.options.key.cipher_if_present() else {
            return false;
        };
        if key_check::misfit(document, Some(&cipher)).is_some() {
            return false;
        }
        for stored in plain {
            if let Stored::Plain(value) = stored {
                *stored = Stored::Encrypted(Sealed::seal(value, &cipher));
            }
        }
        true
    }
}
