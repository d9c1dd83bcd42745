//! What is checked: the settings, or the defaults if they cannot be read, and what the mount says of itself. Asked once, for all
//! checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use crate::mount::{self, MountPointState};
use crate::provider::BACKENDS;
use crate::settings::{Flags, Settings, SettingsContent};
use crate::sync::{self, LARGE_STACK};
use crate::text::shell_path;

/// How long reading the settings may take: a disk may hang.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a mount may take for its files.
const FILES_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings and the mount that all checks are about.
pub struct Subject {
    flags: Flags,
    /// Those of the file; if they are wrong, the defaults.
    settings: Option<Settings>,
    /// Why the settings cannot be used.
    problem: Option<String>,
    mount: OnceLock<MountFacts>,
}

/// What is known of the mount.
pub(super) struct MountFacts {
    pub(super) mount_point: PathBuf,
    /// `Err`: the table of mounts cannot be read.
    pub(super) state: Result<MountPointState, String>,
    /// Its file `status`, if it answers.
    pub(super) status: Option<Value>,
    /// Its files `providers/*`, in the order of the chain.
    pub(super) providers: Vec<Value>,
    /// The names of its secrets.
    pub(super) names: Option<Vec<String>>,
}

impl Subject {
    /// Reads the settings. If they are wrong, the checks use the defaults, and what the environment sets.
    pub fn new(flags: Flags) -> Self {
        let (sender, loaded) = channel();
        let of_thread = flags.clone();
        let load = move || drop(sender.send(settings_of(&of_thread)));
        let (settings, problem) = match sync::spawn("doctor", LARGE_STACK, load) {
            Ok(_) => loaded.recv_timeout(SETTINGS_TIMEOUT).unwrap_or_else(|_| {
                let why = "the settings cannot be read: the disk that they, the secrets file or the home lie on does not answer";
                (None, Some(why.to_owned()))
            }),
            Err(_) => settings_of(&flags),
        };
        Self {
            flags,
            settings,
            problem,
            mount: OnceLock::new(),
        }
    }

    pub(super) fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn flags(&self) -> &Flags {
        &self.flags
    }

    /// A command of this program as one can type it, with the settings file that was given.
    pub(super) fn command(&self, words: &str) -> String {
        let program = program_word();
        match &self.flags.config {
            Some(config) => format!("{program} --config {} {words}", shell_path(config)),
            None => format!("{program} {words}"),
        }
    }

    /// A command about the mount that is checked: with its path, if that was given.
    pub(super) fn mount_command(&self, verb: &str) -> String {
        let command = self.command(verb);
        match &self.flags.mount_point {
            Some(dir) => format!("{command} {}", shell_path(dir)),
            None => command,
        }
    }

    pub(super) fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    /// The mount at the settings' mount point. Waits some seconds at most for one that does not answer.
    pub(super) fn mount(&self) -> &MountFacts {
        self.mount.get_or_init(|| MountFacts::of(&self.flags))
    }
}

impl MountFacts {
    fn of(flags: &Flags) -> Self {
        let mut facts = Self {
            mount_point: PathBuf::new(),
            state: Ok(MountPointState::NotMounted),
            status: None,
            providers: Vec::new(),
            names: None,
        };
        match Settings::mount_point_by(flags) {
            Ok(mount_point) => facts.mount_point = mount_point,
            Err(error) => {
                facts.state = Err(error.to_string());
                return facts;
            }
        }
        let state = mount::mount_point_state(&facts.mount_point);
        facts.state = state.map_err(|error| error.to_string());
        if facts.answers() {
            let root = facts.mount_point.clone();
            let read = sync::within("status", FILES_TIMEOUT, move || files_of(&root));
            if let Some((status, providers, names)) = read {
                facts.status = status;
                facts.providers = providers;
                facts.names = names;
            }
        }
        facts
    }

    /// Whether this user's mount is there, and answers.
    pub(super) fn answers(&self) -> bool {
        matches!(self.state, Ok(MountPointState::Ours { alive: true, .. }))
    }
}

/// This program as a shell finds it: by its name if that leads to it, else by its path.
pub(super) fn program_word() -> String {
    const NAME: &str = "simpletuner-live";
    let search = std::env::var_os("PATH").unwrap_or_default();
    let of = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let Ok(this) = of(Path::new("/proc/self/exe")) else {
        return NAME.to_owned();
    };
    let mut found = std::env::split_paths(&search).map(|folder| folder.join(NAME));
    match (
        found.find_map(|path| of(&path).ok()),
        fs::read_link("/proc/self/exe"),
    ) {
        (found, Ok(path)) if found != Some(this) && of(&path) == Ok(this) => shell_path(&path),
        _ => NAME.to_owned(),
    }
}

/// The settings; the defaults, and why, if they are wrong.
fn settings_of(flags: &Flags) -> (Option<Settings>, Option<String>) {
    match Settings::load(flags, BACKENDS) {
        Ok(settings) => (Some(settings), None),
        Err(error) => {
            let without_file = Flags {
                content: Some(SettingsContent::default()),
                ..flags.clone()
            };
            let defaults = Settings::load(&without_file, BACKENDS).ok();
            (defaults, Some(error.to_string()))
        }
    }
}

type Files = (Option<Value>, Vec<Value>, Option<Vec<String>>);

fn files_of(root: &Path) -> Files {
    let json = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
    let names_in = |folder: &str| -> Option<Vec<String>> {
        let entries = fs::read_dir(root.join(folder)).ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Some(names.collect())
    };
    let names = names_in("providers").unwrap_or_default().into_iter();
    let mut providers: Vec<Value> = names
        .filter_map(|name| json(root.join("providers").join(name)))
        .collect();
    providers.sort_by_key(|report| report["priority"].as_u64());
    (json(root.join("status")), providers, names_in("secrets"))
}
