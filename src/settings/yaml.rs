//! A settings document read name by name: an unknown name is told with the nearest known one, a wrong type with the
//! setting's name. Knows no setting itself, and quotes no value.

use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::error::{Error, Result};

/// The longest duration that a setting may name: 31 years, far below what a clock overflows at.
const MAX_SECONDS: f64 = 1e9;

/// One mapping of the document, and where it stands.
pub(super) struct Section<'a> {
    map: Option<&'a Mapping>,
    /// `live.yaml` as the user named it.
    file: &'a str,
    /// `timeout.` for what is inside `timeout`; empty at the top.
    within: String,
}

impl<'a> Section<'a> {
    /// The top of a document; an empty one has no settings.
    pub(super) fn top(root: &'a Value, file: &'a str, known: &[&str]) -> Result<Self> {
        Self::of(root, file, String::new(), known)
    }

    fn of(value: &'a Value, file: &'a str, within: String, known: &[&str]) -> Result<Self> {
        let map = match value {
            Value::Mapping(map) => Some(map),
            Value::Null => None,
            _ => {
                let what = match within.strip_suffix('.') {
                    Some(name) => format!("{name} must hold names and values"),
                    None => "it must hold names and values".to_owned(),
                };
                return Err(Error::Settings(format!("{file}: {what}")));
            }
        };
        let section = Self { map, file, within };
        section.check(known)?;
        Ok(section)
    }

    fn check(&self, known: &[&str]) -> Result<()> {
        for key in self.map.into_iter().flat_map(Mapping::keys) {
            let Some(key) = key.as_str() else {
                return Err(Error::Settings(format!(
                    "{}: {}a name is no text",
                    self.file, self.within
                )));
            };
            if !known.contains(&key) {
                let nearest = known.iter().min_by_key(|name| distance(name, key));
                return Err(Error::Settings(format!(
                    "{}: unknown setting {:?}; did you mean {:?}?",
                    self.file,
                    format!("{}{key}", self.within),
                    format!("{}{}", self.within, nearest.unwrap_or(&"")),
                )));
            }
        }
        Ok(())
    }

    /// What is wrong with a setting.
    pub(super) fn wrong(&self, name: &str, must: &str) -> Error {
        Error::Settings(format!("{}: {}{name} {must}", self.file, self.within))
    }

    /// The value as it stands; a name without a value is as if it was not there.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(
                name,
                "must be a text (in quotes, if it looks like a number)",
            )),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
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

    /// A list of texts; numbers are taken as texts where `numbers` says so (user ids).
    pub(super) fn texts(&self, name: &str, numbers: bool) -> Result<Vec<String>> {
        let wrong = || self.wrong(name, "must be a list of texts");
        let items = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Sequence(items)) => items,
            Some(_) => return Err(wrong()),
        };
        let text = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) if numbers && number.is_u64() => Ok(number.to_string()),
            _ => Err(wrong()),
        };
        items.iter().map(text).collect()
    }

    /// The mapping inside a setting.
    pub(super) fn section(&self, name: &str, known: &[&str]) -> Result<Section<'a>> {
        let within = format!("{}{name}.", self.within);
        Self::of(
            self.value(name).unwrap_or(&Value::Null),
            self.file,
            within,
            known,
        )
    }

    /// The mapping inside a setting, whose names are the user's own.
    pub(super) fn names_of(&self, name: &str) -> Result<(Section<'a>, Vec<&'a str>)> {
        let names: Vec<&str> = match self.value(name) {
            None => Vec::new(),
            Some(Value::Mapping(map)) => map.keys().filter_map(Value::as_str).collect(),
            Some(_) => return Err(self.wrong(name, "must hold names and values")),
        };
        Ok((self.section(name, &names)?, names))
    }
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        for (a, b, n) in [
            ("", "", 0),
            ("ttl", "tll", 1),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), n);
        }
    }
}
