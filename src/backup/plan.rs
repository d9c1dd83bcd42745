//! What a restore would change: each file of an archive, where it belongs here, and whether it is there already. Changes nothing.

use std::path::{Path, PathBuf};

use super::check::Checked;
use super::collect::{key_of, read};
use super::compare::{Readable, State, database, secret_changes};
use super::manifest::{Part, Role};
use super::trails::leave_signed;
use super::{Collected, malformed};
use crate::credential::{KEY_VARIABLE, is_other_beside, key_fingerprint};
use crate::error::{Error, Result};
use crate::files::place;
use crate::manager::file_options;
use crate::provider::BACKENDS;
use crate::provider::file::{is_yaml, path_of_previous, read_document};
use crate::settings::paths::DEFAULT_NAMES;
use crate::settings::{Flags, Settings, SettingsContent};
use crate::simpletuner_db::database_of;
use crate::text::{counted, shell_path};

/// A file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub(super) role: Role,
    /// Where it belongs.
    pub path: PathBuf,
    /// How it stands to what is there.
    pub state: State,
    /// What becomes of what is there.
    pub detail: String,
}

impl Step {
    /// What it is, for people.
    pub fn title(&self) -> &'static str {
        self.role.title()
    }

    /// The part that it belongs to.
    pub fn part(&self) -> Part {
        self.role.part()
    }
}

/// What a restore would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which the files are put in place.
    pub steps: Vec<Step>,
    /// The link into the mount that SimpleTuner reads through, if it is missing.
    pub link: Option<PathBuf>,
    /// A trail here, because of which the trails are left as they are: the archive has another key than it, and nothing that takes
    /// its place.
    pub kept_trail: Option<PathBuf>,
}

/// The settings that are in force once these parts of an archive are restored.
///
/// # Errors
/// [`Error::Settings`] if those of the archive do not fit here.
pub fn settings_after(flags: &Flags, archive: &Collected, parts: &[Part]) -> Result<Settings> {
    let restored = archive
        .member(Role::Settings)
        .filter(|_| parts.contains(&Part::Settings));
    let content = restored.map(|bytes| SettingsContent::of(bytes.clone()));
    Settings::load(
        &Flags {
            content,
            ..flags.clone()
        },
        BACKENDS,
    )
}

impl Plan {
    /// Compares an archive with what is here. `settings`: those that are in force afterwards.
    ///
    /// # Errors
    /// [`Error::Settings`] if the secrets here are in another file; else why a file cannot be read.
    pub fn new(checked: &Checked, settings: &Settings) -> Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        let mut roles: Vec<Role> = checked
            .archive
            .members
            .iter()
            .map(|member| member.role)
            .collect();
        roles.retain(|role| checked.parts.contains(&role.part()));
        roles.sort();
        for role in roles {
            let path = match role {
                Role::Store => store_path(&checked.archive, settings)?,
                Role::EarlierValues => path_of_previous(&store_path(&checked.archive, settings)?),
                Role::Key => resolved(&settings.key_file)?,
                Role::Settings => resolved(&settings.config_file)?,
                Role::Views => resolved(&settings.views_file)?,
                Role::Database => resolved(&database_of(settings))?,
                Role::AuditKey => resolved(&settings.state_dir.join("audit.key"))?,
                Role::Changes => resolved(&settings.state_dir.join("audit.db"))?,
                Role::Reads => resolved(&settings.state_dir.join("live-audit.db"))?,
            };
            let (state, detail) = match (role, checked.databases.get(&role)) {
                (_, Some(copy)) => database(role, copy, &path)?,
                (Role::Store, _) => secrets(checked, settings, &path, &steps)?,
                (Role::Key, _) => key(checked, settings)?,
                (Role::AuditKey, _) if settings.audit_key.is_some() => {
                    (State::Same, format!("in {}", crate::audit::KEY_VARIABLE))
                }
                _ => bytes(checked, role, &path)?,
            };
            steps.push(Step {
                role,
                path,
                state,
                detail,
            });
        }
        // The earlier values go with the secrets.
        let is_same = |step: &&Step| step.role == Role::Store && step.state == State::Same;
        if steps.iter().any(|step| is_same(&step)) {
            for step in steps
                .iter_mut()
                .filter(|step| step.role == Role::EarlierValues && step.state == State::Differs)
            {
                step.state = State::Same;
                step.detail = "those here go on from them".to_owned();
            }
        }
        let kept_trail = leave_signed(&mut steps, checked, settings)?;
        let link = settings.base_dir.join(DEFAULT_NAMES[0]);
        let is_missing = std::fs::symlink_metadata(&link).is_err();
        let has_store = steps
            .iter()
            .any(|step| step.role == Role::Store && step.path != link);
        let wants_link = checked.manifest().is_adopted && settings.is_store_of_adopt && has_store;
        Ok(Self {
            steps,
            link: (wants_link && is_missing).then_some(link),
            kept_trail,
        })
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.link.is_none() && self.steps.iter().all(|step| step.state == State::Same)
    }

    /// Whether another credential key takes the place of the one that is here.
    pub fn replaces_key(&self) -> bool {
        self.of_state(State::Differs)
            .any(|step| step.role == Role::Key)
    }

    /// The steps of this state.
    pub fn of_state(&self, state: State) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.state == state)
    }

    /// Whether these are the same steps in the same states.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let all = |plan: &Self| -> Vec<_> {
            let steps = plan.steps.iter();
            steps
                .map(|step| (step.role, step.path.clone(), step.state))
                .collect()
        };
        all(self) == all(other) && self.link == other.link
    }
}

fn resolved(path: &Path) -> Result<PathBuf> {
    let place = place::find(path).map_err(|error| Error::io(path.display().to_string(), error))?;
    Ok(place.path().to_owned())
}

/// Where the settings have the secrets file.
fn store_path(archive: &Collected, settings: &Settings) -> Result<PathBuf> {
    let name = archive
        .name_of(Role::Store)
        .or(archive.name_of(Role::EarlierValues));
    let name = name.unwrap_or(Path::new(DEFAULT_NAMES[0]));
    let wanted = match &settings.file_path {
        Some(path) => path.clone(),
        None => {
            let is_default = DEFAULT_NAMES
                .iter()
                .any(|default| Path::new(default) == name);
            let default = match (is_default, is_yaml(name)) {
                (true, _) => name,
                (false, true) => Path::new(DEFAULT_NAMES[1]),
                (false, false) => Path::new(DEFAULT_NAMES[0]),
            };
            settings.base_dir.join(default)
        }
    };
    if is_yaml(name) && !is_yaml(&wanted) {
        return Err(malformed(format!(
            "its secrets are in YAML, and the settings name {}, which is none",
            wanted.display()
        )));
    }
    let there = file_options(settings).location.locate()?;
    let wanted = match there.stat() {
        None => resolved(&wanted)?,
        // Of a link that `adopt` has made, the store beside it.
        Some(_) => resolved(&wanted).unwrap_or(wanted),
    };
    match there.stat().is_some() && there.path() != wanted {
        false => Ok(wanted),
        true => Err(Error::Settings(format!(
            "the secrets here are in {}, and those of the backup belong into {}; nothing has changed: move the file away first (mv {} {}), or \
             `simpletuner-live adopt` or `adopt --undo` brings it there",
            there.path().display(),
            wanted.display(),
            shell_path(there.path()),
            shell_path(&there.path().with_extension("away")),
        ))),
    }
}

fn bytes(checked: &Checked, role: Role, path: &Path) -> Result<(State, String)> {
    let here = read(path, role.limit())?;
    let state = match (here, checked.archive.member(role)) {
        (None, _) => State::New,
        (Some(here), Some(there)) if here == *there => State::Same,
        _ => State::Differs,
    };
    Ok((state, String::new()))
}

fn key(checked: &Checked, settings: &Settings) -> Result<(State, String)> {
    let Some(here) = key_of(settings)? else {
        return Ok((State::New, String::new()));
    };
    let is_same = here.text().is_ok_and(|text| {
        let there = checked.manifest().key.as_ref();
        there.is_some_and(|there| there.fingerprint == key_fingerprint(&text))
    });
    let there = checked.archive.member(Role::Key);
    let is_usable = here.text().is_ok();
    if is_usable
        && !is_same
        && there.is_some_and(|there| is_other_beside(&settings.key_file, there))
    {
        return Err(Error::Settings(format!(
            "a `key rotate` or another `restore` was interrupted here, and some values may need the key that it left beside {}; nothing \
             has changed: finish it with `simpletuner-live key rotate`, and then restore",
            settings.key_file.display()
        )));
    }
    Ok(match (is_same, here.is_from_variable) {
        (true, true) => (State::Same, format!("in {KEY_VARIABLE}")),
        (true, false) => (State::Same, String::new()),
        (false, _) => (State::Differs, "another key is here".to_owned()),
    })
}

fn secrets(
    checked: &Checked,
    settings: &Settings,
    path: &Path,
    before: &[Step],
) -> Result<(State, String)> {
    let Some(there) = &checked.document else {
        return Ok((State::Same, String::new()));
    };
    let count = counted(there.names().count() as u64, "secret");
    let here = match read_document(path) {
        Ok(None) => return Ok((State::New, count)),
        Ok(Some((document, _))) => document,
        Err(Error::MalformedStore { .. }) => {
            return Ok((State::Differs, "what is here is malformed".to_owned()));
        }
        Err(error) => return Err(error),
    };
    // Also with the key beside, which an interrupted restore has left. A key that is not usable decrypts nothing.
    let cipher = file_options(settings).key.cipher_if_present();
    let cipher = cipher.unwrap_or_default();
    let changes = secret_changes(
        &Readable {
            document: &here,
            cipher: cipher.as_ref(),
        },
        &Readable {
            document: there,
            cipher: checked.cipher.as_ref(),
        },
    );
    let has_key = before
        .iter()
        .any(|step| step.role == Role::Key && step.state != State::Same);
    // With another key, what is here could not be read any more.
    let must_fit = has_key && there.names().any(|name| here.get(name) != there.get(name));
    Ok(match changes.is_none() && !must_fit {
        true => (State::Same, count),
        false => (State::Differs, changes.describe()),
    })
}
