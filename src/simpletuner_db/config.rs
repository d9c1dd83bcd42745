//! One provider's configuration: a JSON object. It may hold a webhook's secret, so it is wiped when dropped and never
//! printed. Knows no database.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::json::{JsonLayout, parse_object, reformat};
use crate::error::{Error, Result};
use crate::provider::parse_rfc3339;
use crate::secret::{SecretName, SecretValue};

/// The size limit of a configuration, in bytes of stored JSON.
pub const MAX_CONFIG: usize = 1024 * 1024;

/// The longest name: with `.json` it is a file's name, which has at most 255 bytes.
const MAX_NAME: usize = 250;

/// A provider's configuration as it was read; an empty object if the provider has none. Clones share the memory.
#[derive(Clone, Default)]
pub struct ProviderConfig(Option<Arc<Stored>>);

struct Stored {
    text: SecretValue,
    object: Map<String, Value>,
    updated_at: Option<SystemTime>,
}

impl ProviderConfig {
    /// The configuration in a row. The error never contains any of it.
    pub(super) fn from_row(text: &[u8], updated_at: &str) -> Result<Self, String> {
        let object = parse_object(text)?;
        let text = SecretValue::from_bytes("config", text).map_err(|_| "not UTF-8 text")?;
        Ok(Self(Some(Arc::new(Stored {
            text,
            object,
            updated_at: parse_rfc3339(updated_at),
        }))))
    }

    /// Whether the provider has a configuration.
    pub fn exists(&self) -> bool {
        self.0.is_some()
    }

    /// The object. Its numbers have the precision of a 64-bit float; [`to_json`](Self::to_json) has them as stored.
    pub fn object(&self) -> &Map<String, Value> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        self.0.as_ref().map_or(&EMPTY, |stored| &stored.object)
    }

    /// When it was saved, if the row has a valid time.
    pub fn updated_at(&self) -> Option<SystemTime> {
        self.0.as_ref()?.updated_at
    }

    /// The stored text, indented by two spaces.
    pub fn to_json(&self) -> SecretValue {
        match &self.0 {
            Some(stored) => reformat(stored.text.as_str(), JsonLayout::Indented),
            None => SecretValue::new("{}\n"),
        }
    }
}

impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderConfig({} keys)", self.object().len())
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.object.values_mut().for_each(wipe);
    }
}

/// Zeroes all strings in a value.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(object) => object.values_mut().for_each(wipe),
        _ => {}
    }
}

/// A configuration's text in the form to store, one line, and the object.
///
/// # Errors
/// [`Error::Malformed`] if it is not an object, [`Error::TooLarge`] above [`MAX_CONFIG`].
pub(super) fn to_stored(name: &str, text: &[u8]) -> Result<(SecretValue, Map<String, Value>)> {
    let what = || format!("the configuration of {name}");
    let malformed = |reason: String| Error::Malformed {
        what: what(),
        reason,
    };
    if text.len() > MAX_CONFIG {
        return Err(Error::TooLarge {
            what: what(),
            limit: MAX_CONFIG,
        });
    }
    let object = parse_object(text).map_err(malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| malformed("it is not UTF-8".into()))?;
    let stored = reformat(text, JsonLayout::OneLine);
    if stored.len() > MAX_CONFIG {
        return Err(Error::TooLarge {
            what: what(),
            limit: MAX_CONFIG,
        });
    }
    Ok((stored, object))
}

/// Accepts a provider's name: a letter, a digit or `_`, and up to 249 more of those, `.` and `-`.
///
/// # Errors
/// [`Error::Malformed`] says which rule it breaks.
pub fn check_provider_name(name: &str) -> Result<()> {
    let malformed = |reason: &str| Error::Malformed {
        what: format!(
            "the provider's name {:?}",
            name.chars().take(300).collect::<String>()
        ),
        reason: reason.into(),
    };
    if name.len() > MAX_NAME {
        return Err(malformed("it is longer than 250 bytes"));
    }
    match SecretName::new(name) {
        Err(Error::InvalidName { reason, .. }) => Err(malformed(reason)),
        Err(other) => Err(other),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_never_printed_and_its_stored_tokens_are_kept() {
        let text = r#"{"webhook_secret": "hunter2", "cost_limit_amount": 10.10}"#;
        let config = ProviderConfig::from_row(text.as_bytes(), "2026-01-02T03:04:05.678901+00:00");
        let config = config.unwrap();
        assert_eq!(format!("{config:?}"), "ProviderConfig(2 keys)");
        assert_eq!(config.object()["webhook_secret"], "hunter2");
        assert_eq!(
            config.to_json().as_str(),
            "{\n  \"webhook_secret\": \"hunter2\",\n  \"cost_limit_amount\": 10.10\n}\n"
        );
        assert!(config.exists() && config.updated_at().is_some());
        let none = ProviderConfig::default();
        assert!(!none.exists() && none.object().is_empty());
        for bad in ["hunter2", "[\"hunter2\"]", ""] {
            let reason = ProviderConfig::from_row(bad.as_bytes(), "").unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn a_providers_name_is_refused_unless_it_can_be_a_files_name() {
        for good in ["replicate", "a.b-c_2", "_", &"x".repeat(250)] {
            check_provider_name(good).unwrap();
        }
        for bad in ["", ".x", "a/b", "x~", "4913", "-x", &"x".repeat(251)] {
            assert_eq!(check_provider_name(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
