//! Applies edits to a document of the secrets file: values are sealed, and checked before anything changes. Knows no file.

use std::collections::HashMap;
use std::path::Path;

use super::keep::{KeyEdit, replace};
use super::write_queue::{Edit, NewValue};
use super::{Did, Document, Shared, Stored};
use crate::error::{Error, Result};
use crate::secret::SecretName;

impl Shared {
    /// Applies one edit to the document, or fails and changes nothing; appends the changes to `done`.
    pub(super) fn apply(
        &self,
        document: &mut Document,
        path: &Path,
        edit: &Edit,
        done: &mut Vec<KeyEdit>,
    ) -> Result<()> {
        let missing = |name: &SecretName| Error::NotFound {
            name: name.to_string(),
        };
        match edit {
            Edit::Changes(changes) => {
                // Validated before the document changes: whether each name exists after this edit.
                let mut is_there: HashMap<&SecretName, bool> = HashMap::new();
                let mut sealed = Vec::with_capacity(changes.len());
                for (name, new) in changes {
                    let known = is_there.get(name).copied();
                    if new.is_none() && !known.unwrap_or_else(|| document.contains(name)) {
                        return Err(missing(name));
                    }
                    is_there.insert(name, new.is_some());
                    let stored = match new {
                        Some(NewValue::Sealed(Stored::Encrypted(sealed))) => {
                            let cipher = self.cipher_for(document, path)?;
                            Some(Stored::Encrypted(sealed.sealed_with(&cipher)))
                        }
                        Some(NewValue::Sealed(plain)) => Some(plain.clone()),
                        Some(NewValue::Value(value)) => {
                            Some(self.seal(value, || self.cipher_for(document, path))?)
                        }
                        None => None,
                    };
                    sealed.push((name, stored));
                }
                self.check_room(document, &is_there)?;
                replace(document, sealed, None, done);
            }
            Edit::Undo(planned) => {
                let kept = self.check_planned(planned)?;
                let mut restored = Vec::with_capacity(planned.len());
                for (undo, to) in planned.iter().zip(&kept) {
                    let stored = match to {
                        Some(kept) => {
                            Some(self.restored(kept, || self.cipher_for(document, path))?)
                        }
                        None => None,
                    };
                    if stored.is_some() || document.contains(&undo.name) {
                        restored.push((&undo.name, stored));
                    }
                }
                let is_there = restored.iter().map(|(name, to)| (*name, to.is_some()));
                self.check_room(document, &is_there.collect())?;
                replace(document, restored, Some(Did::Undone), done);
            }
            Edit::Rename(from, to) => {
                let stored = document.get(from).cloned().ok_or_else(|| missing(from))?;
                if from != to {
                    done.push(KeyEdit::new(
                        document,
                        from,
                        None,
                        Did::RenamedTo(to.clone()),
                    ));
                    let did = Did::RenamedFrom(from.clone());
                    done.push(KeyEdit::new(document, to, Some(&stored), did));
                    document.remove(&[from]);
                    document.set(to, stored);
                }
            }
        }
        Ok(())
    }

    /// Refuses an edit that adds keys to a file that would then be too large to be read. `is_there`: its names, and whether
    /// they exist afterwards.
    pub(super) fn check_room(
        &self,
        document: &Document,
        is_there: &HashMap<&SecretName, bool>,
    ) -> Result<()> {
        let new = |(name, is_there): &(&&SecretName, &bool)| **is_there && !document.contains(name);
        let gone =
            |(name, is_there): &(&&SecretName, &bool)| !**is_there && document.contains(name);
        let (new, gone) = (
            is_there.iter().filter(new).count(),
            is_there.iter().filter(gone).count(),
        );
        let max_keys = self.options.max_keys;
        let count = (document.len() + new).saturating_sub(gone);
        if new > gone && count > max_keys {
            return Err(Error::io(
                format!(
                    "the secrets file would have {count} keys, and the setting max_keys allows {max_keys}"
                ),
                rustix::io::Errno::NOSPC,
            ));
        }
        Ok(())
    }
}
