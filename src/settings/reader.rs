//! Finds the value of each setting by precedence (flag, variable, settings file, default), and remembers where it came from.
//! Knows no setting.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Flags;
use super::base_paths::BasePaths;
use super::document::Document;
use super::setting::{Setting, SettingRow};
use super::value::{RawSetting, SettingValue, Source};
use crate::error::{Error, Result};

/// Looks settings up in the flags, the environment and the settings file.
pub struct Reader<'a> {
    flags: Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) document: Document,
    pub(super) base: BasePaths,
    variables_count: Cell<bool>,
    /// Which entry of a list is read.
    entry: Cell<usize>,
    read: RefCell<Vec<SettingInForce>>,
}

/// A setting, its value, and where the value came from.
#[derive(Clone, Debug, Serialize)]
pub struct SettingInForce {
    /// Its name, or else that of its variable.
    pub name: &'static str,
    /// The value; a secret only says that it is set.
    pub value: Value,
    /// Where it came from.
    pub from: Origin,
    /// How it is set, and what it is for.
    #[serde(flatten)]
    pub row: SettingRow,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Variable(&'static str),
    /// The settings file.
    File,
    /// Nothing sets it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Flag => "flag",
            Origin::Variable(name) => name,
            Origin::File => "file",
            Origin::Default => "default",
        })
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'a> Reader<'a> {
    /// An empty variable counts as unset, so `env` returns none.
    pub(super) fn new(
        flags: Flags,
        env: &'a dyn Fn(&str) -> Option<String>,
        base: BasePaths,
    ) -> Result<Self> {
        Ok(Self {
            document: match &flags.content {
                Some(content) => Document::parse(&base.config_file, content.clone())?,
                None => Document::read(&base.config_file, flags.config.is_some())?,
            },
            flags,
            env,
            base,
            ..Self::empty()
        })
    }

    /// A reader by which nothing is set, so that it reads the defaults.
    pub(super) fn empty() -> Self {
        Self {
            flags: Flags::default(),
            env: &|_| None,
            document: Document::default(),
            base: BasePaths::default(),
            variables_count: Cell::new(true),
            entry: Cell::new(0),
            read: RefCell::default(),
        }
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) names the setting.
    pub fn read<T: SettingValue>(&self, setting: Setting<T>) -> Result<T> {
        let (value, from) = match (setting.flag)(&self.flags) {
            Some(value) => (value, Origin::Flag),
            None => self.find(&setting)?,
        };
        self.read.borrow_mut().push(SettingInForce {
            name: setting.row.title(),
            value: value.to_json(),
            from,
            row: setting.row,
        });
        Ok(value)
    }

    fn find<T: SettingValue>(&self, setting: &Setting<T>) -> Result<(T, Origin)> {
        let row = &setting.row;
        let file = self.document.find(row, self.entry.get());
        let file_decides = row.file_comes_first && file.is_some();
        let variable = match self.variables_count.get() && !file_decides {
            true => self.variable(row),
            false => None,
        };
        let (name, source, from) = match (&variable, file) {
            (Some((name, text)), _) => (*name, Source::Variable(text), Origin::Variable(name)),
            (None, Some((name, place, value))) => (name, Source::File(place, value), Origin::File),
            (None, None) => return Ok(((setting.default)(), Origin::Default)),
        };
        let raw = RawSetting {
            name: name.replace("[]", &format!("[{}]", self.entry.get())),
            source,
            example: setting.a_right_value(),
            base: &self.base,
        };
        let value = T::parse(&raw)?;
        (setting.check)(&value).map_err(|must| raw.wrong(&must))?;
        Ok((value, from))
    }

    /// The error about a setting of an entry of a list, or of the file; `what` continues the sentence after its name.
    pub fn wrong(&self, name: &str, entry: usize, what: &str) -> Error {
        let place = self.document.place_of(name, entry);
        let name = name.replace("[]", &format!("[{entry}]"));
        Error::Settings(format!("{place}: {name} {what}"))
    }

    /// Reads the entries of a list, whose settings are named `LIST[].NAME`. `read` must accept the defaults: without any entry
    /// it is called once, so that the table has the settings.
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read_each<T>(
        &self,
        list: &str,
        mut read: impl FnMut(&Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let entries = self.document.entries(list);
        let mut all = Vec::new();
        for entry in 0..entries.max(1) {
            self.entry.set(entry);
            all.push(read(self)?);
        }
        all.truncate(entries);
        Ok(all)
    }

    /// The first of the variables that is set.
    fn variable(&self, row: &SettingRow) -> Option<(&'static str, Zeroizing<String>)> {
        let text = |name: &&'static str| Some((*name, Zeroizing::new((self.env)(name)?)));
        row.variables.iter().find_map(text)
    }

    /// From now on, variables are read only if this setting is set: a backend that is not configured reads none.
    pub(super) fn use_variables_only_with(&self, row: Option<&SettingRow>) {
        let is_set = |row| self.document.find(row, 0).is_some() || self.variable(row).is_some();
        self.variables_count.set(row.is_some_and(is_set));
    }

    /// What was read since the last call.
    pub(super) fn take_read(&self) -> Vec<SettingInForce> {
        self.read.take()
    }
}
