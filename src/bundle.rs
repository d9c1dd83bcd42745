//! All secrets as one document: rendered, parsed, and merged back when a program has rewritten it. Pure functions, which
//! know neither files nor providers.

mod env;
mod import;
mod parse;
mod render;

pub(crate) use import::{Entry, ImportFormat, Refusal, import};
pub use parse::parse;
pub use render::render;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secret::{Change, SecretName, SecretValue};

/// Takes the next piece of a rendered text.
type Out<'a> = &'a mut dyn FnMut(&str);

/// Secrets by name.
pub type Document = BTreeMap<SecretName, SecretValue>;

/// The format of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BundleFormat {
    /// What SimpleTuner's file provider reads and writes.
    Json,
    /// The same as YAML.
    Yaml,
    /// `KEY=value` lines for shells, systemd and dotenv readers.
    Env,
    /// `KEY=value` lines for `--env-file` of Docker and Podman.
    DockerEnv,
}

impl BundleFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Yaml, Self::Env, Self::DockerEnv];

    /// The file's name in `bundle/`.
    pub fn file_name(self) -> &'static str {
        match self {
            BundleFormat::Json => "secrets.json",
            BundleFormat::Yaml => "secrets.yaml",
            BundleFormat::Env => "secrets.env",
            BundleFormat::DockerEnv => "docker.env",
        }
    }

    /// Whether it is parsed, too, and so can be written.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }

    /// The format of a file in `bundle/`.
    pub fn of_file(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.file_name() == name)
    }
}

/// Why a format cannot hold a secret; `None` if it can.
pub fn refusal(
    format: BundleFormat,
    name: &SecretName,
    value: &SecretValue,
) -> Option<&'static str> {
    match format {
        BundleFormat::Json | BundleFormat::Yaml => None,
        BundleFormat::Env => env::not_a_variable(name.as_str(), value.as_str()),
        BundleFormat::DockerEnv => env::not_bare(name.as_str(), value.as_str()),
    }
}

/// What a document held when a process last read or wrote it: its names, and fingerprints instead of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base(BTreeMap<SecretName, u64>);

impl Base {
    /// A document as a base.
    pub fn of(document: &Document) -> Self {
        let entries = document.iter();
        Self(
            entries
                .map(|(name, value)| (name.clone(), value.fingerprint()))
                .collect(),
        )
    }
}

/// The changes that a writer made: the difference between `base`, which it had before, and `written`, without what `current`
/// has already. It deletes only names that the base has; without a base, none.
pub fn merge(base: Option<&Base>, current: &Document, written: &Document) -> Vec<Change> {
    let changed = |name: &SecretName, value: &SecretValue| {
        base.and_then(|base| base.0.get(name)) != Some(&value.fingerprint())
    };
    let set = written
        .iter()
        .filter(|(name, value)| changed(name, value) && current.get(*name) != Some(value))
        .map(|(name, value)| Change::Set(name.clone(), value.clone()));
    let deleted = base
        .into_iter()
        .flat_map(|base| base.0.keys())
        .filter(|name| !written.contains_key(*name) && current.contains_key(*name))
        .map(|name| Change::Delete(name.clone()));
    set.chain(deleted).collect()
}

#[cfg(test)]
mod tests;
