//! The text of `views.json`: all definitions as one JSON object.

use std::collections::BTreeMap;

use super::definition::{Pairs, ViewDefinition};

/// The most views.
pub const MAX_VIEWS: usize = 10_000;
/// The most bytes of `views.json`.
pub(crate) const MAX_FILE: usize = 16 * 1024 * 1024;

/// The file for these views.
pub(super) fn to_text(views: &BTreeMap<String, ViewDefinition>) -> String {
    let views: serde_json::Map<String, serde_json::Value> = views
        .iter()
        .map(|(name, definition)| (name.clone(), definition.to_json()))
        .collect();
    let mut text = serde_json::to_string_pretty(&views).unwrap_or_default();
    text.push('\n');
    text
}

/// The views of a file.
///
/// # Errors
/// What is wrong, and in which view.
pub(super) fn parse_all(bytes: &[u8]) -> Result<BTreeMap<String, ViewDefinition>, String> {
    let views: Pairs = serde_json::from_slice(bytes)
        .map_err(|error| format!("it must be a JSON object of views: {error}"))?;
    check_number(views.0.len())?;
    let views = views.unique("the view")?.into_iter();
    let parse = |(name, text): (String, Box<serde_json::value::RawValue>)| {
        let definition = ViewDefinition::parse(&name, text.get().as_bytes());
        definition
            .map(|definition| (name, definition))
            .map_err(|error| error.to_string())
    };
    views.map(parse).collect()
}

/// How many views this text of `views.json` defines.
///
/// # Errors
/// What is wrong, and in which view.
pub(crate) fn count(bytes: &[u8]) -> Result<usize, String> {
    Ok(parse_all(bytes)?.len())
}

/// # Errors
/// There are too many views.
pub(super) fn check_number(views: usize) -> Result<(), String> {
    match views > MAX_VIEWS {
        true => Err(format!("there must be at most {MAX_VIEWS} views")),
        false => Ok(()),
    }
}
