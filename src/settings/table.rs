//! A setting as one row of a table. The row's field, the loader, the check of names, the documentation and the help all come from it.
//! Knows neither the settings file nor the environment.

use std::any::Any;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::reader::Reader;
use super::value::SettingValue;
use super::{Flags, Settings};
use crate::error::Result;
use crate::secret::SecretValue;

/// How a setting is found and checked. Its field's type says how it is parsed.
pub struct Setting<T> {
    pub(super) name: &'static str,
    pub(super) variables: &'static [&'static str],
    pub(super) file_comes_first: bool,
    pub(super) short: Option<&'static str>,
    pub(super) flag: fn(&Flags) -> Option<T>,
    pub(super) default: fn() -> T,
    pub(super) check: fn(&T) -> Result<(), String>,
    unit: &'static str,
}

/// The setting of this name in `live.yaml`; `timeout.total` is `total` inside `timeout`.
pub fn setting<T: SettingValue + Default>(name: &'static str) -> Setting<T> {
    Setting {
        name,
        variables: &[],
        file_comes_first: false,
        short: None,
        flag: |_| None,
        default: T::default,
        check: |_| Ok(()),
        unit: T::FORM,
    }
}

/// A setting that `live.yaml` cannot set, only the first of these variables that is not empty.
pub fn variables<T: SettingValue + Default>(names: &'static [&'static str]) -> Setting<T> {
    Setting {
        variables: names,
        ..setting("")
    }
}

impl<T: SettingValue> Setting<T> {
    /// The variables that override `live.yaml`, the first first.
    pub fn or_variables(self, names: &'static [&'static str]) -> Self {
        let variables = names;
        Self { variables, ..self }
    }

    /// The variables that count if `live.yaml` does not set it, the first first.
    pub fn else_variables(self, variables: &'static [&'static str]) -> Self {
        Self {
            variables,
            file_comes_first: true,
            ..self
        }
    }

    /// The name of its group, which may hold its value alone (`ttl: 60` for `ttl: {default: 60}`).
    pub(super) fn or_alone_as(self, group: &'static str) -> Self {
        Self {
            short: Some(group),
            ..self
        }
    }

    /// The command line's flag, which overrides everything else.
    pub(super) fn or_flag(self, flag: fn(&Flags) -> Option<T>) -> Self {
        Self { flag, ..self }
    }

    /// The value if nothing sets it.
    pub fn default(self, default: fn() -> T) -> Self {
        Self { default, ..self }
    }

    /// What a value must fulfil besides its type. The error continues the sentence after the setting's name, and does not quote
    /// the value.
    pub fn check(self, check: fn(&T) -> Result<(), String>) -> Self {
        Self { check, ..self }
    }

    /// The unit of a number.
    pub fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// The value if nothing sets it.
    pub fn default_value(&self) -> T {
        (self.default)()
    }

    /// Its name, or else that of its variable.
    pub(super) fn title(&self) -> &'static str {
        match (self.name, self.variables) {
            ("", [variable, ..]) => variable,
            (name, _) => name,
        }
    }

    /// The row, with its help.
    pub fn row(&self, help: &str) -> Row {
        Row {
            title: self.title(),
            name: self.name,
            variables: self.variables,
            form: self.unit,
            default: (self.default)().shown(),
            help: help.trim().to_owned(),
            short: self.short,
        }
    }
}

/// What the documentation, the help and the check of names need of a setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The name in `live.yaml`, or else that of its variable.
    pub title: &'static str,
    /// The name in `live.yaml`; empty if only variables set it.
    pub name: &'static str,
    /// The environment variables that set it; the first that is not empty counts.
    pub variables: &'static [&'static str],
    /// How its value is written: `true or false`, `seconds`.
    pub form: &'static str,
    /// The value if nothing sets it.
    pub default: Value,
    /// What it is for.
    pub help: String,
    #[serde(skip)]
    pub(super) short: Option<&'static str>,
}

impl Row {
    /// Whether it is a credential, which nothing may show.
    pub fn is_secret(&self) -> bool {
        self.form == SecretValue::FORM
    }

    /// Whether it is the path of a file or a folder.
    pub fn is_path(&self) -> bool {
        self.form == std::path::PathBuf::FORM
    }
}

/// A struct whose fields are settings; made by [`settings_table!`].
pub trait Table: Sized {
    /// Its rows.
    fn rows() -> Vec<Row>;

    /// Its values.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) says which setting is wrong.
    fn read(reader: &Reader<'_>) -> Result<Self>;
}

/// Defines a struct of settings: each field is a row, and its one line of documentation is the help. The fields `with` a reader are no settings,
/// but follow from them.
macro_rules! settings_table {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $( #[doc = $help:literal] $field:ident: $type:ty = $setting:expr, )*
        }
    ) => {
        $crate::settings::table::settings_table! {
            $(#[$meta])*
            $vis struct $Name {
                $( #[doc = $help] $field: $type = $setting, )*
            }
            with _reader {}
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $( $field: { let setting: $crate::settings::table::Setting<$type> = $setting; setting.default_value() }, )* }
            }
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $( #[doc = $help:literal] $field:ident: $type:ty = $setting:expr, )*
        }
        with $reader:ident {
            $( $(#[$other_meta:meta])* $other:ident: $other_type:ty = $value:expr, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $Name {
            $( #[doc = $help] pub $field: $type, )*
            $( $(#[$other_meta])* pub $other: $other_type, )*
        }

        impl $crate::settings::table::Table for $Name {
            fn rows() -> Vec<$crate::settings::table::Row> {
                vec![$( { let setting: $crate::settings::table::Setting<$type> = $setting; setting.row($help) }, )*]
            }

            fn read($reader: &$crate::settings::reader::Reader<'_>) -> $crate::error::Result<Self> {
                $( let $field: $type = $reader.read(&$setting)?; )*
                $( let $other: $other_type = $value; )*
                Ok(Self { $( $field, )* $( $other, )* })
            }
        }
    };
}
pub(crate) use settings_table;

/// The settings of a backend, for the loader, which knows no backend.
pub struct BackendSettings {
    /// The backend's name for people.
    pub title: &'static str,
    /// The setting that configures the backend. Unless it is set, the backend's variables do not count.
    pub switch: &'static str,
    /// Its rows.
    pub rows: fn() -> Vec<Row>,
    /// Reads what the backend is made from; `None` if it is not configured.
    pub read: fn(&Reader<'_>, &Settings) -> Result<Option<Options>>,
}

/// What a backend is made from, of a type that only the backend knows.
pub type Options = Arc<dyn Any + Send + Sync>;

/// The options without their type.
pub fn as_options<T: Any + Send + Sync>(options: Option<T>) -> Option<Options> {
    options.map(|options| Arc::new(options) as Options)
}
