//! One provider's configuration: a JSON object that may hold a webhook's secret, so it is wiped when dropped and never
//! printed. Knows no database.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::json::{Layout, lay_out, parse_object};
use crate::error::{Error, Result};
use crate::provider::parse_rfc3339;
use crate::secret::{SecretName, SecretValue};

/// The largest configuration, in bytes of JSON as it is stored.
pub const MAX_CONFIG: usize = 1024 * 1024;

/// With `.json` behind it, a provider's name is the name of a file.
const MAX_NAME: usize = 250;

/// A provider's configuration as it was read; one that is not there is an empty object. Clones share it.
#[derive(Clone, Default)]
pub struct ProviderConfig(Option<Arc<Stored>>);

struct Stored {
    text: SecretValue,
    object: Map<String, Value>,
    updated_at: Option<SystemTime>,
}

impl ProviderConfig {
    /// The configuration that a row holds. The reason of a failure bears nothing of it.
    pub(super) fn from_row(text: &[u8], updated_at: &str) -> Result<Self, String> {
        let object = parse_object(text)?;
        let text = SecretValue::from_bytes("config", text).map_err(|_| "it is not UTF-8 text")?;
        Ok(Self(Some(Arc::new(Stored {
            text,
            object,
            updated_at: parse_rfc3339(updated_at),
        }))))
    }

    /// Whether there is such a row.
    pub fn exists(&self) -> bool {
        self.0.is_some()
    }

    /// The object; numbers in it are as exact as a 64-bit float, those of [`to_json`](Self::to_json) as they are stored.
    pub fn object(&self) -> &Map<String, Value> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        self.0.as_ref().map_or(&EMPTY, |stored| &stored.object)
    }

    /// When it was saved, if the row says so.
    pub fn updated_at(&self) -> Option<SystemTime> {
        self.0.as_ref()?.updated_at
    }

    /// The stored text, indented by two spaces.
    pub fn to_json(&self) -> SecretValue {
        match &self.0 {
            Some(stored) => lay_out(stored.text.as_str(), Layout::Indented),
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

/// Overwrites all texts in a value.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(object) => object.values_mut().for_each(wipe),
        _ => {}
    }
}

/// A text that is to be stored: as one line, if it is an object of at most [`MAX_CONFIG`] bytes.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::TooLarge`].
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
    let stored = lay_out(text, Layout::OneLine);
    if stored.len() > MAX_CONFIG {
        return Err(Error::TooLarge {
            what: what(),
            limit: MAX_CONFIG,
        });
    }
    Ok((stored, object))
}

/// Whether a provider may have this name here: a letter, a digit or `_`, and up to 249 more of those, `.` and `-`.
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
    fn nothing_of_it_is_printed_and_the_stored_text_is_kept_to_the_token() {
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
    fn names_of_providers_are_names_of_files() {
        for good in ["replicate", "a.b-c_2", "_", &"x".repeat(250)] {
            check_provider_name(good).unwrap();
        }
        for bad in ["", ".x", "a/b", "x~", "4913", "-x", &"x".repeat(251)] {
            assert_eq!(check_provider_name(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
