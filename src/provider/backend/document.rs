//! A backend's document: one flat JSON object of names and texts. Knows no backend.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::provider::source_view::SourceDocument;
use crate::provider::{ChangeKind, KeyChange, ViewLookup};
use crate::secret::{MAX_VALUE, SecretName, SecretValue};
use crate::text;

/// The secrets of one document: [parsed](Self::parse) from JSON, or collected from names and texts.
///
/// Texts are served as they are, numbers and booleans as their JSON text. Objects, lists, nulls and values over 64 KiB
/// are left out. The last of duplicate keys counts.
#[derive(Clone, Debug, Default)]
pub struct BackendDocument {
    entries: BTreeMap<SecretName, SecretValue>,
    /// Values under keys that are not valid secret names.
    unnamed: BTreeMap<String, SecretValue>,
    /// Keys whose values cannot be served, and why.
    left_out: BTreeMap<String, &'static str>,
}

impl BackendDocument {
    /// Parses a document.
    ///
    /// # Errors
    /// Where and why the text is not a flat JSON object, without quoting it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let text = text::text_of(json)?;
        serde_json::from_str(text).map_err(|error| describe_error(&error))
    }

    /// A key's value.
    pub fn get(&self, name: &SecretName) -> Option<&SecretValue> {
        self.entries.get(name)
    }

    /// The value of a key, which need not be a valid secret name.
    pub fn get_by_key(&self, key: &str) -> Option<&SecretValue> {
        self.entries.get(key).or_else(|| self.unnamed.get(key))
    }

    /// The keys that are valid secret names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.entries.keys()
    }

    /// All values, also those under keys that are not valid secret names.
    pub(in crate::provider) fn values(&self) -> impl Iterator<Item = &SecretValue> {
        self.entries.values().chain(self.unnamed.values())
    }

    /// How many keys there are, with those that are not among the names.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.skipped()
    }

    /// How many keys are not among the names.
    pub fn skipped(&self) -> usize {
        self.unnamed.len() + self.left_out.len()
    }

    /// The keys that are not among the names, and why; for the log.
    pub(super) fn skipped_keys(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let unnamed = self.unnamed.keys();
        let unnamed = unnamed.map(|key| (key.as_str(), "it is not a valid secret name"));
        let left_out = self.left_out.iter();
        unnamed.chain(left_out.map(|(key, why)| (key.as_str(), *why)))
    }

    /// All keys with their texts, and those that are left out.
    pub(super) fn parts(&self) -> (Vec<(&str, &str)>, Vec<&str>) {
        let named = self.entries.iter();
        let named = named.map(|(name, value)| (name.as_str(), value.as_str()));
        let unnamed = self.unnamed.iter();
        let unnamed = unnamed.map(|(key, value)| (key.as_str(), value.as_str()));
        let left_out = self.left_out.keys().map(String::as_str);
        (named.chain(unnamed).collect(), left_out.collect())
    }

    /// The document of these [parts](Self::parts).
    pub(super) fn from_parts(entries: &[(&str, &str)], left_out: &[&str]) -> Self {
        let mut document: Self = entries.iter().copied().collect();
        let why = "it could not be served when it was fetched";
        let left_out = left_out.iter().map(|key| ((*key).to_owned(), why));
        document.left_out = left_out.collect();
        document
    }

    fn put(&mut self, key: String, value: Result<SecretValue, &'static str>) {
        // The last of duplicate keys counts, even if it cannot be served.
        self.unnamed.remove(&key);
        self.left_out.remove(&key);
        let name = SecretName::new(&key).ok();
        if let Some(name) = &name {
            self.entries.remove(name);
        }
        match value {
            Ok(value) => match name {
                Some(name) => drop(self.entries.insert(name, value)),
                None => drop(self.unnamed.insert(key, value)),
            },
            Err(why) => drop(self.left_out.insert(key, why)),
        }
    }
}

impl SourceDocument for BackendDocument {
    fn value(&self, name: &SecretName) -> Result<Option<SecretValue>, ViewLookup> {
        Ok(self.get(name).cloned())
    }

    fn value_by_key(&self, key: &str) -> Option<&SecretValue> {
        self.get_by_key(key)
    }

    fn has(&self, name: &SecretName) -> bool {
        self.entries.contains_key(name)
    }

    fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.entries.keys()
    }

    fn skipped(&self) -> usize {
        self.skipped()
    }

    /// Values are compared by their fingerprints.
    fn changes_to(&self, newer: &Self) -> Vec<KeyChange> {
        let change = |name: &SecretName, kind| {
            let name = name.clone();
            KeyChange { name, kind }
        };
        let set = newer.entries.iter().filter_map(|(name, value)| {
            match self.get(name).map(SecretValue::fingerprint) {
                None => Some(change(name, ChangeKind::Set)),
                Some(old) if old != value.fingerprint() => Some(change(name, ChangeKind::Rotated)),
                Some(_) => None,
            }
        });
        let deleted = self
            .names()
            .filter(|name| newer.get(name).is_none())
            .map(|name| change(name, ChangeKind::Deleted));
        set.chain(deleted).collect()
    }
}

impl<K: Into<String>, T: AsRef<str>> FromIterator<(K, T)> for BackendDocument {
    /// For a backend whose document is not JSON.
    fn from_iter<I: IntoIterator<Item = (K, T)>>(entries: I) -> Self {
        let mut document = Self::default();
        for (key, text) in entries {
            document.put(key.into(), servable(text.as_ref()));
        }
        document
    }
}

/// A checked JSON value as a secret.
fn text_of(json: &str) -> Result<SecretValue, &'static str> {
    let unquoted: Zeroizing<String>;
    let text = match json.as_bytes().first() {
        Some(b'"') => {
            let text = serde_json::from_str(json).map_err(|_| "its value is not a valid text")?;
            unquoted = Zeroizing::new(text);
            unquoted.as_str()
        }
        Some(b'{' | b'[') => return Err("its value is an object or a list"),
        Some(b'n') => return Err("its value is null"),
        _ => json,
    };
    servable(text)
}

fn servable(text: &str) -> Result<SecretValue, &'static str> {
    if text.len() > MAX_VALUE {
        return Err("its value is over 64 KiB");
    }
    Ok(SecretValue::new(text))
}

/// What is wrong with a JSON text. Does not quote it, as serde's own message may.
pub(super) fn describe_error(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => "it is not an object of names and texts".to_owned(),
        Category::Eof => format!("it ends too early, at line {}", error.line()),
        Category::Syntax | Category::Io => format!(
            "it is not JSON at line {} column {}",
            error.line(),
            error.column()
        ),
    }
}

impl<'de> Deserialize<'de> for BackendDocument {
    /// Works only on borrowed JSON text: values are copied from there directly into locked memory.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = BackendDocument;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut document = BackendDocument::default();
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    document.put(key.into_owned(), text_of(value.get()));
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(document: &BackendDocument, key: &str) -> Option<String> {
        let value = document.get_by_key(key)?;
        Some(value.as_str().to_owned())
    }

    #[test]
    fn texts_numbers_and_booleans_are_served_as_they_were_written() {
        let json = r#"{"T": "a\n\u00e4\"", "N": 12345678901234567890123, "F": 1.10, "B": true, "E": "", "M": -0}"#;
        let document = BackendDocument::parse(json.as_bytes()).unwrap();
        for (key, text) in [
            ("T", "a\nä\""),
            ("N", "12345678901234567890123"),
            ("F", "1.10"),
            ("B", "true"),
            ("E", ""),
            ("M", "-0"),
        ] {
            assert_eq!(value(&document, key).as_deref(), Some(text));
        }
        assert_eq!((document.names().count(), document.skipped()), (6, 0));
    }

    #[test]
    fn unservable_values_are_counted_and_invalid_names_are_reachable_by_key() {
        let long = "k".repeat(300);
        let big = "v".repeat(MAX_VALUE + 1);
        let json = format!(
            r#"{{"O": {{"x": 1}}, "L": [], "Z": null, "BIG": "{big}", "a/b": "1", "..": "2", "": "3", "{long}": "4", "OK": "5"}}"#
        );
        let document = BackendDocument::parse(json.as_bytes()).unwrap();
        let names: Vec<&str> = document.names().map(SecretName::as_str).collect();
        assert_eq!((names, document.skipped()), (vec!["OK"], 8));
        assert_eq!(document.skipped_keys().count(), 8);
        for (key, text) in [("a/b", "1"), ("..", "2"), ("", "3"), (&long, "4")] {
            assert_eq!(value(&document, key).as_deref(), Some(text));
        }
        assert_eq!(value(&document, "O"), None);
    }

    #[test]
    fn names_and_texts_are_collected_by_the_rules_for_json() {
        let big = "v".repeat(MAX_VALUE + 1);
        let entries = [("A", "1"), ("a/b", "2"), ("BIG", &big), ("A", "3")];
        let document: BackendDocument = entries.into_iter().collect();
        assert_eq!(value(&document, "A").as_deref(), Some("3"));
        assert_eq!(value(&document, "a/b").as_deref(), Some("2"));
        assert_eq!((document.names().count(), document.skipped()), (1, 2));
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        let document =
            BackendDocument::parse(br#"{"A": "1", "A": "2", "B": "1", "B": {}, "C": [], "C": 3}"#)
                .unwrap();
        assert_eq!(value(&document, "A").as_deref(), Some("2"));
        assert_eq!(value(&document, "B"), None);
        assert_eq!(value(&document, "C").as_deref(), Some("3"));
        assert_eq!(document.skipped(), 1);
    }

    #[test]
    fn a_text_that_is_not_a_flat_object_is_refused_without_quoting_it() {
        for (json, expected) in [
            ("hunter2", "it is not JSON at line 1 column 1"),
            ("\"hunter2\"", "it is not an object of names and texts"),
            ("[\"hunter2\"]", "it is not an object of names and texts"),
            ("{\"A\": \"hunter2", "it ends too early, at line 1"),
            ("{\"A\": \"hunter2\"} hunter2", "it is not JSON at line 1"),
            ("", "it ends too early"),
        ] {
            let said = BackendDocument::parse(json.as_bytes()).unwrap_err();
            assert!(said.contains(expected), "{json}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_utf_16_is_refused_by_name() {
        let json = "\u{feff}{\"A\": \"a\"}\r\n";
        let document = BackendDocument::parse(json.as_bytes()).unwrap();
        assert_eq!(value(&document, "A").as_deref(), Some("a"));
        let wide: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let said = BackendDocument::parse(&wide).unwrap_err();
        assert!(said.contains("UTF-16"), "{said}");
    }

    #[test]
    fn changes_are_new_rotated_and_deleted_keys() {
        let parse = |json: &str| BackendDocument::parse(json.as_bytes()).unwrap();
        let old = parse(r#"{"SAME": "1", "TURNED": "1", "GONE": "1"}"#);
        let new = parse(r#"{"SAME": "1", "TURNED": "2", "NEW": "1"}"#);
        let reported: Vec<(String, ChangeKind)> = old
            .changes_to(&new)
            .into_iter()
            .map(|change| (change.name.to_string(), change.kind))
            .collect();
        assert_eq!(
            reported,
            [
                ("NEW".to_owned(), ChangeKind::Set),
                ("TURNED".to_owned(), ChangeKind::Rotated),
                ("GONE".to_owned(), ChangeKind::Deleted),
            ]
        );
        assert!(new.changes_to(&new).is_empty());
    }
}
