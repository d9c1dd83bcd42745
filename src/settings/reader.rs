//! Finds the value of each setting, by precedence: flag, variable, settings file, default. Remembers where each came from. Knows no
//! setting.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Flags;
use super::base_paths::BasePaths;
use super::document::Document;
use super::table::{Row, Setting};
use super::value::{Given, SettingValue, Source};
use crate::error::Result;
use crate::secret::SecretValue;

/// Where settings come from.
pub struct Reader<'a> {
    flags: &'a Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) document: Document,
    pub(super) base: BasePaths,
    pub(super) mount_point: PathBuf,
    /// `/` except in tests.
    pub(super) root: &'a Path,
    variables_count: Cell<bool>,
    found: RefCell<Vec<SettingInForce>>,
}

/// A setting, its value, and where the value came from.
#[derive(Clone, Debug, Serialize)]
pub struct SettingInForce {
    /// The setting's name, or else that of its variable.
    pub name: &'static str,
    /// The value; a secret only says that it is set.
    pub value: Value,
    /// Where it came from.
    pub from: Origin,
    /// Whether it is a credential.
    #[serde(skip)]
    pub(super) is_secret: bool,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Variable(String),
    /// The settings file.
    File,
    /// Nothing sets it.
    Default,
}

impl<'a> Reader<'a> {
    /// An empty variable counts as unset, so `env` returns none.
    pub(super) fn new(
        flags: &'a Flags,
        env: &'a dyn Fn(&str) -> Option<String>,
        root: &'a Path,
        base: BasePaths,
        mount_point: PathBuf,
    ) -> Result<Self> {
        Ok(Self {
            document: Document::read(&base.config_file, flags.config.is_some())?,
            flags,
            env,
            base,
            mount_point,
            root,
            variables_count: Cell::new(true),
            found: RefCell::default(),
        })
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) names the setting.
    pub fn read<T: SettingValue>(&self, setting: &Setting<T>) -> Result<T> {
        let (value, from) = match (setting.flag)(self.flags) {
            Some(value) => (value, Origin::Flag),
            None => self.find(setting)?,
        };
        self.found.borrow_mut().push(SettingInForce {
            name: setting.title(),
            value: value.shown(),
            from,
            is_secret: T::FORM == SecretValue::FORM,
        });
        Ok(value)
    }

    fn find<T: SettingValue>(&self, setting: &Setting<T>) -> Result<(T, Origin)> {
        let file = self.document.find(setting.name, setting.short);
        let variable =
            match self.variables_count.get() && !(setting.file_comes_first && file.is_some()) {
                true => self.variable(setting.variables),
                false => None,
            };
        let (name, source, from) = match (&variable, file) {
            (Some((name, text)), _) => {
                let from = Origin::Variable((*name).to_owned());
                (*name, Source::Variable(text), from)
            }
            (None, Some((name, value))) => {
                (name, Source::File(&self.document.name, value), Origin::File)
            }
            (None, None) => return Ok(((setting.default)(), Origin::Default)),
        };
        let given = Given {
            name: name.to_owned(),
            source,
            base: &self.base,
            mount_point: &self.mount_point,
        };
        let value = T::parse(&given)?;
        (setting.check)(&value).map_err(|must| given.wrong(&must))?;
        Ok((value, from))
    }

    /// The first of the variables that is set.
    fn variable(&self, names: &[&'static str]) -> Option<(&'static str, Zeroizing<String>)> {
        let mut set = names
            .iter()
            .filter_map(|name| Some((*name, (self.env)(name)?)));
        set.next().map(|(name, text)| (name, Zeroizing::new(text)))
    }

    /// From now on, variables count only if one of these rows is set, the backend's switch.
    pub(super) fn count_variables_if_set(&self, rows: &[Row], switch: &str) {
        let is_set = |row: &Row| {
            self.document.find(row.name, None).is_some() || self.variable(row.variables).is_some()
        };
        let switch = rows.iter().find(|row| row.name == switch);
        self.variables_count.set(switch.is_some_and(is_set));
    }

    /// What was read so far.
    pub(super) fn in_force(&self) -> Vec<SettingInForce> {
        self.found.take()
    }
}
