//! Reads a file of secrets that another program wrote. Says of each entry on which line it is, and of each that cannot be taken
//! why, without quoting its value.

mod cursor;
mod dialects;
mod docker;
mod dotenv;
mod json;
mod shell;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::secret::{MAX_VALUE, SecretName, SecretValue};
use crate::text::text_of;
use crate::yaml::{self, Kind, Value};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ImportFormat {
    /// Assignments of a shell, as `export` writes them
    #[value(alias = "sh")]
    Env,
    /// As python-dotenv reads it
    Dotenv,
    /// As `docker run --env-file` reads it: all that is behind the = is the value
    Docker,
    /// An object of texts
    Json,
    /// A mapping of texts
    Yaml,
}

impl fmt::Display for ImportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Env => "env",
            Self::Dotenv => "dotenv",
            Self::Docker => "docker",
            Self::Json => "json",
            Self::Yaml => "yaml",
        })
    }
}

/// A secret of the file.
pub(crate) struct Entry {
    pub(crate) name: SecretName,
    pub(crate) value: SecretValue,
    /// From 1.
    pub(crate) line: usize,
}

/// Why nothing is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What is wrong, with the lines.
    Malformed(Vec<String>),
    /// Where the dialects of env files read different values.
    Ambiguous(Vec<String>),
}

/// An entry whose name has not been looked at.
struct Raw {
    name: String,
    value: SecretValue,
    line: usize,
}

/// All secrets of a file. Without a format it is found by the content.
///
/// # Errors
/// All that is wrong.
pub(crate) fn import(format: Option<ImportFormat>, bytes: &[u8]) -> Result<Vec<Entry>, Refusal> {
    let malformed = |reason: String| Refusal::Malformed(vec![reason]);
    let text = text_of(bytes).map_err(|reason| match std::str::from_utf8(bytes) {
        Err(error) if reason.starts_with("not UTF-8") => {
            let before = &bytes[..error.valid_up_to()];
            malformed(format!("line {}: not UTF-8", line_at(before)))
        }
        _ => malformed(reason),
    })?;
    let raw = match format {
        Some(ImportFormat::Json) => json::read(text)?,
        Some(ImportFormat::Yaml) => from_yaml(text)?,
        Some(ImportFormat::Env) => dialects::read(shell::read, text)?,
        Some(ImportFormat::Dotenv) => dialects::read(dotenv::read, text)?,
        Some(ImportFormat::Docker) => dialects::read(docker::read, text)?,
        None if text.trim_start().starts_with('{') => json::read(text).or_else(|error| {
            // YAML may have braces, too.
            from_yaml(text).map_err(|_| error)
        })?,
        None if dialects::is_env_file(text) => dialects::read_any(text)?,
        None => from_yaml(text)?,
    };
    checked(raw)
}

/// The number of the line that begins or goes on behind these bytes.
fn line_at(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn checked(raw: Vec<Raw>) -> Result<Vec<Entry>, Refusal> {
    let (mut entries, mut faults) = (Vec::with_capacity(raw.len()), Vec::new());
    let mut lines: BTreeMap<SecretName, usize> = BTreeMap::new();
    for Raw { name, value, line } in raw {
        let name = match SecretName::new(&name) {
            Ok(name) => name,
            Err(error) => {
                faults.push(format!("line {line}: {error}"));
                continue;
            }
        };
        if value.len() > MAX_VALUE {
            faults.push(format!(
                "line {line}: the value of {name} is too large: at most {MAX_VALUE} bytes"
            ));
        }
        if let Some(first) = lines.insert(name.clone(), line) {
            faults.push(format!("line {line}: {name} is on line {first} as well"));
        }
        entries.push(Entry { name, value, line });
    }
    match faults.is_empty() {
        true => Ok(entries),
        false => Err(Refusal::Malformed(faults)),
    }
}

/// What is wrong with an entry that is no text.
fn no_text(line: usize, name: &str, what: &str) -> String {
    let name = crate::text::printable(name);
    match what {
        "an object" | "a list" => format!("line {line}: {name} is {what}, not a text"),
        _ => format!("line {line}: {name} is {what}, not a text; put it in quotes"),
    }
}

fn from_yaml(text: &str) -> Result<Vec<Raw>, Refusal> {
    let malformed = |reason: String| Refusal::Malformed(vec![reason]);
    let pairs = match yaml::parse(text).map_err(malformed)?.root {
        Value::Mapping(pairs) => pairs,
        Value::Scalar(Kind::Null, _) => return Ok(Vec::new()),
        other => {
            return Err(malformed(format!(
                "it is {}, not a mapping of names and texts",
                other.type_name()
            )));
        }
    };
    let (mut raw, mut faults) = (Vec::new(), Vec::new());
    for pair in pairs {
        let line = pair.line;
        match (pair.key.as_str(), pair.value) {
            (None, _) => faults.push(format!(
                "line {line}: the name is not a text; put it in quotes"
            )),
            (Some(name), Value::Scalar(Kind::Text, text)) => raw.push(Raw {
                name: name.to_owned(),
                value: SecretValue::new(&text),
                line,
            }),
            (Some(name), other) => faults.push(no_text(line, name, other.type_name())),
        }
    }
    match faults.is_empty() {
        true => Ok(raw),
        false => Err(Refusal::Malformed(faults)),
    }
}
