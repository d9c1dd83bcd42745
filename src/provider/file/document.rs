//! The secrets file as a document: parsed, edited, and rendered with its order and its unknown entries kept.
//! Knows no path and no key.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_yaml::Value as Yaml;
use zeroize::{Zeroize, Zeroizing};

use super::json;
use crate::credential::is_encrypted;
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange};
use crate::secret::{MAX_VALUE, SecretName, SecretValue};

/// The largest secrets file, in bytes.
pub const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// What a value of the largest size is at most when encrypted: base64 twice over, and the token's own fields.
const MAX_STORED: usize = 2 * MAX_VALUE;

/// A value as it lies in the file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Plain(SecretValue),
    Encrypted(Arc<str>),
}

impl Stored {
    fn from_text(text: &str) -> Self {
        if is_encrypted(text) {
            Stored::Encrypted(text.into())
        } else {
            Stored::Plain(SecretValue::new(text))
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Stored::Plain(value) => value.as_str(),
            Stored::Encrypted(text) => text,
        }
    }

    fn fits(text: &str) -> bool {
        text.len()
            <= if is_encrypted(text) {
                MAX_STORED
            } else {
                MAX_VALUE
            }
    }
}

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

/// Reads a secrets file: a flat object of names and texts. With `yaml`, YAML is read too (JSON always is).
///
/// # Errors
/// [`Error::Malformed`], which never quotes a value.
pub fn parse_document(yaml: bool, bytes: &[u8]) -> Result<Document> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(malformed(format!(
            "it is too large: over {MAX_DOCUMENT} bytes"
        )));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| malformed(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    let looks_like_json = text.trim_start().starts_with('{');
    if !yaml {
        return parse_json(text);
    }
    match parse_json(text) {
        Ok(document) if looks_like_json => Ok(document),
        _ => parse_yaml(text),
    }
}

fn malformed(reason: String) -> Error {
    Error::Malformed {
        what: "the secrets file".to_owned(),
        reason,
    }
}

fn parse_json(text: &str) -> Result<Document> {
    json::check_object(text).map_err(malformed)?;
    let mut document = Document::empty(false);
    let mut places: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for (raw_key, raw_value) in json::members(text) {
        let Some(key) = json::text_of(raw_key) else {
            return Err(malformed("a key is no text".to_owned()));
        };
        let text = json::text_of(raw_value);
        let entry = match (SecretName::new(&key), &text) {
            (Ok(name), Some(text)) if Stored::fits(text) => Entry::Secret {
                name,
                stored: Stored::from_text(text),
            },
            _ => Entry::Kept {
                key: Some(key.clone().into_owned()),
                raw: Raw::Json {
                    key: raw_key.to_owned(),
                    value: Zeroizing::new(raw_value.to_owned()),
                },
            },
        };
        if let Some(Cow::Owned(mut text)) = text {
            text.zeroize();
        }
        // Of a key that is there twice the last one counts, as in Python's `json`.
        match places.get(&key) {
            Some(&place) => document.entries[place] = entry,
            None => {
                places.insert(key, document.entries.len());
                document.entries.push(entry);
            }
        }
    }
    document.index_anew();
    Ok(document)
}

fn parse_yaml(text: &str) -> Result<Document> {
    let mut document = Document::empty(true);
    document.has_comments = text
        .lines()
        .any(|line| line.trim_start().starts_with('#') || line.contains(" #"));
    // The parser's own message may quote the value it met.
    let root: Yaml = serde_yaml::from_str(text).map_err(|error| {
        malformed(match error.location() {
            Some(at) => format!("not YAML at line {} column {}", at.line(), at.column()),
            None => "not YAML".to_owned(),
        })
    })?;
    let map = match root {
        Yaml::Mapping(map) => map,
        Yaml::Null if text.lines().all(is_comment) => return Ok(document),
        other => {
            drop(WipedYaml(other));
            return Err(malformed(
                "it is not an object of names and texts".to_owned(),
            ));
        }
    };
    for (key, value) in map {
        let value = WipedYaml(value);
        let name = key.as_str().and_then(|key| SecretName::new(key).ok());
        document.entries.push(match (name, value.0.as_str()) {
            (Some(name), Some(text)) if Stored::fits(text) => Entry::Secret {
                name,
                stored: Stored::from_text(text),
            },
            _ => Entry::Kept {
                key: key.as_str().map(ToOwned::to_owned),
                raw: Raw::Yaml { key, value },
            },
        });
    }
    document.index_anew();
    Ok(document)
}

fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---"
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

    /// The document as bytes, in the format that it was read in.
    ///
    /// # Errors
    /// [`Error::Malformed`] if YAML cannot hold an entry that it gave.
    pub(crate) fn render(&self) -> Result<Zeroizing<Vec<u8>>> {
        // Escapes make a text at most six times as long; room for them keeps the vector from growing, which would
        // leave copies behind.
        let room: usize = self.entries.iter().map(Entry::room).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(room + 16));
        match self.format {
            Format::Json => self.render_json(&mut out),
            Format::Yaml => self.render_yaml(&mut out)?,
        }
        Ok(out)
    }

    fn render_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, entry) in self.entries.iter().enumerate() {
            out.extend_from_slice(if place == 0 { b"\n  " } else { b",\n  " });
            match entry {
                Entry::Secret { name, stored } => {
                    json::quote(name.as_str(), out);
                    out.extend_from_slice(b": ");
                    json::quote(stored.as_str(), out);
                }
                Entry::Kept { raw, .. } => {
                    if let Raw::Json { key, value } = raw {
                        out.extend_from_slice(key.as_bytes());
                        out.extend_from_slice(b": ");
                        out.extend_from_slice(value.as_bytes());
                    }
                }
            }
        }
        if !self.entries.is_empty() {
            out.push(b'\n');
        }
        out.extend_from_slice(b"}\n");
    }

    fn render_yaml(&self, out: &mut Vec<u8>) -> Result<()> {
        if self.entries.is_empty() {
            out.extend_from_slice(b"{}\n");
        }
        for entry in &self.entries {
            match entry {
                Entry::Secret { name, stored } => {
                    quote_yaml(name.as_str(), out);
                    out.extend_from_slice(b": ");
                    quote_yaml(stored.as_str(), out);
                    out.push(b'\n');
                }
                Entry::Kept { raw, .. } => {
                    if let Raw::Yaml { key, value } = raw {
                        let mut pair = serde_yaml::Mapping::new();
                        pair.insert(key.clone(), value.0.clone());
                        let pair = WipedYaml(Yaml::Mapping(pair));
                        let text = serde_yaml::to_string(&pair.0).map(Zeroizing::new);
                        let text = text.map_err(|_| {
                            malformed("an entry cannot be written as YAML again".to_owned())
                        })?;
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Entry {
    fn room(&self) -> usize {
        match self {
            Entry::Secret {
                name,
                stored: Stored::Encrypted(text),
            } => name.as_str().len() + text.len() + 16,
            Entry::Secret {
                name,
                stored: Stored::Plain(value),
            } => name.as_str().len() + 6 * value.len() + 16,
            Entry::Kept { raw, .. } => match raw {
                Raw::Json { key, value } => key.len() + value.len() + 16,
                Raw::Yaml { .. } => 256,
            },
        }
    }
}

/// A text as a double-quoted YAML scalar, which every YAML reads as a text, also `yes`, `1e3` and `12:30:45`.
fn quote_yaml(text: &str, out: &mut Vec<u8>) {
    use std::io::Write;
    out.push(b'"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_all(b"\\\""),
            '\\' => out.write_all(b"\\\\"),
            '\n' => out.write_all(b"\\n"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => write!(out, "\\x{:02x}", u32::from(c)),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                write!(out, "\\u{:04x}", u32::from(c))
            }
            c => write!(out, "{c}"),
        };
    }
    out.push(b'"');
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
