//! Parses the bytes of a secrets file. Its errors never quote a value.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_yaml::Value as Yaml;
use zeroize::{Zeroize, Zeroizing};

use super::super::json;
use super::{Document, Entry, MAX_DOCUMENT, Raw, Stored, WipedYaml, malformed};
use crate::error::Result;
use crate::secret::SecretName;

/// Parses a secrets file: a flat object of names and texts, in JSON or, with `yaml`, in either format.
///
/// # Errors
/// [`Error::Malformed`](crate::error::Error::Malformed), which never quotes a value.
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

fn parse_json(text: &str) -> Result<Document> {
    json::check_object(text).map_err(malformed)?;
    let mut document = Document::empty(false);
    let mut indices: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for (raw_key, raw_value) in json::members(text) {
        let Some(key) = json::text_of(raw_key) else {
            return Err(malformed("a key is not valid text".to_owned()));
        };
        let text = json::text_of(raw_value);
        let entry = match (SecretName::new(&key), &text) {
            (Ok(name), Some(text)) if Stored::fits(text) => Entry::Secret {
                name,
                stored: Stored::from_text(text),
            },
            _ => Entry::Other {
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
        // The last of duplicate keys counts, as in Python's `json`.
        match indices.get(&key) {
            Some(&index) => document.entries[index] = entry,
            None => {
                indices.insert(key, document.entries.len());
                document.entries.push(entry);
            }
        }
    }
    document.rebuild_index();
    Ok(document)
}

fn parse_yaml(text: &str) -> Result<Document> {
    let mut document = Document::empty(true);
    document.has_comments = text
        .lines()
        .any(|line| line.trim_start().starts_with('#') || line.contains(" #"));
    // The parser's own message may quote a value.
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
            _ => Entry::Other {
                key: key.as_str().map(ToOwned::to_owned),
                raw: Raw::Yaml { key, value },
            },
        });
    }
    document.rebuild_index();
    Ok(document)
}

fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---"
}
