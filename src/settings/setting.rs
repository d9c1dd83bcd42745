//! One setting: its names, its check and its documentation. Knows neither the settings file nor the environment.

use std::path::PathBuf;

use serde::Serialize;

use super::Flags;
use super::value::SettingValue;
use crate::secret::SecretValue;

/// A setting. Its type says how its value is parsed.
pub struct Setting<T> {
    pub(super) row: SettingRow,
    pub(super) flag: fn(&Flags) -> Option<T>,
    pub(super) default: fn() -> T,
    pub(super) check: fn(&T) -> Result<(), String>,
}

/// The names of a setting, and its documentation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SettingRow {
    /// The name in `live.yaml`; empty if only variables set it.
    #[serde(skip)]
    pub name: &'static str,
    /// The environment variables that set it; the first that is not empty counts.
    pub variables: &'static [&'static str],
    /// Whether the settings file overrides the variables, instead of the variables the file.
    pub file_comes_first: bool,
    /// How its value is written: `true or false`, `seconds`.
    pub form: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// A right value, as `live.yaml` has it.
    #[serde(skip)]
    pub(super) example: Option<&'static str>,
    /// A right value of its type.
    #[serde(skip)]
    pub(super) example_of_type: &'static str,
    /// The name of its group, if that may hold just its value: `ttl: 60` for `ttl: {default: 60}`.
    #[serde(skip)]
    pub(super) short: Option<&'static str>,
}

impl SettingRow {
    /// Its name, or else that of its variable.
    pub fn title(&self) -> &'static str {
        match (self.name, self.variables) {
            ("", [variable, ..]) => variable,
            (name, _) => name,
        }
    }

    /// Whether it is a credential, which nothing may show.
    pub fn is_secret(&self) -> bool {
        self.form == SecretValue::FORM
    }

    /// A right value, as `live.yaml` has it.
    pub(super) fn a_right_value(&self) -> &'static str {
        self.example.unwrap_or(self.example_of_type)
    }

    /// Whether it is the path of a file or a folder.
    pub fn is_path(&self) -> bool {
        self.form == PathBuf::FORM
    }
}

/// The setting of this name in `live.yaml`; `timeout.total` is `total` inside `timeout`.
pub fn setting<T: SettingValue + Default>(name: &'static str) -> Setting<T> {
    Setting {
        row: SettingRow {
            name,
            variables: &[],
            file_comes_first: false,
            form: T::FORM,
            help: "",
            example: None,
            example_of_type: T::EXAMPLE,
            short: None,
        },
        flag: |_| None,
        default: T::default,
        check: |_| Ok(()),
    }
}

/// A setting that only these variables set.
pub fn variables<T: SettingValue + Default>(names: &'static [&'static str]) -> Setting<T> {
    setting("").or_variables(names)
}

impl<T: SettingValue> Setting<T> {
    pub(super) fn a_right_value(&self) -> String {
        let default = || match (self.default)().to_json() {
            serde_json::Value::String(text) if !text.is_empty() => text,
            value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => {
                value.to_string()
            }
            _ => T::EXAMPLE.to_owned(),
        };
        self.row.example.map_or_else(default, ToOwned::to_owned)
    }

    /// Variables that override `live.yaml`.
    pub fn or_variables(mut self, names: &'static [&'static str]) -> Self {
        self.row.variables = names;
        self
    }

    /// Variables that count if `live.yaml` does not set it.
    pub fn else_variables(mut self, names: &'static [&'static str]) -> Self {
        self.row.file_comes_first = true;
        self.or_variables(names)
    }

    /// Its group may hold just its value.
    pub fn or_alone_as(mut self, group: &'static str) -> Self {
        self.row.short = Some(group);
        self
    }

    /// The command line's flag, which overrides everything else.
    pub fn or_flag(self, flag: fn(&Flags) -> Option<T>) -> Self {
        Self { flag, ..self }
    }

    /// The value if nothing sets it.
    pub fn default(self, default: fn() -> T) -> Self {
        Self { default, ..self }
    }

    /// What a value must be besides its type. The error continues the sentence after the setting's name, and does not quote
    /// the value.
    pub fn check(self, check: fn(&T) -> Result<(), String>) -> Self {
        Self { check, ..self }
    }

    /// The unit of a number.
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.row.form = unit;
        self
    }

    /// A right value, as `live.yaml` has it, for messages. Unless it is given, it is the default, or else one of the type.
    pub fn example(mut self, value: &'static str) -> Self {
        self.row.example = Some(value);
        self
    }

    /// What it is for, in one line.
    pub fn help(mut self, line: &'static str) -> Self {
        self.row.help = line.trim_ascii();
        self
    }
}
