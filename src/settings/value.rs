//! The types that a setting can have: how each is parsed and shown. An error names the setting, and never quotes the value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::base_paths::BasePaths;
use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};
use crate::yaml::{Kind, Value};

/// The longest duration that a setting may name: 31 years, far below what a clock overflows at.
const MAX_SECONDS: f64 = 1e9;

/// The type of a setting.
pub trait SettingValue: Sized {
    /// How it is written, for people.
    const FORM: &'static str;
    /// A value as `live.yaml` has it.
    const EXAMPLE: &'static str;

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
    /// A right value, as `live.yaml` has it.
    pub(super) example: String,
    pub(super) base: &'a BasePaths,
}

#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    File(Place<'a>, &'a Value),
    Variable(&'a str),
}

/// Where a value stands: `live.yaml` as the user named it, and the line.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: usize,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}", self.file, self.line)
    }
}

/// A setting as `live.yaml` has it: `timeout: {total: 10}` for `timeout.total`.
fn in_yaml(name: &str, value: &str) -> String {
    let name = name.rsplit("].").next().unwrap_or(name);
    let mut parts = name.rsplit('.');
    let last = format!("{}: {value}", parts.next().unwrap_or(name));
    parts.fold(last, |inner, group| format!("{group}: {{{inner}}}"))
}

impl RawSetting<'_> {
    /// The error for this setting; `must` continues the sentence after its name.
    pub(super) fn wrong(&self, must: &str) -> Error {
        let Self { name, example, .. } = self;
        Error::Settings(match self.source {
            Source::File(place, _) => {
                let example = in_yaml(name, example);
                format!("{place}: {name} {must}; for example: {example}")
            }
            Source::Variable(_) => {
                let example = example.trim_matches(['[', ']', '"']);
                format!("the variable {name} {must}; for example: {name}={example}")
            }
        })
    }

    /// The error for a value of another type.
    fn wrong_type(&self, must: &str) -> Error {
        match self.source {
            Source::Variable(_) => self.wrong(must),
            Source::File(_, value) if value.needs_its_quotes() => {
                self.wrong(&format!("{must}, without quotes"))
            }
            Source::File(_, value) => self.wrong(&format!("{must}, not {}", value.type_name())),
        }
    }

    fn text(&self) -> Result<&str> {
        match self.source {
            Source::Variable(text) => Ok(text),
            Source::File(_, value) => value.as_str().ok_or_else(|| match value {
                Value::Sequence(_) | Value::Mapping(_) => self.wrong_type("must be a text"),
                _ => self.wrong(&format!(
                    "must be a text; put it in quotes, because YAML takes it for {}",
                    value.type_name()
                )),
            }),
        }
    }

    fn text_of_list<'v>(&self, item: &'v Value) -> Result<&'v str> {
        item.as_str().ok_or_else(|| {
            self.wrong(&format!(
                "must be a list of texts, and one is {}; put it in quotes",
                item.type_name()
            ))
        })
    }

    /// The number, if it is one of those that `fits`.
    fn number(&self, must: &str, fits: impl Fn(&f64) -> bool) -> Result<f64> {
        let number = match self.source {
            Source::File(_, value) => value.as_f64(),
            Source::Variable(text) => text.parse().ok(),
        };
        let is_number = match self.source {
            Source::File(_, Value::Scalar(kind, _)) => matches!(kind, Kind::Int | Kind::Float),
            _ => number.is_some(),
        };
        number.filter(fits).ok_or_else(|| match is_number {
            true => self.wrong(must),
            false => self.wrong_type(must),
        })
    }
}

impl SettingValue for bool {
    const FORM: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let wrong = || raw.wrong_type("must be true or false");
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
    const EXAMPLE: &'static str = "\"...\"";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        raw.text().map(ToOwned::to_owned)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_str().into()
    }
}

impl SettingValue for SecretValue {
    const FORM: &'static str = "secret text";
    const EXAMPLE: &'static str = "\"...\"";

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
    const EXAMPLE: &'static str = "~/file";

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
    const EXAMPLE: &'static str = "60";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let fits = |seconds: &f64| (0.0..=MAX_SECONDS).contains(seconds);
        raw.number("must be a number of seconds, 0 or more", fits)
            .map(Duration::from_secs_f64)
    }

    fn to_json(&self) -> serde_json::Value {
        match self.subsec_nanos() {
            0 => self.as_secs().into(),
            _ => self.as_secs_f64().into(),
        }
    }
}

/// For [`Setting::check`](super::setting::Setting::check): `must` continues the sentence after the setting's name.
pub(crate) fn ensure(is_right: bool, must: &str) -> Result<(), String> {
    is_right.then_some(()).ok_or_else(|| must.to_owned())
}

pub(super) fn above_zero(duration: &Duration) -> Result<(), String> {
    ensure(!duration.is_zero(), "must be a number of seconds above 0")
}

impl SettingValue for u32 {
    const FORM: &'static str = "whole number";
    const EXAMPLE: &'static str = "10";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let whole =
            |number: &f64| number.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(number);
        let number = raw.number("must be a whole number, 0 or more", whole)?;
        Ok(number as u32)
    }

    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
}

/// Words as they stand, which may be empty and may have commas in them.
impl SettingValue for Vec<String> {
    const FORM: &'static str = "list of texts";
    const EXAMPLE: &'static str = "[one, two]";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let Source::File(_, Value::Sequence(items)) = raw.source else {
            return Err(raw.wrong_type("must be a list of texts"));
        };
        let text = |item| raw.text_of_list(item).map(ToOwned::to_owned);
        items.iter().map(text).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        json!(self)
    }
}

impl SettingValue for Vec<SecretName> {
    const FORM: &'static str = "list of keys";
    const EXAMPLE: &'static str = "[HF_TOKEN, WANDB_API_KEY]";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let texts: Vec<&str> = match raw.source {
            Source::Variable(text) => text.split(',').map(str::trim).collect(),
            Source::File(_, Value::Sequence(items)) => {
                let texts = items.iter().map(|item| raw.text_of_list(item));
                texts.collect::<Result<_>>()?
            }
            Source::File(..) => return Err(raw.wrong_type("must be a list of keys")),
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
    const EXAMPLE: &'static str = "{HF_TOKEN: 60}";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        let Source::File(place, Value::Mapping(map)) = raw.source else {
            return Err(raw.wrong_type("must be keys with numbers of seconds"));
        };
        let mut durations = Self::new();
        for pair in map.iter().filter(|pair| !pair.value.is_null()) {
            let key = pair
                .key
                .as_str()
                .ok_or_else(|| raw.wrong("has a key that is not a text; put it in quotes"))?;
            let name =
                SecretName::new(key).map_err(|error| raw.wrong(&format!("is wrong: {error}")))?;
            let below = RawSetting {
                name: format!("{}.{key}", raw.name),
                source: Source::File(
                    Place {
                        line: pair.line,
                        ..place
                    },
                    &pair.value,
                ),
                example: Duration::EXAMPLE.to_owned(),
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
    const EXAMPLE: &'static str = T::EXAMPLE;

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        T::parse_optional(raw)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_ref().map_or(serde_json::Value::Null, T::to_json)
    }
}
