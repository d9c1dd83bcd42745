//! Reads `live.yaml`, and the settings that have more than one value. Knows no flag and no variable.

use std::path::Path;

use super::Ttl;
use super::yaml::Section;
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::secret::SecretName;

/// The size limit of the settings file, in bytes.
const MAX_SETTINGS: usize = 1024 * 1024;

pub(super) struct DocumentFile {
    pub(super) root: serde_yaml::Value,
    pub(super) is_open_to_others: bool,
}

pub(super) fn read_document(path: &Path, must_exist: bool) -> Result<DocumentFile> {
    let failed = |why: &str| Error::Settings(format!("{}: {why}", path.display()));
    let content = match read_file(path, MAX_SETTINGS) {
        Ok(content) => content,
        Err(ReadError::Missing) if !must_exist => {
            return Ok(DocumentFile {
                root: serde_yaml::Value::Null,
                is_open_to_others: false,
            });
        }
        Err(ReadError::Missing) => return Err(failed("there is no such file")),
        Err(ReadError::NotAFile(what)) => return Err(failed(what)),
        Err(ReadError::TooLarge) => return Err(failed("it is over 1 MiB")),
        Err(ReadError::Io(error)) => {
            return Err(Error::io(format!("reading {}", path.display()), error));
        }
    };
    let text = std::str::from_utf8(&content.bytes).map_err(|_| failed("it is not UTF-8 text"))?;
    if text.trim().is_empty() {
        return Ok(DocumentFile {
            root: serde_yaml::Value::Null,
            is_open_to_others: false,
        });
    }
    // The parser's message may quote a token.
    let root = serde_yaml::from_str(text).map_err(|error| match error.location() {
        Some(at) => failed(&format!(
            "not YAML at line {} column {}",
            at.line(),
            at.column()
        )),
        None => failed("not YAML"),
    })?;
    Ok(DocumentFile {
        root,
        is_open_to_others: content.is_open_to_others(),
    })
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

/// Names the replacement of a removed setting.
pub(super) fn refuse_removed(root: &serde_yaml::Value, file: &str) -> Result<()> {
    let set = REMOVED
        .iter()
        .find(|(setting, _)| root.get(setting).is_some());
    set.map_or(Ok(()), |(setting, why)| {
        Err(Error::Settings(format!("{file}: {setting} {why}")))
    })
}

/// A hundred years; a larger number is a mistake.
const MAX_DAYS: u32 = 36_500;

pub(super) fn read_names(top: &Section<'_>, setting: &str) -> Result<Vec<SecretName>> {
    let name = |text: &String| {
        SecretName::new(text).map_err(|error| top.wrong(setting, &format!("is wrong: {error}")))
    };
    top.texts(setting)?.iter().map(name).collect()
}

pub(super) fn read_ttl(top: &Section<'_>) -> Result<Ttl> {
    let mut ttl = Ttl::default();
    if top.value("ttl").is_some_and(|value| !value.is_mapping()) {
        if let Some(default) = top.seconds("ttl", true)? {
            ttl.default = default;
        }
        return Ok(ttl);
    }
    let section = top.section("ttl", &["default", "missing", "keys"])?;
    ttl.default = section.seconds("default", true)?.unwrap_or(ttl.default);
    ttl.missing = section.seconds("missing", false)?.unwrap_or(ttl.missing);
    let (keys, names) = section.names_of("keys")?;
    for text in names {
        let name = SecretName::new(text)
            .map_err(|error| section.wrong("keys", &format!("is wrong: {error}")))?;
        if let Some(seconds) = keys.seconds(text, true)? {
            ttl.keys.insert(name, seconds);
        }
    }
    Ok(ttl)
}

/// A number of days, 1 or more.
pub(super) fn read_days(top: &Section<'_>, setting: &str) -> Result<Option<u32>> {
    let days = |value: &serde_yaml::Value| {
        let days = value.as_u64().and_then(|days| u32::try_from(days).ok());
        let days = days.filter(|days| (1..=MAX_DAYS).contains(days));
        days.ok_or_else(|| top.wrong(setting, "must be a number of days, 1 or more"))
    };
    top.value(setting).map(days).transpose()
}
