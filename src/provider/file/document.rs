//! The secrets file as a document. Edits keep the order and the unknown entries. Knows no path and no key.

mod parse;
mod render;
mod stored;

use std::collections::BTreeMap;

use serde_yaml::Value as Yaml;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};
use crate::provider::{ChangeKind, KeyChange};
use crate::secret::SecretName;

pub use parse::parse_document;
pub(crate) use stored::{Sealed, Stored};

/// The largest secrets file, in bytes.
pub const MAX_DOCUMENT: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Json,
    Yaml,
}

/// An entry that is not a secret, as it was written.
#[derive(Clone)]
enum Raw {
    Json {
        key: String,
        value: Zeroizing<String>,
    },
    Yaml {
        key: Yaml,
        value: WipedYaml,
    },
}

/// A YAML value whose texts are wiped when it is dropped.
#[derive(Clone)]
struct WipedYaml(Yaml);

impl Drop for WipedYaml {
    fn drop(&mut self) {
        fn wipe(value: &mut Yaml) {
            match value {
                Yaml::String(text) => text.zeroize(),
                Yaml::Sequence(items) => items.iter_mut().for_each(wipe),
                Yaml::Mapping(map) => map.iter_mut().for_each(|(_, value)| wipe(value)),
                Yaml::Tagged(tagged) => wipe(&mut tagged.value),
                _ => {}
            }
        }
        wipe(&mut self.0);
    }
}

#[derive(Clone)]
enum Entry {
    Secret { name: SecretName, stored: Stored },
    Other { key: Option<String>, raw: Raw },
}

impl Entry {
    fn key(&self) -> Option<&str> {
        match self {
            Entry::Secret { name, .. } => Some(name.as_str()),
            Entry::Other { key, .. } => key.as_deref(),
        }
    }
}

/// A secrets file's content.
#[derive(Clone)]
pub struct Document {
    format: Format,
    entries: Vec<Entry>,
    index: BTreeMap<SecretName, usize>,
    has_comments: bool,
}

fn malformed(reason: String) -> Error {
    Error::Malformed {
        what: "the secrets file".to_owned(),
        reason,
    }
}

impl Document {
    /// A document without entries.
    pub(crate) fn empty(yaml: bool) -> Self {
        Self {
            format: if yaml { Format::Yaml } else { Format::Json },
            entries: Vec::new(),
            index: BTreeMap::new(),
            has_comments: false,
        }
    }

    fn rebuild_index(&mut self) {
        self.index = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| match entry {
                Entry::Secret { name, .. } => Some((name.clone(), index)),
                Entry::Other { .. } => None,
            })
            .collect();
    }

    /// The names of its secrets, sorted.
    pub fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.index.keys()
    }

    /// Whether it has this secret.
    pub fn contains(&self, name: &SecretName) -> bool {
        self.index.contains_key(name)
    }

    /// How many entries are not secrets: not a text, too long, or without a valid name.
    pub fn skipped(&self) -> usize {
        self.entries.len() - self.index.len()
    }

    pub(super) fn is_yaml(&self) -> bool {
        self.format == Format::Yaml
    }

    /// Whether it has comments, which rendering drops.
    pub(crate) fn has_comments(&self) -> bool {
        self.has_comments
    }

    pub(crate) fn get(&self, name: &SecretName) -> Option<&Stored> {
        match self.entries.get(*self.index.get(name)?)? {
            Entry::Secret { stored, .. } => Some(stored),
            Entry::Other { .. } => None,
        }
    }

    /// Sets a secret in place, or appends it.
    pub(crate) fn set(&mut self, name: &SecretName, stored: Stored) {
        let entry = Entry::Secret {
            name: name.clone(),
            stored,
        };
        let index = self.index.get(name).copied().or_else(|| {
            let key = Some(name.as_str());
            self.entries.iter().position(|entry| entry.key() == key)
        });
        let index = match index {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.index.insert(name.clone(), index);
    }

    /// Removes secrets; ignores names that it does not have.
    pub(crate) fn remove(&mut self, names: &[&SecretName]) {
        self.entries.retain(|entry| match entry {
            Entry::Secret { name, .. } => !names.contains(&name),
            Entry::Other { .. } => true,
        });
        self.rebuild_index();
    }

    /// Replaces the stored form of each secret for which `change` returns another; returns how many.
    pub(crate) fn replace_each(
        &mut self,
        mut change: impl FnMut(&SecretName, &Stored) -> Result<Option<Stored>>,
    ) -> Result<usize> {
        let mut replaced = 0;
        for entry in &mut self.entries {
            if let Entry::Secret { name, stored } = entry
                && let Some(new) = change(name, stored)?
            {
                *stored = new;
                replaced += 1;
            }
        }
        Ok(replaced)
    }

    /// Adds the entries of `other` that are missing here, and with `overwrite` those that differ.
    ///
    /// # Errors
    /// [`Error::Malformed`] if `other` has an entry that is not a secret, in another format.
    pub(crate) fn merge(&mut self, other: &Document, overwrite: bool) -> Result<bool> {
        let mut changed = false;
        for entry in &other.entries {
            match entry {
                Entry::Secret { name, stored } => {
                    if overwrite && self.get(name) != Some(stored) || !self.contains(name) {
                        self.set(name, stored.clone());
                        changed = true;
                    }
                }
                Entry::Other { key, .. } => {
                    if key.is_some() && self.entries.iter().any(|mine| mine.key() == key.as_deref())
                    {
                        continue;
                    }
                    if self.format != other.format {
                        return Err(malformed(
                            "it has entries that are not texts; remove them first".to_owned(),
                        ));
                    }
                    self.entries.push(entry.clone());
                    changed = true;
                }
            }
        }
        self.rebuild_index();
        Ok(changed)
    }

    /// Reuses the decrypted values of `older` for entries that are unchanged.
    pub(crate) fn reuse_decrypted(&mut self, older: &Document) {
        for entry in &mut self.entries {
            if let Entry::Secret { name, stored } = entry
                && let Some(before) = older.get(name)
                && before == stored
            {
                *stored = before.clone();
            }
        }
    }

    /// The changes from this document to `newer`.
    pub(crate) fn changes_to(&self, newer: &Document) -> Vec<KeyChange> {
        let change = |name: &SecretName, kind| KeyChange {
            name: name.clone(),
            kind,
        };
        let set = newer
            .names()
            .filter(|name| self.get(name) != newer.get(name))
            .map(|name| change(name, ChangeKind::Set));
        let deleted = self
            .names()
            .filter(|name| !newer.contains(name))
            .map(|name| change(name, ChangeKind::Deleted));
        set.chain(deleted).collect()
    }
}

#[cfg(test)]
mod tests;
