//! The chain of providers through the library alone: no mount, no command line.

mod backend;
mod bad_files;
mod chain;
mod group_commit;
mod keys;
mod library;
mod newline;
mod peers;
mod provider;
mod singleflight;
mod snapshot;
mod watching;
mod writers;

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::BACKENDS;
use simpletuner_live::provider::EnvironmentProvider;
use simpletuner_live::secret::SecretName;
use simpletuner_live::settings::{Flags, Settings};

pub fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

/// A scratch home in memory, where a sync to the disk costs nothing.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn make() -> Self {
        let home = Self(tempfile::tempdir_in("/dev/shm").unwrap());
        let mut folder = std::fs::DirBuilder::new();
        folder.mode(0o700).create(home.path("")).unwrap();
        home
    }
    pub fn root(&self) -> &std::path::Path {
        self.0.path()
    }
    /// A path in `~/.simpletuner`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(".simpletuner").join(file)
    }
    pub fn write(&self, file: &str, content: &str) {
        std::fs::write(self.path(file), content).unwrap();
    }
    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }
    pub fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.path("")).unwrap();
        let mut files: Vec<String> = files
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }
    pub fn settings(&self) -> Settings {
        let home = self.root().to_str().unwrap().to_owned();
        let env = move |name: &str| (name == "HOME").then(|| home.clone());
        Settings::load_from(&Flags::default(), &env, BACKENDS).unwrap()
    }
    pub fn manager(&self) -> Arc<SecretsManager> {
        self.manager_with(&[])
    }
    pub fn manager_with(&self, variables: &[(&str, &str)]) -> Arc<SecretsManager> {
        let settings = self.settings();
        let environment = environment(variables, &settings.env_prefix, &settings.env_keys);
        SecretsManager::from_settings_with(&settings, environment).unwrap()
    }
}

pub fn environment(
    variables: &[(&str, &str)],
    prefix: &str,
    keys: &[SecretName],
) -> EnvironmentProvider {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    EnvironmentProvider::new(variables, prefix, keys)
}

pub fn value(manager: &SecretsManager, key: &str) -> String {
    let value = manager
        .get(key)
        .unwrap_or_else(|error| panic!("{key}: {error}"));
    value.as_str().to_owned()
}

/// All events from now on, as `event key provider`.
pub fn listen(manager: &SecretsManager) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    manager.on_event(Box::new(move |event| {
        let key = event.key.as_deref().unwrap_or("-");
        let provider = event.provider.as_deref().unwrap_or("-");
        let line = format!("{} {key} {provider}", event.event);
        ear.lock().unwrap().push(line);
    }));
    heard
}

/// This program once more, as another process that runs one of its ignored tests in a home.
pub fn another_process(test: &str, home: &Home) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored"])
        .env("HOME", home.root())
        .stdout(std::process::Stdio::null());
    command
}
