//! `backup.json`, the first file of an archive. Says what the others are, and never holds a secret.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::malformed;
use crate::credential::MAX_KEY;
use crate::error::Result;
use crate::provider::file::{MAX_DOCUMENT, MAX_PREVIOUS};
use crate::settings::MAX_SETTINGS;
use crate::sqlite::MAX_COPY;
use crate::views::MAX_VIEWS_FILE;

/// The form of the archives that this version writes, and the newest one that it reads.
pub const FORM: u32 = 1;
/// Its own name in the archive.
pub(super) const NAME: &str = "backup.json";
/// The largest one, in bytes: it names the secrets that cannot be decrypted.
pub(super) const MAX_SIZE: usize = 4 * 1024 * 1024;
/// The longest name that every tar reads.
pub(super) const MAX_NAME: usize = 99;

/// What belongs together, for a restore of some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The secrets file, its key, and the earlier values.
    Secrets,
    /// `live.yaml`.
    Settings,
    /// `views.json`.
    Views,
    /// SimpleTuner's database.
    Database,
    /// The audit trails and their key.
    Trails,
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 5] = [
        Part::Secrets,
        Part::Settings,
        Part::Views,
        Part::Database,
        Part::Trails,
    ];

    /// Its name at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::Secrets => "secrets",
            Part::Settings => "settings",
            Part::Views => "views",
            Part::Database => "database",
            Part::Trails => "trails",
        }
    }
}

/// What a file of an archive is. In the order in which a restore puts them in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Database,
    AuditKey,
    Changes,
    Reads,
    Key,
    EarlierValues,
    Store,
    Views,
    /// Last: until then, a store in another place is not in use.
    Settings,
}

impl Role {
    pub(crate) fn part(self) -> Part {
        match self {
            Role::Database => Part::Database,
            Role::AuditKey | Role::Changes | Role::Reads => Part::Trails,
            Role::Key | Role::EarlierValues | Role::Store => Part::Secrets,
            Role::Views => Part::Views,
            Role::Settings => Part::Settings,
        }
    }

    /// The most bytes that it may have.
    pub(crate) fn limit(self) -> usize {
        match self {
            Role::Database | Role::Changes | Role::Reads => MAX_COPY,
            Role::AuditKey | Role::Key => MAX_KEY,
            Role::EarlierValues => MAX_PREVIOUS,
            Role::Store => MAX_DOCUMENT,
            Role::Views => MAX_VIEWS_FILE,
            Role::Settings => MAX_SETTINGS,
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Role::Database => "SimpleTuner's database",
            Role::AuditKey => "the audit trails' key",
            Role::Changes => "the audit trail of changes",
            Role::Reads => "the audit trail of reads",
            Role::Key => "the credential key",
            Role::EarlierValues => "the earlier values",
            Role::Store => "the secrets",
            Role::Views => "the views",
            Role::Settings => "the settings",
        }
    }

    pub(crate) fn is_database(self) -> bool {
        matches!(self, Role::Database | Role::Changes | Role::Reads)
    }
}

/// What an archive holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the archive.
    pub form: u32,
    /// When it was made (RFC 3339).
    pub at: String,
    /// The version of this program that made it.
    pub version: String,
    /// The folder in which `tar -x` puts the files in their places.
    pub folder: PathBuf,
    /// The credential key; `None`: there is none, and nothing is encrypted.
    pub key: Option<KeyInfo>,
    /// Where the secrets file was; `None`: there was none.
    pub store: Option<PathBuf>,
    /// How many secrets it has.
    pub secrets: usize,
    /// Those that the key did not decrypt when the backup was made.
    #[serde(default)]
    pub undecryptable: Vec<String>,
    /// Whether SimpleTuner read its secrets through the mount, after `adopt`.
    #[serde(default)]
    pub is_adopted: bool,
    /// SimpleTuner's state folder.
    pub state_folder: PathBuf,
    pub(crate) files: Vec<FileInfo>,
}

/// The credential key of an archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Shows which key it is.
    pub fingerprint: String,
    /// Whether the archive has the key itself.
    pub is_included: bool,
    /// Whether the variable `SIMPLETUNER_CREDENTIAL_KEY` had it, and not the file.
    pub is_from_variable: bool,
}

/// A file of an archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileInfo {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) size: usize,
}

/// What every form has.
#[derive(Deserialize)]
struct AnyForm {
    form: u32,
    #[serde(default)]
    version: String,
}

impl Manifest {
    /// Reads `backup.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed): it is of a newer form, or nothing that this program writes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong =
            |error: serde_json::Error| malformed(format!("{NAME} in it is malformed: {error}"));
        let any: AnyForm = serde_json::from_slice(bytes).map_err(wrong)?;
        if any.form > FORM {
            return Err(malformed(format!(
                "it has the form {}, and this version ({}) knows the forms up to {FORM}; install version {} or later",
                any.form,
                env!("CARGO_PKG_VERSION"),
                crate::text::printable(&any.version)
            )));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        let (mut names, mut roles) = (HashSet::new(), HashSet::new());
        for file in &manifest.files {
            let shown = crate::text::printable(&file.name);
            if !is_safe(&file.name) {
                return Err(malformed(format!(
                    "it names a file {shown}, which would lie outside of its folder"
                )));
            }
            if file.size > file.role.limit() {
                return Err(malformed(format!(
                    "{shown} in it is too large: at most {} bytes",
                    file.role.limit()
                )));
            }
            if !names.insert(&file.name) || !roles.insert(file.role) {
                return Err(malformed(format!("it has {shown} twice")));
            }
        }
        Ok(manifest)
    }

    /// Whether it has a file of this part.
    pub fn has(&self, part: Part) -> bool {
        self.files.iter().any(|file| file.role.part() == part)
    }

    /// The names of its files.
    pub fn names(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// Whether a name stays below the folder that it is put into.
pub(super) fn is_safe(name: &str) -> bool {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let parts = Path::new(name).components();
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains('\0')
        && name != NAME
        && parts.clone().all(is_plain)
        // `a//b`, `a/.` and `a/` are other texts for such names.
        && parts.collect::<PathBuf>() == Path::new(name)
        && !name.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_the_folder_are_safe() {
        for safe in ["a", "credential.key", "cloud/jobs.db", ".a", "a..b"] {
            assert!(is_safe(safe), "{safe}");
        }
        let long = "a".repeat(100);
        for unsafe_name in [
            "",
            "/",
            "/a",
            "..",
            "../a",
            "a/../b",
            "a/",
            "a\0",
            "backup.json",
            &long,
        ] {
            assert!(!is_safe(unsafe_name), "{unsafe_name}");
        }
    }
}
