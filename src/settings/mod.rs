//! The settings and the paths: from flags, else the environment, else `~/.simpletuner/live.yaml`, else defaults. Knows none
//! of the rooms that use them.
//!
//! Each setting is a row of a table (`table.rs`): one here, or one in the file of a backend.

mod base_paths;
mod content;
mod document;
pub(crate) mod paths;
mod reader;
mod setting;
mod table;
mod value;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};
use crate::text::shell_word;
use base_paths::BasePaths;
use value::above_zero;

pub(crate) use content::MAX_SETTINGS;
pub use content::{SettingsContent, SettingsDigest};
pub use reader::{Origin, Reader, SettingInForce};
pub use setting::{Setting, SettingRow, setting, variables};
pub(crate) use table::settings_table;
pub use table::{BackendSettings, Options, as_options};
pub(crate) use value::ensure;
pub use value::{RawSetting, SettingValue};

/// A hundred years; a larger number is a mistake.
const MAX_DAYS: u32 = 36_500;
/// The default of `max_keys`.
pub const MAX_KEYS: u32 = 10_000;

/// What the command line sets; it overrides everything else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The settings file, instead of `~/.simpletuner/live.yaml`.
    pub config: Option<PathBuf>,
    /// The mount point.
    pub mount_point: Option<PathBuf>,
    /// Whether root may use the mount.
    pub allow_root: Option<bool>,
    /// The secrets file.
    pub file_path: Option<PathBuf>,
    /// What the settings file held when it was read before: it is not read again.
    pub content: Option<SettingsContent>,
}

settings_table! {
    /// For how long values are cached.
    #[derive(PartialEq, Eq)]
    pub struct Ttl {
        /// For how long a value is cached, unless its key has an own time; `ttl: 60` sets just this
        default: Duration = setting("ttl.default").default(|| seconds(300)).check(above_zero).or_alone_as("ttl"),
        /// For how long it is cached that a key does not exist
        missing: Duration = setting("ttl.missing").default(|| seconds(10)),
        /// Keys with an own time: `{HF_TOKEN: 60}`
        keys: BTreeMap<SecretName, Duration> = setting("ttl.keys"),
    }
}

settings_table! {
    /// How long to wait for a backend, for another writer of the secrets file, or for the server.
    #[derive(PartialEq, Eq)]
    pub struct Timeouts {
        /// How long a connection to a backend may take
        connect: Duration = setting("timeout.connect").default(|| seconds(3)).example("3").check(above_zero),
        /// How long a backend's whole answer may take, and how long a write waits for the lock of the secrets file
        total: Duration = setting("timeout.total").default(|| seconds(10)).check(above_zero),
        /// After this time without a heartbeat, the server is replaced
        server: Duration = setting("timeout.server").default(|| seconds(10)).check(above_zero),
    }
}

settings_table! {
    /// All settings.
    pub struct Settings {
        /// The secrets file; unless it is set, the first that exists of `secrets.json`, `secrets.yaml` and `secrets.yml` in `~/.simpletuner`
        file_path: Option<PathBuf> = setting("file_path").or_flag(|flags| flags.file_path.clone().map(Some)),
        /// The prefix of the variables that hold secrets: with `SIMPLETUNER`, the key `HF_TOKEN` is the variable `SIMPLETUNER_HF_TOKEN`
        env_prefix: String = setting("env_prefix")
            .check(|prefix: &String| ensure(prefix.chars().all(is_word), "must be letters, digits and '_'")),
        /// Further variables to list as secrets
        env_keys: Vec<SecretName> = setting("env_keys"),
        /// Whether values are written encrypted
        encrypt: bool = setting("encrypt").default(|| true),
        /// The credential key; unless it is set, it is in `~/.simpletuner/credential.key`
        credential_key: Option<SecretValue> = variables(&["SIMPLETUNER_CREDENTIAL_KEY"]),
        /// For how long the last good document stands in for a provider that fails
        max_stale: Duration = setting("max_stale").default(|| seconds(3600)),
        /// The most keys that one document may have: the secrets file, or what AWS or Vault holds. Each takes about a kilobyte of memory
        max_keys: u32 = setting("max_keys").default(|| MAX_KEYS)
            .check(|keys: &u32| ensure(*keys > 0, "must be a number of keys, 1 or more")),
        /// How many earlier values of each key are kept, for `undo`: in the file `NAME.previous` beside the secrets file, encrypted as in there. With 0, the next write removes that file
        keep_previous: u32 = setting("keep_previous").default(|| 1)
            .check(|values: &u32| ensure(*values <= 20, "must be a number of values, 0 to 20")),
        /// Whether backends are asked when mounting, so that the first `ls` has their names
        prefetch: bool = setting("prefetch"),
        /// Whether root may use the mount, too
        allow_root: bool = setting("allow_root").or_flag(|flags| flags.allow_root),
        /// Whether it is recorded who reads which secret
        audit_reads: bool = setting("audit_reads").default(|| true),
        /// For how long recorded reads are kept; unless it is set, for ever
        audit_keep_days: Option<u32> = setting("audit_keep_days")
            .unit("days")
            .check(|days: &Option<u32>| ensure(days.is_none_or(|days| (1..=MAX_DAYS).contains(&days)), "must be a number of days, 1 or more")),
        /// Where views are mounted; unless it is set, in `~/.simpletuner/views`
        named_views_dir: Option<PathBuf> = setting("views_dir"),
        /// Whether Docker and Podman may have views as volumes
        docker: bool = setting("docker"),
        /// The socket for that; unless it is set, `/run/docker/plugins/simpletuner-live.sock`
        docker_socket: Option<PathBuf> = setting("docker_socket"),
        /// The audit trails' signing key; unless it is set, it is in a file beside the trail
        audit_key: Option<SecretValue> = variables(&["SIMPLETUNER_AUDIT_KEY"]),
        /// SimpleTuner's state folder; unless it is set, it is found as SimpleTuner finds it
        named_state_dir: Option<PathBuf> = variables(&["SIMPLETUNER_STATE_DIR", "SIMPLETUNER_CONFIG_DIR"]),
    }
    with reader {
        /// For how long values are cached.
        ttl: Ttl = Ttl::read(reader)?,
        /// How long to wait for others.
        timeout: Timeouts = Timeouts::read(reader)?,
        /// The user's home folder.
        home: PathBuf = reader.base.home.clone(),
        /// `~/.simpletuner`, the folder of all files of this program.
        base_dir: PathBuf = reader.base.base_dir.clone(),
        /// SimpleTuner's own state folder.
        state_dir: PathBuf = named_state_dir.clone().unwrap_or_default(),
        /// The mount point.
        mount_point: PathBuf = reader.base.mount_point.clone(),
        /// Where views are mounted.
        views_dir: PathBuf = named_views_dir.clone().unwrap_or_else(|| base_dir.join("views")),
        /// The file of the views' definitions.
        views_file: PathBuf = base_dir.join("views.json"),
        /// The credential key's file.
        key_file: PathBuf = base_dir.join("credential.key"),
        /// The background daemon's log.
        log_file: PathBuf = base_dir.join("live.log"),
        /// The settings file, which need not exist.
        config_file: PathBuf = reader.base.config_file.clone(),
        /// What the settings file held.
        content: SettingsContent = reader.document.content.clone(),
        /// What the backends that are configured are made from.
        backends: Vec<Options> = Vec::new(),
        /// Whether `adopt` wrote the line that names the secrets file.
        is_store_of_adopt: bool = false,
        /// Every setting, its value, and where it came from.
        in_force: Vec<SettingInForce> = Vec::new(),
    }
}

impl Ttl {
    /// For how long a value of this key is cached.
    pub fn of(&self, name: &SecretName) -> Duration {
        *self.keys.get(name).unwrap_or(&self.default)
    }
}

impl Default for Ttl {
    fn default() -> Self {
        valid_defaults(Self::read(&Reader::empty()))
    }
}

/// Settings that belong together, for the documentation.
pub struct SettingGroup {
    /// What they are about.
    pub title: &'static str,
    /// The setting without which the variables of the others do not count.
    pub switch: Option<&'static str>,
    /// The settings as they are if nothing is set.
    pub settings: Vec<SettingInForce>,
}

/// The whole table, with the settings of these backends.
pub fn groups(backends: &[impl AsRef<BackendSettings>]) -> Vec<SettingGroup> {
    let reader = Reader::empty();
    let defaults = valid_defaults(Settings::read(&reader));
    let general = SettingGroup {
        title: "General",
        switch: None,
        settings: reader.take_read(),
    };
    let backends = backends.iter().map(AsRef::as_ref).map(|backend| {
        valid_defaults((backend.read)(&reader, &defaults));
        SettingGroup {
            title: backend.title,
            switch: Some(backend.switch),
            settings: reader.take_read(),
        }
    });
    std::iter::once(general).chain(backends).collect()
}

/// All rows of the table.
pub fn rows(backends: &[impl AsRef<BackendSettings>]) -> Vec<SettingRow> {
    let settings = groups(backends)
        .into_iter()
        .flat_map(|group| group.settings);
    settings.map(|setting| setting.row).collect()
}

/// The defaults of settings: reading them cannot fail. A test reads those of all settings.
fn valid_defaults<T>(read: Result<T>) -> T {
    read.expect("the defaults are right")
}

impl Settings {
    /// Loads the settings from the flags, this process's environment and the settings file. `backends` are those that it may
    /// configure: [`provider::BACKENDS`](../provider/constant.BACKENDS.html).
    ///
    /// # Errors
    /// [`Error::Settings`] says which setting is wrong; [`Error::Io`] if the file cannot be read.
    pub fn load(flags: &Flags, backends: &[impl AsRef<BackendSettings>]) -> Result<Self> {
        refuse_unreadable_home()?;
        Self::load_from(flags, &|name| std::env::var(name).ok(), backends)
    }

    /// Like [`load`](Self::load), with another environment. An empty variable counts as unset.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_from(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        backends: &[impl AsRef<BackendSettings>],
    ) -> Result<Self> {
        Self::load_below(flags, env, backends, Path::new("/"))
    }

    /// The mount point by the flags and this process's environment. Does not read the settings file: a mistake in it must not
    /// prevent `status` or `umount`. An absolute path among the flags needs no home.
    ///
    /// # Errors
    /// [`Error::Settings`] if there is no home, or it belongs to another user.
    pub fn mount_point_by(flags: &Flags) -> Result<PathBuf> {
        if let Some(path) = flags.mount_point.as_ref().filter(|path| path.is_absolute()) {
            return Ok(path.clone());
        }
        refuse_unreadable_home()?;
        let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let base = BasePaths::find(flags, &env)?;
        refuse_foreign_home(&base.home)?;
        Ok(base.mount_point)
    }

    /// SimpleTuner's secrets file, if `adopt` has made it a link to this mount point. Does not read the settings file.
    pub fn link_to_mount(flags: &Flags) -> Option<PathBuf> {
        let base = BasePaths::find(flags, &|name| std::env::var(name).ok()).ok()?;
        let link = base.base_dir.join(paths::DEFAULT_NAMES[0]);
        let target = base.base_dir.join(std::fs::read_link(&link).ok()?);
        let leads_there = paths::lexical(&target) == base.mount_point.join(paths::IN_MOUNT);
        leads_there.then_some(link)
    }

    /// What a backend is made from; `None` if it is not configured.
    pub fn backend<T: Any>(&self) -> Option<&T> {
        self.backends
            .iter()
            .find_map(|options| options.downcast_ref())
    }

    fn load_below(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        backends: &[impl AsRef<BackendSettings>],
        root: &Path,
    ) -> Result<Self> {
        let env = |name: &str| env(name).filter(|text| !text.is_empty());
        let base = BasePaths::find(flags, &env)?;
        refuse_foreign_home(&base.home)?;
        base.keep_out_of_mount("the settings file", &base.config_file)?;
        let mut flags = flags.clone();
        if let Some(path) = &mut flags.file_path {
            *path = base.absolute(path)?;
            base.keep_out_of_mount("the secrets file", path)?;
        }
        let reader = Reader::new(flags, &env, base)?;
        let rows = rows(backends);
        reader.document.check_names(&rows)?;
        let mut settings = Self::read(&reader)?;
        // Only now, because a folder on a filesystem that hangs must not delay commands that only print the table.
        if settings.named_state_dir.is_none() {
            settings.state_dir = paths::state_dir(&settings.base_dir, root);
        }
        for backend in backends.iter().map(AsRef::as_ref) {
            let is_switch = |row: &&SettingRow| row.name == backend.switch;
            reader.use_variables_only_with(rows.iter().find(is_switch));
            settings
                .backends
                .extend((backend.read)(&reader, &settings)?);
        }
        settings.in_force = reader.take_read();
        settings.is_store_of_adopt = settings.names_store_by_adopt();
        settings.keep_own_files_out_of_mount(&reader.base)?;
        let in_file =
            |setting: &SettingInForce| setting.from == Origin::File && setting.row.is_secret();
        if reader.document.is_open_to_others && settings.in_force.iter().any(in_file) {
            let name = &reader.document.name;
            tracing::warn!(
                "{name} holds a credential, and other users may read it; fix it with: chmod 600 {}",
                shell_word(name)
            );
        }
        Ok(settings)
    }

    fn names_store_by_adopt(&self) -> bool {
        let is_own =
            |setting: &SettingInForce| setting.name == "file_path" && setting.from == Origin::File;
        let content = self.content.bytes().unwrap_or_default();
        let mut lines = content.split(|byte| *byte == b'\n');
        let is_line_of_adopt =
            |line: &[u8]| std::str::from_utf8(line).is_ok_and(paths::is_line_of_adopt);
        self.in_force.iter().any(is_own) && lines.any(is_line_of_adopt)
    }

    fn keep_own_files_out_of_mount(&self, base: &BasePaths) -> Result<()> {
        // Where `file_path` leads was checked when it was read, which takes seconds if its filesystem hangs.
        let stores = match self.file_path {
            Some(_) => &[][..],
            None => &paths::DEFAULT_NAMES,
        };
        let stores = stores
            .iter()
            .map(|name| ("the secrets file", self.base_dir.join(name)));
        let others = [
            ("the credential key", self.key_file.clone()),
            ("the log", self.log_file.clone()),
            ("the state folder", self.state_dir.clone()),
        ];
        stores
            .chain(others)
            .try_for_each(|(what, path)| base.keep_out_of_mount(what, &path))
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Paths are texts in the settings, in `status` and in messages.
fn refuse_unreadable_home() -> Result<()> {
    match std::env::var("HOME") {
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::Settings(
            "HOME is not UTF-8 text; set HOME to a path that is, a link perhaps".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Refuses root in another user's home: root would create files that the owner cannot use, and follow the owner's links.
fn refuse_foreign_home(home: &Path) -> Result<()> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Ok(());
    }
    let owner = rustix::fs::stat(home).map_or(0, |stat| stat.st_uid);
    if owner == 0 {
        return Ok(());
    }
    let user = crate::users::display_name(owner);
    let home = home.display();
    Err(Error::Settings(format!(
        "this is root, and HOME={home} belongs to {user}, who could not use the files that root would create there; \
         run it as {user}, or with root's own home: `sudo -H`, or HOME=/root"
    )))
}

#[cfg(test)]
mod tests;
