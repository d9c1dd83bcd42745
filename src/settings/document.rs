//! The settings file, `live.yaml`: reads it, and refuses names that no setting has. Knows no setting, flag or variable.

use std::collections::HashSet;
use std::path::Path;

use super::content::{MAX_SETTINGS, SettingsContent};
use super::setting::SettingRow;
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::text::text_of;
use crate::yaml::{self, Value};

/// In a setting's name, what joins the list and a setting of each of its entries.
const IN_EACH: &str = "[].";

/// The settings file.
#[derive(Default)]
pub(super) struct Document {
    root: Value,
    pub(super) content: SettingsContent,
    /// The file as the user named it, for messages.
    pub(super) name: String,
    pub(super) is_open_to_others: bool,
}

impl Document {
    /// Reads the file. A file that is missing is an empty one, unless it `must_exist`.
    pub(super) fn read(path: &Path, must_exist: bool) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |why: &str| Error::Settings(format!("{name}: {why}"));
        let content = match read_file(path, MAX_SETTINGS) {
            Ok(content) => content,
            Err(ReadError::Missing) if !must_exist => {
                return Self::parse(path, SettingsContent::default());
            }
            Err(ReadError::Missing) => return Err(failed("there is no such file")),
            Err(ReadError::NotAFile(what)) => return Err(failed(what)),
            Err(ReadError::TooLarge) => return Err(failed("it is over 1 MiB")),
            Err(ReadError::Io(error)) => return Err(Error::io(format!("reading {name}"), error)),
        };
        let is_open_to_others = content.is_open_to_others();
        Ok(Self {
            is_open_to_others,
            ..Self::parse(path, SettingsContent::of(content.bytes))?
        })
    }

    /// The file with this content. Without one, it is an empty one.
    pub(super) fn parse(path: &Path, content: SettingsContent) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |why: String| Error::Settings(format!("{name}: {why}"));
        let root = match content.bytes() {
            Some(bytes) => {
                let text = text_of(bytes).map_err(failed)?;
                yaml::parse(text).map_err(failed)?.root
            }
            None => Value::null(),
        };
        Ok(Self {
            root,
            content,
            name,
            is_open_to_others: false,
        })
    }

    /// Refuses a name that is not in the table.
    pub(super) fn check_names(&self, rows: &[SettingRow]) -> Result<()> {
        let is_set = |(setting, _): &&(&str, &str)| self.root.get(setting).is_some();
        match REMOVED.iter().find(is_set) {
            Some((setting, why)) => Err(self.wrong(&format!("{setting} {why}"))),
            None => self.check_group(&self.root, "", rows),
        }
    }

    /// Checks the names of a group: `within` is `timeout.` for what is inside `timeout`, and empty at the top.
    fn check_group(&self, group: &Value, within: &str, rows: &[SettingRow]) -> Result<()> {
        let map = match group {
            Value::Mapping(map) => map,
            Value::Sequence(entries) if within.ends_with(IN_EACH) => {
                let mut groups = entries.iter();
                return groups.try_for_each(|group| self.check_group(group, within, rows));
            }
            group if group.is_null() => return Ok(()),
            _ => {
                let group = within.trim_end_matches(IN_EACH);
                let group = group.strip_suffix('.').unwrap_or(match group {
                    "" => "it",
                    group => group,
                });
                return match rows.iter().any(|row| row.short == Some(group)) {
                    true => Ok(()),
                    false => Err(self.wrong(&format!("{group} must hold names and values"))),
                };
            }
        };
        let known = rows.iter().filter_map(|row| row.name.strip_prefix(within));
        let known: Vec<&str> = known
            .filter_map(|name| name.split(['.', '[']).next())
            .collect();
        let mut seen = HashSet::new();
        for pair in map {
            let Some(name) = pair.key.as_str() else {
                return Err(self.wrong(&format!("{within}a name is not text")));
            };
            if !known.contains(&name) {
                if !could_be_a_name(name) {
                    return Err(self.wrong(&format!(
                        "{within}a name is no setting, and is not shown: this may be another file"
                    )));
                }
                let distance = |known: &&&str| strsim::levenshtein(known, name);
                let nearest = known.iter().min_by_key(distance).copied();
                return Err(self.wrong(&format!(
                    "unknown setting {:?}; did you mean {:?}?",
                    format!("{within}{name}"),
                    format!("{within}{}", nearest.unwrap_or_default()),
                )));
            }
            if !seen.insert(name) {
                return Err(self.wrong(&format!("{within}{name} is set twice")));
            }
            for below in [".", IN_EACH].map(|joint| format!("{within}{name}{joint}")) {
                if rows.iter().any(|row| row.name.starts_with(&below)) {
                    self.check_group(&pair.value, &below, rows)?;
                }
            }
        }
        Ok(())
    }

    /// How many entries the list of this name has. What is no list counts as one.
    pub(super) fn entries(&self, list: &str) -> usize {
        match self.root.get(list) {
            Some(Value::Sequence(entries)) => entries.len(),
            Some(value) if !value.is_null() => 1,
            _ => 0,
        }
    }

    /// The value of a setting and the name that the file gives it: `timeout.total`, or `ttl` for `ttl.default` if the group holds just one
    /// value. A name without a value counts as absent. `entry` is the entry of the list, for a setting in a list.
    pub(super) fn find(&self, row: &SettingRow, entry: usize) -> Option<(&'static str, &Value)> {
        let alone = row
            .short
            .and_then(|group| Some((group, self.root.get(group)?)));
        let (name, value) = match alone.filter(|(_, value)| !value.is_mapping()) {
            Some(alone) => alone,
            None => (
                row.name,
                row.name.split('.').try_fold(&self.root, |group, name| {
                    match name.strip_suffix("[]") {
                        None => group.get(name),
                        Some(list) => match group.get(list)? {
                            Value::Sequence(entries) => entries.get(entry),
                            only => Some(only),
                        },
                    }
                })?,
            ),
        };
        (!value.is_null()).then_some((name, value))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Settings(format!("{}: {what}", self.name))
    }
}

/// Whether this may be a misspelt setting, and not a line of another file that is read in this one's place: it may hold secrets.
fn could_be_a_name(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    text.len() <= 64 && text.chars().all(is_part)
}

/// Settings that were removed, and their replacement.
const REMOVED: [(&str, &str); 3] = [
    (
        "access",
        "is gone: the mount is its owner's alone; for other users and containers, use a view (`views`, not there yet)",
    ),
    (
        "allow_other",
        "is gone: `allow_root: true` lets root in; for other users and containers, use a view (`views`, not there yet)",
    ),
    ("read_path", "is gone: there is one way to read"),
];
