//! Keeps what a write replaces, in the same step as the write: the file beside the store is on the disk before the store is
//! replaced.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::previous::{self, Bounds, Previous, Update};
use super::write::Replacement;
use super::{Did, Document, Sealed, Shared, Stored, key_check};
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, KeyChange};
use crate::secret::SecretName;

/// A key that an edit changed.
pub(super) struct KeyEdit {
    pub(super) key: KeyChange,
    did: Did,
    before: Option<Stored>,
    after: Option<Stored>,
}

impl KeyEdit {
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

/// Gives names their new stored values; `None` removes them. `did`: what is kept as the reason.
pub(super) fn replace(
    document: &mut Document,
    new: Vec<(&SecretName, Option<Stored>)>,
    did: Option<Did>,
    done: &mut Vec<KeyEdit>,
) {
    let mut gone = HashSet::new();
    for (name, stored) in new {
        let kind = match &stored {
            Some(_) => Did::Set,
            None => Did::Deleted,
        };
        let kind = did.clone().unwrap_or(kind);
        done.push(KeyEdit::new(document, name, stored.as_ref(), kind));
        match stored {
            Some(stored) => {
                document.set(name, stored);
                gone.remove(name);
            }
            None => drop(gone.insert(name)),
        }
    }
    if !gone.is_empty() {
        document.remove(&Vec::from_iter(gone));
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
        changes: &[KeyEdit],
    ) -> Result<Kept> {
        let keep = self.options.keep_previous;
        if keep == 0 {
            return Ok(Kept::Nothing(store.to_owned()));
        }
        let is_new = |done: &&KeyEdit| !self.is_same(done.before.as_ref(), done.after.as_ref());
        let new: Vec<&KeyEdit> = changes.iter().filter(is_new).collect();
        // Without a change of a key, only the form of the values changes.
        if new.is_empty() && !changes.is_empty() {
            return Ok(Kept::Same);
        }
        let updates = || {
            let updates = new.iter().copied().map(|done| Update {
                name: &done.key.name,
                did: &done.did,
                before: done.before.clone(),
            });
            updates.collect::<Vec<_>>()
        };
        let bounds = Bounds {
            entries: keep,
            keys: self.options.max_keys,
        };
        let seal = |stored| self.kept_form(document, stored);
        let made = Previous::read(store).and_then(|before| {
            let after = match new.is_empty() {
                true => before.sealed(seal)?,
                false => before.updated(updates(), &bounds, seal)?,
            };
            Ok((before, after))
        });
        let (before, after) = match made {
            Err(error @ Error::Malformed { .. }) => {
                Previous::set_aside(store, &error)?;
                let before = Previous::default();
                let after = before.updated(updates(), &bounds, seal)?;
                (before, after)
            }
            made => made?,
        };
        if before.is_empty() && after.is_empty() {
            return Ok(Kept::Same);
        }
        Ok(Kept::New {
            replacement: after.prepare(store)?,
            store: store.to_owned(),
            before,
        })
    }

    /// A value that was plain is kept encrypted if values are, and the key at hand is that of the document.
    fn kept_form(&self, document: &Document, stored: Stored) -> Stored {
        let Stored::Plain(value) = &stored else {
            return stored;
        };
        match self.options.key.cipher_if_present() {
            Ok(Some(cipher))
                if self.options.encrypt && key_check::misfit(document, Some(&cipher)).is_none() =>
            {
                Stored::Encrypted(Sealed::seal(value, &cipher))
            }
            _ => stored,
        }
    }
}
