//! The secrets file as a document that is edited with its order and its unknown entries kept. Knows no path and no key.

mod parse;
mod render;
mod stored;

use std::collections::BTreeMap;

use serde_yaml::Value as Yaml;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange};
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

/// An entry that is no secret, as it was written.
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
    Kept { key: Option<String>, raw: Raw },
}

impl Entry {
    fn key(&self) -> Option<&str> {
        match self {
            Entry::Secret { name, .. } => Some(name.as_str()),
            Entry::Kept { key, .. } => key.as_deref(),
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

    fn index_anew(&mut self) {
        self.index = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(place, entry)| match entry {
                Entry::Secret { name, .. } => Some((name.clone(), place)),
                Entry::Kept { .. } => None,
            })
            .collect();
    }

    /// The names of its secrets, in order.
    pub fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.index.keys()
    }

    /// Whether it has this secret.
    pub fn contains(&self, name: &SecretName) -> bool {
        self.index.contains_key(name)
    }

    /// How many entries are no secrets (not a text, too long, or not a valid name).
    pub fn skipped(&self) -> usize {
        self.entries.len() - self.index.len()
    }

    pub(super) fn is_yaml(&self) -> bool {
        self.format == Format::Yaml
    }

    /// Whether it has comments, which rendering loses.
    pub(crate) fn has_comments(&self) -> bool {
        self.has_comments
    }

    pub(crate) fn get(&self, name: &SecretName) -> Option<&Stored> {
        match self.entries.get(*self.index.get(name)?)? {
            Entry::Secret { stored, .. } => Some(stored),
            Entry::Kept { .. } => None,
        }
    }

    /// Sets a secret where its key stands, or at the end.
    pub(crate) fn set(&mut self, name: &SecretName, stored: Stored) {
        let entry = Entry::Secret {
            name: name.clone(),
            stored,
        };
        let place = self.index.get(name).copied().or_else(|| {
            let key = Some(name.as_str());
            self.entries.iter().position(|entry| entry.key() == key)
        });
        let place = match place {
            Some(place) => {
                self.entries[place] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.index.insert(name.clone(), place);
    }

    /// Takes secrets out; those that it has not are passed over.
    pub(crate) fn remove(&mut self, names: &[&SecretName]) {
        self.entries.retain(|entry| match entry {
            Entry::Secret { name, .. } => !names.contains(&name),
            Entry::Kept { .. } => true,
        });
        self.index_anew();
    }

    /// Every secret's stored form, replaced by what `change` gives for it; how many were replaced.
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

    /// Takes over `other`'s entries that are missing here, and with `overwrite` those that differ.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an entry that is no secret and that this document's format cannot hold as it is.
    pub(crate) fn take_over(&mut self, other: &Document, overwrite: bool) -> Result<bool> {
        let mut changed = false;
        for entry in &other.entries {
            match entry {
                Entry::Secret { name, stored } => {
                    if overwrite && self.get(name) != Some(stored) || !self.contains(name) {
                        self.set(name, stored.clone());
                        changed = true;
                    }
                }
                Entry::Kept { key, .. } => {
                    if key.is_some() && self.entries.iter().any(|mine| mine.key() == key.as_deref())
                    {
                        continue;
                    }
                    if self.format != other.format {
                        return Err(malformed(
                            "it has entries that are no texts; take them out first".to_owned(),
                        ));
                    }
                    self.entries.push(entry.clone());
                    changed = true;
                }
            }
        }
        self.index_anew();
        Ok(changed)
    }

    /// Takes over what was decrypted of `older`'s entries that stand here unchanged.
    pub(crate) fn take_opened(&mut self, older: &Document) {
        for entry in &mut self.entries {
            if let Entry::Secret { name, stored } = entry
                && let Some(held) = older.get(name)
                && held == stored
            {
                *stored = held.clone();
            }
        }
    }

    /// What another program changed between this document and `newer`.
    pub(crate) fn changes_to(&self, newer: &Document) -> Vec<NameChange> {
        let change = |name: &SecretName, kind| NameChange {
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
