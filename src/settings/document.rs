//! The settings file, `live.yaml`: reads it, and refuses names that no setting has. Knows no setting, flag or variable.

use std::collections::HashMap;
use std::path::Path;

use super::content::{MAX_SETTINGS, SettingsContent};
use super::setting::SettingRow;
use super::value::Place;
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::text::text_of;
use crate::yaml::{self, Pair, Value};

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
        let removed = |(name, why)| Some((self.root.entry(name)?.line, name, why));
        match REMOVED.into_iter().find_map(removed) {
            Some((line, setting, why)) => Err(self.wrong(line, &format!("{setting} {why}"))),
            None => self.check_group(&self.root, (1, ""), rows),
        }
    }

    /// Checks the names of a group: `within` is `timeout.` for what is inside `timeout`, and empty at the top. `line` is that of
    /// the group's name.
    fn check_group(
        &self,
        group: &Value,
        (line, within): (usize, &str),
        rows: &[SettingRow],
    ) -> Result<()> {
        let known = rows.iter().filter_map(|row| row.name.strip_prefix(within));
        let known: Vec<&str> = known
            .filter_map(|name| name.split(['.', '[']).next())
            // Only a variable sets it.
            .filter(|name| !name.is_empty())
            .collect();
        let map = match group {
            Value::Mapping(map) => map,
            Value::Sequence(entries) if within.ends_with(IN_EACH) => {
                let mut groups = entries.iter();
                return groups.try_for_each(|group| self.check_group(group, (line, within), rows));
            }
            group if group.is_null() => return Ok(()),
            _ => return self.check_lone_value(group, (line, within), &known, rows),
        };
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for pair in map {
            let line = pair.line;
            let Some(name) = pair.key.as_str() else {
                return Err(self.wrong(line, "a name is not a text"));
            };
            if !known.contains(&name) {
                if !could_be_a_name(name) {
                    return Err(self.wrong(
                        line,
                        "the name is no setting, and is not shown: this may be another file",
                    ));
                }
                let what = match nearest(name, &known) {
                    Some(nearest) => {
                        format!("did you mean {:?}?", format!("{within}{nearest}"))
                    }
                    None => "`simpletuner-live settings` shows all".to_owned(),
                };
                let unknown = format!("{within}{name}");
                return Err(self.wrong(line, &format!("unknown setting {unknown:?}; {what}")));
            }
            if let Some(first) = seen.insert(name, line) {
                let what = format!("{within}{name} is set twice, in line {first} and here");
                return Err(self.wrong(line, &what));
            }
            for below in [".", IN_EACH].map(|joint| format!("{within}{name}{joint}")) {
                if rows.iter().any(|row| row.name.starts_with(&below)) {
                    self.check_group(&pair.value, (line, &below), rows)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a value that stands where names and values should: a group may have a setting that it stands for.
    fn check_lone_value(
        &self,
        value: &Value,
        (line, within): (usize, &str),
        known: &[&str],
        rows: &[SettingRow],
    ) -> Result<()> {
        let is = value.type_name();
        let example = |name: &&str| {
            let full = format!("{within}{name}");
            let row = rows.iter().find(|row| row.name == full);
            format!("{name}: {}", row.map_or("...", SettingRow::a_right_value))
        };
        let names: Vec<String> = known.iter().map(example).collect();
        let what = match (within.strip_suffix(IN_EACH), within.strip_suffix('.')) {
            (Some(list), _) => format!(
                "{list} must be a list of names and values, not {is}; for example: {list}: [{{{}}}]",
                names[..names.len().min(2)].join(", ")
            ),
            (None, Some(group)) if rows.iter().any(|row| row.short == Some(group)) => return Ok(()),
            (None, Some(group)) => format!(
                "{group} must hold names and values, not {is}; for example: {group}: {{{}}}",
                names[0]
            ),
            (None, None) => format!(
                "the file must hold names and values, not {is}; for example: `ttl: 60`, with a blank behind the colon"
            ),
        };
        Err(self.wrong(line, &what))
    }

    /// How many entries the list of this name has. What is no list counts as one.
    pub(super) fn entries(&self, list: &str) -> usize {
        match self.root.get(list) {
            Some(Value::Sequence(entries)) => entries.len(),
            Some(value) if !value.is_null() => 1,
            _ => 0,
        }
    }

    /// The value of a setting, where it stands, and the name that the file gives it: `timeout.total`, or `ttl` for `ttl.default` if
    /// the group holds just one value. A name without a value counts as absent. `entry` is the entry of the list, for a
    /// setting in a list.
    pub(super) fn find(
        &self,
        row: &SettingRow,
        entry: usize,
    ) -> Option<(&'static str, Place<'_>, &Value)> {
        let alone = row
            .short
            .and_then(|group| Some((group, self.root.entry(group)?)));
        let (name, found) = match alone.filter(|(_, found)| !found.value.is_mapping()) {
            Some(alone) => alone,
            None => (row.name, self.entry_of(row.name, entry)?),
        };
        let place = self.place(found.line);
        (!found.value.is_null()).then_some((name, place, &found.value))
    }

    /// Where a setting stands, or else the nearest group or list that it belongs to.
    pub(super) fn place_of(&self, name: &str, entry: usize) -> Place<'_> {
        let list = name.split("[]").next().unwrap_or(name);
        let first_of_entry = || match self.root.get(list)? {
            Value::Sequence(entries) => match entries.get(entry)? {
                Value::Mapping(pairs) => pairs.first(),
                _ => None,
            },
            _ => None,
        };
        let found = self.entry_of(name, entry).or_else(first_of_entry);
        let found = found.or_else(|| self.root.entry(list));
        self.place(found.map_or(1, |found| found.line))
    }

    fn entry_of(&self, name: &str, entry: usize) -> Option<&Pair> {
        let mut parts = name.split('.').peekable();
        let mut group = &self.root;
        while let Some(part) = parts.next() {
            let list = part.strip_suffix("[]");
            let found = group.entry(list.unwrap_or(part))?;
            if parts.peek().is_none() {
                return Some(found);
            }
            group = match &found.value {
                Value::Sequence(entries) if list.is_some() => entries.get(entry)?,
                only => only,
            };
        }
        None
    }

    fn place(&self, line: usize) -> Place<'_> {
        Place {
            file: &self.name,
            line,
        }
    }

    fn wrong(&self, line: usize, what: &str) -> Error {
        Error::Settings(format!("{}: {what}", self.place(line)))
    }
}

/// The known name that this one was probably meant to be: no more than half of it differs.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known
        .iter()
        .map(|known| (strsim::levenshtein(known, name), *known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance * 2 <= name.len().max(nearest.len())).then_some(nearest)
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
        "is gone: the mount is its owner's alone; for other users and containers, use a view (`simpletuner-live view create`)",
    ),
    (
        "allow_other",
        "is gone: `allow_root: true` lets root in; for other users and containers, use a view (`simpletuner-live view create`)",
    ),
    ("read_path", "is gone: there is one way to read"),
];
