//! The types that a setting can have: how each is parsed and shown. An error names the setting, and never quotes the value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::base_paths::BasePaths;
use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};
use crate::yaml::Value;

/// The longest duration that a setting may name: 31 years, far below what a clock overflows at.
const MAX_SECONDS: f64 = 1e9;

/// The type of a setting.
pub trait SettingValue: Sized {
    /// How it is written, for people.
    const FORM: &'static str;

    /// Parses a value.
    ///
    /// # Errors
    /// [`Error::Settings`] names the setting.
    fn parse(raw: &RawSetting<'_>) -> Result<Self>;

    /// Parses a value that may stand for none.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    fn parse_optional(raw: &RawSetting<'_>) -> Result<Option<Self>> {
        Self::parse(raw).map(Some)
    }

    /// The value for people and scripts; a secret only says that it is set.
    fn to_json(&self) -> serde_json::Value;
}

/// A value that the settings file or a variable gives.
pub struct RawSetting<'a> {
    /// The setting's name, or the variable's.
    pub(super) name: String,
    pub(super) source: Source<'a>,
    pub(super) base: &'a BasePaths,
}

#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// `live.yaml` as the user named it, and the value in it.
    File(&'a str, &'a Value),
    Variable(&'a str),
}

impl RawSetting<'_> {
    /// The error for this setting; `must` continues the sentence after its name.
    pub(super) fn wrong(&self, must: &str) -> Error {
        Error::Settings(match self.source {
            Source::File(file, _) => format!("{file}: {} {must}", self.name),
            Source::Variable(_) => format!("{} {must}", self.name),
        })
    }

    fn text(&self) -> Result<&str> {
        let wrong = || self.wrong("must be a text (in quotes, if it looks like a number)");
        match self.source {
            Source::File(_, value) => value.as_str().ok_or_else(wrong),
            Source::Variable(text) => Ok(text),
        }
    }

    fn number(&self) -> Option<f64> {
        match self.source {
            Source::File(_, value) => value.as_f64(),
            Source::Variable(text) => text.parse().ok(),
        }
    }
}

impl SettingValue for bool {
    const FORM: &'static str = "true or false";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let wrong = || raw.wrong("must be true or false");
        match raw.source {
            Source::File(_, value) => value.as_bool().ok_or_else(wrong),
            // As Vault's own command line does (Go's `strconv.ParseBool`).
            Source::Variable("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Source::Variable("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Source::Variable(_) => Err(wrong()),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
}

impl SettingValue for String {
    const FORM: &'static str = "text";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        raw.text().map(ToOwned::to_owned)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_str().into()
    }
}

impl SettingValue for SecretValue {
    const FORM: &'static str = "secret text";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        raw.text().map(Self::new)
    }

    fn parse_optional(raw: &RawSetting<'_>) -> Result<Option<Self>> {
        let text = raw.text()?;
        Ok((!text.is_empty()).then(|| Self::new(text)))
    }

    fn to_json(&self) -> serde_json::Value {
        "(secret)".into()
    }
}

/// A path of a variable may be relative to the working folder, as in other programs; one of `live.yaml` is relative to that
/// file's folder. It must not lead into the mount: the server would wait for itself.
impl SettingValue for PathBuf {
    const FORM: &'static str = "path";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let base = raw.base;
        let path = match (raw.source, raw.text()?) {
            (_, "") => return Err(raw.wrong("must be a path")),
            (Source::Variable(_), text) => base.absolute(Path::new(text))?,
            (Source::File(..), text) => {
                let beside = base.config_file.parent().unwrap_or(Path::new("/"));
                base.expand(text, beside)?
            }
        };
        base.keep_out_of_mount(&raw.name, &path)?;
        Ok(path)
    }

    fn to_json(&self) -> serde_json::Value {
        self.display().to_string().into()
    }
}

impl SettingValue for Duration {
    const FORM: &'static str = "seconds";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let fits = |seconds: &f64| (0.0..=MAX_SECONDS).contains(seconds);
        let seconds = raw.number().filter(fits);
        let must = "must be a number of seconds, 0 or more";
        seconds
            .map(Duration::from_secs_f64)
            .ok_or_else(|| raw.wrong(must))
    }

    fn to_json(&self) -> serde_json::Value {
        match self.subsec_nanos() {
            0 => self.as_secs().into(),
            _ => self.as_secs_f64().into(),
        }
    }
}

/// For [`Setting::check`](super::setting::Setting::check): `must` continues the sentence after the setting's name.
pub(super) fn ensure(is_right: bool, must: &str) -> Result<(), String> {
    is_right.then_some(()).ok_or_else(|| must.to_owned())
}

pub(super) fn above_zero(duration: &Duration) -> Result<(), String> {
    ensure(!duration.is_zero(), "must be a number of seconds above 0")
}

impl SettingValue for u32 {
    const FORM: &'static str = "whole number";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let whole =
            |number: &f64| number.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(number);
        let number = raw.number().filter(whole);
        let number = number.ok_or_else(|| raw.wrong("must be a whole number, 0 or more"))?;
        Ok(number as u32)
    }

    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
}

/// Words as they stand, which may be empty and may have commas in them.
impl SettingValue for Vec<String> {
    const FORM: &'static str = "list of texts";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let wrong = || raw.wrong("must be a list of texts (in quotes, if one looks like a number)");
        let Source::File(_, Value::Sequence(items)) = raw.source else {
            return Err(wrong());
        };
        let text = |item: &Value| item.as_str().map(ToOwned::to_owned).ok_or_else(wrong);
        items.iter().map(text).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        json!(self)
    }
}

impl SettingValue for Vec<SecretName> {
    const FORM: &'static str = "list of keys";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let wrong = || raw.wrong("must be a list of texts");
        let texts: Vec<&str> = match raw.source {
            Source::Variable(text) => text.split(',').map(str::trim).collect(),
            Source::File(_, Value::Sequence(items)) => {
                let texts = items.iter().map(|item| item.as_str().ok_or_else(wrong));
                texts.collect::<Result<_>>()?
            }
            Source::File(..) => return Err(wrong()),
        };
        let name = |text: &str| {
            SecretName::new(text).map_err(|error| raw.wrong(&format!("is wrong: {error}")))
        };
        texts.into_iter().map(name).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        json!(self)
    }
}

impl SettingValue for BTreeMap<SecretName, Duration> {
    const FORM: &'static str = "keys and seconds";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let Source::File(file, Value::Mapping(map)) = raw.source else {
            return Err(raw.wrong("must hold names and values"));
        };
        let mut durations = Self::new();
        for pair in map.iter().filter(|pair| !pair.value.is_null()) {
            let key = pair
                .key
                .as_str()
                .ok_or_else(|| raw.wrong("holds a name that is not text"))?;
            let name =
                SecretName::new(key).map_err(|error| raw.wrong(&format!("is wrong: {error}")))?;
            let below = RawSetting {
                name: format!("{}.{key}", raw.name),
                source: Source::File(file, &pair.value),
                ..*raw
            };
            let duration = Duration::parse(&below)?;
            above_zero(&duration).map_err(|must| below.wrong(&must))?;
            if durations.insert(name, duration).is_some() {
                return Err(below.wrong("is set twice"));
            }
        }
        Ok(durations)
    }

    fn to_json(&self) -> serde_json::Value {
        let rows = self
            .iter()
            .map(|(name, time)| (name.to_string(), time.to_json()));
        serde_json::Value::Object(rows.collect())
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    const FORM: &'static str = T::FORM;

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        T::parse_optional(raw)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_ref().map_or(serde_json::Value::Null, T::to_json)
    }
}
