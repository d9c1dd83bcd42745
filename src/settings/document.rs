//! The settings file, `live.yaml`: reads it, and refuses names that no setting has. Knows no setting, flag or variable.

use std::collections::HashSet;
use std::path::Path;

use super::content::{MAX_SETTINGS, SettingsContent};
use super::setting::Row;
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::text::text_of;
use crate::yaml::{self, Value};

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
    pub(super) fn check_names(&self, rows: &[Row]) -> Result<()> {
        let is_set = |(setting, _): &&(&str, &str)| self.root.get(setting).is_some();
        match REMOVED.iter().find(is_set) {
            Some((setting, why)) => Err(self.wrong(&format!("{setting} {why}"))),
            None => self.check_group(&self.root, "", rows),
        }
    }

    /// Checks the names of a group: `within` is `timeout.` for what is inside `timeout`, and empty at the top.
    fn check_group(&self, group: &Value, within: &str, rows: &[Row]) -> Result<()> {
        let map = match group {
            Value::Mapping(map) => map,
            group if group.is_null() => return Ok(()),
            _ => {
                let group = within.strip_suffix('.').unwrap_or("it");
                return match rows.iter().any(|row| row.short == Some(group)) {
                    true => Ok(()),
                    false => Err(self.wrong(&format!("{group} must hold names and values"))),
                };
            }
        };
        let known = rows.iter().filter_map(|row| row.name.strip_prefix(within));
        let known: Vec<&str> = known.filter_map(|name| name.split('.').next()).collect();
        let mut seen = HashSet::new();
        for pair in map {
            let Some(name) = pair.key.as_str() else {
                return Err(self.wrong(&format!("{within}a name is not text")));
            };
            if !known.contains(&name) {
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
            let below = format!("{within}{name}.");
            if rows.iter().any(|row| row.name.starts_with(&below)) {
                self.check_group(&pair.value, &below, rows)?;
            }
        }
        Ok(())
    }

    /// The value of a setting and the name that the file gives it: `timeout.total`, or `ttl` for `ttl.default` if the group holds just one
    /// value. A name without a value counts as absent.
    pub(super) fn find(&self, row: &Row) -> Option<(&'static str, &Value)> {
        let alone = row
            .short
            .and_then(|group| Some((group, self.root.get(group)?)));
        let (name, value) = match alone.filter(|(_, value)| !value.is_mapping()) {
            Some(alone) => alone,
            None => (
                row.name,
                row.name
                    .split('.')
                    .try_fold(&self.root, |group, name| group.get(name))?,
            ),
        };
        (!value.is_null()).then_some((name, value))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Settings(format!("{}: {what}", self.name))
    }
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
