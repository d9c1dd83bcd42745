//! Parses the bytes of a secrets file. Its errors never quote a value.

use std::borrow::Cow;
use std::collections::HashMap;

use zeroize::{Zeroize, Zeroizing};

use super::super::json;
use super::yaml::Layout;
use super::{Document, Entry, MAX_DOCUMENT, Stored, Written, malformed};
use crate::error::Result;
use crate::provider::source_view::too_many_keys;
use crate::secret::SecretName;
use crate::text::{encrypted_by, text_of};
use crate::yaml::{self, Value};

/// Parses a secrets file: a flat object of names and texts, in JSON or, with `yaml`, in either format.
///
/// # Errors
/// [`Error::Malformed`](crate::error::Error::Malformed), which never quotes a value.
pub fn parse_document(yaml: bool, bytes: &[u8]) -> Result<Document> {
    parse_within(yaml, bytes, usize::MAX)
}

/// As [`parse_document`], for a document with at most `max_keys` keys.
pub(in crate::provider::file) fn parse_within(
    yaml: bool,
    bytes: &[u8],
    max_keys: usize,
) -> Result<Document> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(malformed(format!(
            "it is too large: over {MAX_DOCUMENT} bytes"
        )));
    }
    let text = text_of(bytes).map_err(malformed)?;
    if text.trim().is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    if !yaml {
        return parse_json(text, max_keys);
    }
    let json = match text.trim_start().starts_with('{') {
        true => parse_json(text, max_keys).ok(),
        false => None,
    };
    let mut document = match json {
        Some(document) => return Ok(document),
        None => parse_yaml(text)?,
    };
    if document.len() > max_keys {
        return Err(malformed(too_many_keys(max_keys)));
    }
    if let Some(layout) = &mut document.layout {
        layout.has_bom = text.len() < bytes.len();
    }
    Ok(document)
}

fn parse_json(text: &str, max_keys: usize) -> Result<Document> {
    json::check_object(text).map_err(malformed)?;
    let mut document = Document::empty(false);
    let mut indices: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for (raw_key, raw_value) in json::members(text) {
        let Some(key) = json::text_of(raw_key) else {
            return Err(malformed("a key is not valid text".to_owned()));
        };
        let text = json::text_of(raw_value);
        let secret = match (SecretName::new(&key), &text) {
            (Ok(name), Some(text)) if Stored::fits(text) => Some((name, Stored::from_text(text))),
            _ => None,
        };
        let written = match secret {
            Some(_) => Written::JsonText,
            None => Written::Json {
                key: raw_key.to_owned(),
                value: Zeroizing::new(raw_value.to_owned()),
            },
        };
        if let Some(Cow::Owned(mut text)) = text {
            text.zeroize();
        }
        refuse_sops(&key, raw_value.starts_with('{'))?;
        let entry = Entry {
            key: Some(key.clone().into_owned()),
            secret,
            written,
        };
        // The last of duplicate keys counts, as in Python's `json`.
        match indices.get(&key) {
            Some(&index) => document.entries[index] = entry,
            None if indices.len() >= max_keys => return Err(malformed(too_many_keys(max_keys))),
            None => {
                indices.insert(key, document.entries.len());
                document.entries.push(entry);
            }
        }
    }
    document.rebuild_index();
    Ok(document)
}

pub(super) fn parse_yaml(text: &str) -> Result<Document> {
    let parsed = yaml::parse(text).map_err(malformed)?;
    let pairs = match parsed.root {
        Value::Mapping(pairs) => pairs,
        // Comments and markers.
        root if root.is_null() && parsed.place.is_empty() => Vec::new(),
        _ => {
            return Err(malformed(
                "it is not an object of names and texts".to_owned(),
            ));
        }
    };
    for pair in &pairs {
        refuse_sops(
            pair.key.as_str().unwrap_or_default(),
            pair.value.is_mapping(),
        )?;
    }
    let secret = |key: &Value, value: &Value| {
        let name = SecretName::new(key.as_str()?).ok()?;
        let text = value.as_written().filter(|text| Stored::fits(text))?;
        Some((name, Stored::from_text(text)))
    };
    let (layout, entries) = Layout::split(text, pairs, (parsed.place, parsed.is_flow), secret);
    let mut document = Document::new(Some(layout));
    document.entries = entries;
    document.rebuild_index();
    Ok(document)
}

/// sops keeps the keys to the encrypted values in an object of this name.
fn refuse_sops(key: &str, is_object: bool) -> Result<()> {
    match key == "sops" && is_object {
        true => Err(malformed(encrypted_by("sops"))),
        false => Ok(()),
    }
}
