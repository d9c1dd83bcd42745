//! Reads a settings document by names. The error for an unknown name suggests the nearest known one, the error for a wrong
//! type names the setting; neither quotes a value. Knows no setting.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::yaml::{Mapping, Value, get};

/// The longest duration that a setting may name: 31 years, far below what a clock overflows at.
const MAX_SECONDS: f64 = 1e9;

/// A mapping of the document, and its position for messages.
pub(super) struct Section<'a> {
    map: Option<&'a Mapping>,
    /// `live.yaml` as the user named it.
    file: &'a str,
    /// `timeout.` for what is inside `timeout`; empty at the top.
    within: String,
}

impl<'a> Section<'a> {
    /// The whole document, which may be empty.
    pub(super) fn top(root: &'a Value, file: &'a str, known: &[&str]) -> Result<Self> {
        Self::of(Some(root), file, String::new(), known)
    }

    fn of(value: Option<&'a Value>, file: &'a str, within: String, known: &[&str]) -> Result<Self> {
        let map = match value {
            Some(Value::Mapping(map)) => Some(map),
            Some(value) if !value.is_null() => {
                let what = match within.strip_suffix('.') {
                    Some(name) => format!("{name} must hold names and values"),
                    None => "it must hold names and values".to_owned(),
                };
                return Err(Error::Settings(format!("{file}: {what}")));
            }
            _ => None,
        };
        let section = Self { map, file, within };
        section.check(known)?;
        Ok(section)
    }

    fn check(&self, known: &[&str]) -> Result<()> {
        let mut seen = HashSet::new();
        for pair in self.map.into_iter().flatten() {
            let Some(key) = pair.key.as_str() else {
                return Err(Error::Settings(format!(
                    "{}: {}a name is not text",
                    self.file, self.within
                )));
            };
            if !known.contains(&key) {
                let nearest = known
                    .iter()
                    .min_by_key(|name| strsim::levenshtein(name, key));
                return Err(Error::Settings(format!(
                    "{}: unknown setting {:?}; did you mean {:?}?",
                    self.file,
                    format!("{}{key}", self.within),
                    format!("{}{}", self.within, nearest.unwrap_or(&"")),
                )));
            }
            if !seen.insert(key) {
                return Err(self.wrong(key, "is there twice"));
            }
        }
        Ok(())
    }

    /// The error for a setting; `must` continues the sentence after its name.
    pub(super) fn wrong(&self, name: &str, must: &str) -> Error {
        Error::Settings(format!("{}: {}{name} {must}", self.file, self.within))
    }

    /// The value; a name without a value counts as absent.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        get(self.map?, name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let wrong = || {
            self.wrong(
                name,
                "must be a text (in quotes, if it looks like a number)",
            )
        };
        let text = |value: &'a Value| value.as_str().ok_or_else(wrong);
        self.value(name).map(text).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        let wrong = || self.wrong(name, "must be true or false");
        let flag = |value: &Value| value.as_bool().ok_or_else(wrong);
        self.value(name).map(flag).transpose()
    }

    /// A duration in seconds; `positive` ones must not be zero.
    pub(super) fn seconds(&self, name: &str, positive: bool) -> Result<Option<Duration>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let must = if positive {
            "must be a number of seconds above 0"
        } else {
            "must be a number of seconds, 0 or more"
        };
        let fits =
            |seconds: &f64| (0.0..=MAX_SECONDS).contains(seconds) && !(positive && *seconds == 0.0);
        let seconds = value.as_f64().filter(fits);
        let seconds = seconds.ok_or_else(|| self.wrong(name, must))?;
        Ok(Some(Duration::from_secs_f64(seconds)))
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>> {
        let wrong = || self.wrong(name, "must be a list of texts");
        let items = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Sequence(items)) => items,
            Some(_) => return Err(wrong()),
        };
        let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(wrong);
        items.iter().map(text).collect()
    }

    /// The mapping that a setting holds.
    pub(super) fn section(&self, name: &str, known: &[&str]) -> Result<Section<'a>> {
        let within = format!("{}{name}.", self.within);
        Self::of(self.value(name), self.file, within, known)
    }

    /// The mapping that a setting holds, if the user chooses its names; and the names.
    pub(super) fn names_of(&self, name: &str) -> Result<(Section<'a>, Vec<&'a str>)> {
        let names: Vec<&str> = match self.value(name) {
            None => Vec::new(),
            Some(Value::Mapping(map)) => map.iter().filter_map(|pair| pair.key.as_str()).collect(),
            Some(_) => return Err(self.wrong(name, "must hold names and values")),
        };
        Ok((self.section(name, &names)?, names))
    }
}
