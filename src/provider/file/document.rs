//! The secrets file as a document. Edits keep the order and the unknown entries. Knows no path and no key.

mod parse;
mod render;
mod stored;
mod yaml;

use std::collections::{BTreeMap, HashSet};

use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::provider::{ChangeKind, KeyChange};
use crate::secret::SecretName;
use crate::yaml::Value;

pub use parse::parse_document;
pub(super) use parse::parse_within;
pub(crate) use stored::{Sealed, Stored, looks_encrypted};
use yaml::{Layout, Lines};

/// The largest secrets file, in bytes.
pub const MAX_DOCUMENT: usize = 16 * 1024 * 1024;

/// How an entry stands in the file.
#[derive(Clone)]
enum Written {
    /// A JSON text, which is written anew.
    JsonText,
    /// Any other JSON value.
    Json {
        key: String,
        value: Zeroizing<String>,
    },
    /// Lines of YAML.
    Yaml(Lines),
    /// An entry of a YAML merge key: it has no lines of its own.
    Merged(Value),
}

#[derive(Clone)]
struct Entry {
    /// `None`: not a text.
    key: Option<String>,
    /// `None`: not a secret.
    secret: Option<(SecretName, Stored)>,
    written: Written,
}

impl Entry {
    fn lines(&self) -> Option<&Lines> {
        match &self.written {
            Written::Yaml(lines) => Some(lines),
            _ => None,
        }
    }

    fn lines_mut(&mut self) -> Option<&mut Lines> {
        match &mut self.written {
            Written::Yaml(lines) => Some(lines),
            _ => None,
        }
    }
}

/// A secrets file's content.
#[derive(Clone)]
pub struct Document {
    entries: Vec<Entry>,
    index: BTreeMap<SecretName, usize>,
    /// What a YAML file has besides its entries; `None`: JSON.
    layout: Option<Layout>,
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
        Self::new(yaml.then(Layout::default))
    }

    fn new(layout: Option<Layout>) -> Self {
        Self {
            entries: Vec::new(),
            index: BTreeMap::new(),
            layout,
        }
    }

    /// The last of duplicate keys counts, as for SimpleTuner.
    fn rebuild_index(&mut self) {
        self.index.clear();
        for (index, entry) in self.entries.iter().enumerate() {
            match (&entry.secret, &entry.key) {
                (Some((name, _)), _) => drop(self.index.insert(name.clone(), index)),
                (None, Some(key)) => drop(self.index.remove(key.as_str())),
                (None, None) => {}
            }
        }
    }

    /// The names of its secrets, sorted.
    pub fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.index.keys()
    }

    /// Whether it has this secret.
    pub fn contains(&self, name: &SecretName) -> bool {
        self.index.contains_key(name)
    }

    /// How many entries there are, secrets and others.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is an empty JSON document, which says no more than no file at all.
    pub(crate) fn is_blank(&self) -> bool {
        self.entries.is_empty() && !self.is_yaml()
    }

    /// How many entries are not secrets: null, a list, an object, too long, or without a valid name.
    pub fn skipped(&self) -> usize {
        let is_other = |entry: &&Entry| entry.secret.is_none();
        self.entries.iter().filter(is_other).count()
    }

    pub(super) fn is_yaml(&self) -> bool {
        self.layout.is_some()
    }

    pub(crate) fn get(&self, name: &SecretName) -> Option<&Stored> {
        let entry = self.entries.get(*self.index.get(name)?)?;
        entry.secret.as_ref().map(|(_, stored)| stored)
    }

    /// Sets a secret in place, or appends it. Earlier duplicates of its key go.
    pub(crate) fn set(&mut self, name: &SecretName, stored: Stored) {
        let is_own = |entry: &Entry| {
            entry.key.as_deref() == Some(name.as_str())
                && !matches!(entry.written, Written::Merged(_))
        };
        let known = self.index.get(name).copied();
        let known = known.filter(|index| is_own(&self.entries[*index]));
        match known.or_else(|| self.entries.iter().rposition(is_own)) {
            Some(index) => {
                let entry = &mut self.entries[index];
                match &mut entry.written {
                    Written::Yaml(lines) => lines.set_value(stored.as_str()),
                    written => *written = Written::JsonText,
                }
                entry.secret = Some((name.clone(), stored));
                self.index.insert(name.clone(), index);
                if self.layout.as_ref().is_some_and(Layout::has_duplicates) {
                    self.remove_entries(|at, entry| at < index && is_own(entry));
                }
            }
            None => {
                let written = match self.layout {
                    None => Written::JsonText,
                    Some(_) => Written::Yaml(Lines::new(name.as_str(), stored.as_str())),
                };
                self.append(Entry {
                    key: Some(name.as_str().to_owned()),
                    secret: Some((name.clone(), stored)),
                    written,
                });
            }
        }
    }

    /// Appends an entry whose key is new, or only that of a merge key's entry.
    fn append(&mut self, mut entry: Entry) {
        let end = self.entries.len();
        let index = match &mut self.layout {
            Some(layout) => layout.place(&mut self.entries, &mut entry),
            None => end,
        };
        let is_last = index == end;
        if let (true, Some((name, _))) = (is_last, &entry.secret) {
            self.index.insert(name.clone(), index);
        }
        self.entries.insert(index, entry);
        if !is_last {
            self.rebuild_index();
        }
    }

    /// Removes secrets; ignores names that it does not have.
    pub(crate) fn remove(&mut self, names: &[&SecretName]) {
        let names: HashSet<&str> = names.iter().map(|name| name.as_str()).collect();
        self.remove_entries(|_, entry| entry.key.as_deref().is_some_and(|key| names.contains(key)));
    }

    fn remove_entries(&mut self, is_gone: impl Fn(usize, &Entry) -> bool) {
        if let Some(layout) = &mut self.layout {
            layout.close_gaps(&mut self.entries, &is_gone);
        }
        let mut at = 0..;
        self.entries
            .retain(|entry| at.next().is_some_and(|at| !is_gone(at, entry)));
        self.rebuild_index();
    }

    /// Replaces the stored form of each secret for which `change` returns another; returns how many.
    pub(crate) fn replace_each(
        &mut self,
        mut change: impl FnMut(&SecretName, &Stored) -> Result<Option<Stored>>,
    ) -> Result<usize> {
        let mut changed = Vec::new();
        for name in self.index.keys() {
            let stored = self.get(name).map(|stored| change(name, stored));
            if let Some(new) = stored.transpose()?.flatten() {
                changed.push((name.clone(), new));
            }
        }
        for (name, new) in &changed {
            self.set(name, new.clone());
        }
        Ok(changed.len())
    }

    /// Adds the entries of `other` that are missing here, and with `overwrite` those that differ.
    ///
    /// # Errors
    /// [`Error::Malformed`] if `other` has an entry that is not a secret, in another format.
    pub(crate) fn merge(&mut self, other: &Document, overwrite: bool) -> Result<bool> {
        let mut changed = false;
        for name in other.names() {
            if let Some(stored) = other.get(name)
                && (overwrite && self.get(name) != Some(stored) || !self.contains(name))
            {
                self.set(name, stored.clone());
                changed = true;
            }
        }
        for entry in other.entries.iter().filter(|entry| entry.secret.is_none()) {
            let has_key = |mine: &Entry| entry.key.is_some() && mine.key == entry.key;
            if self.entries.iter().any(has_key) {
                continue;
            }
            if self.is_yaml() != other.is_yaml() {
                return Err(malformed(
                    "it has entries that are not texts; remove them first".to_owned(),
                ));
            }
            self.append(entry.clone());
            changed = true;
        }
        Ok(changed)
    }

    /// Reuses the decrypted values of `older` for entries that are unchanged.
    pub(crate) fn reuse_decrypted(&mut self, older: &Document) {
        for entry in &mut self.entries {
            if let Some((name, stored)) = &mut entry.secret
                && let Some(before) = older.get(name)
                && before == stored
            {
                *stored = before.clone();
            }
        }
    }

    /// The changes from this document to `newer`. `is_same`: whether two stored values stand for the same one.
    pub(crate) fn changes_to(
        &self,
        newer: &Document,
        is_same: impl Fn(&Stored, &Stored) -> bool,
    ) -> Vec<KeyChange> {
        let change = |name: &SecretName, kind| KeyChange {
            name: name.clone(),
            kind,
        };
        let set = newer
            .names()
            .filter(|name| match (self.get(name), newer.get(name)) {
                (Some(before), Some(after)) => !is_same(before, after),
                (before, after) => before != after,
            })
            .map(|name| change(name, ChangeKind::Set));
        let deleted = self
            .names()
            .filter(|name| !newer.contains(name))
            .map(|name| change(name, ChangeKind::Deleted));
        set.chain(deleted).collect()
    }
}

#[cfg(test)]
mod pyyaml_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod yaml_tests;
