//! The settings and the paths: from flags, else the environment, else `~/.simpletuner/live.yaml`, else defaults. Knows none
//! of the rooms that use them.

mod base_paths;
mod document;
pub(crate) mod paths;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::secret::{SecretName, SecretValue};
use base_paths::BasePaths;
use document::{read_days, read_document, read_names, read_ttl, refuse_removed};
use yaml::Section;

const KNOWN: [&str; 20] = [
    "file_path",
    "env_prefix",
    "env_keys",
    "aws_secret_name",
    "aws_region",
    "vault_url",
    "vault_token",
    "vault_token_file",
    "vault_role_id",
    "vault_secret_id",
    "vault_path",
    "vault_mount_point",
    "encrypt",
    "ttl",
    "max_stale",
    "timeout",
    "prefetch",
    "allow_root",
    "audit_reads",
    "audit_keep_days",
];

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
}

/// For how long values are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// A value, unless its key has an own time.
    pub default: Duration,
    /// The answer that a key does not exist.
    pub missing: Duration,
    /// Keys with an own time.
    pub keys: BTreeMap<SecretName, Duration>,
}

impl Default for Ttl {
    fn default() -> Self {
        Self {
            default: Duration::from_secs(300),
            missing: Duration::from_secs(10),
            keys: BTreeMap::new(),
        }
    }
}

/// How long to wait for a backend, for another writer of the secrets file, or for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to a backend.
    pub connect: Duration,
    /// For a backend's whole answer, or for the store's lock.
    pub total: Duration,
    /// After this time without a heartbeat, the keeper replaces the server.
    pub server: Duration,
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user's home folder.
    pub home: PathBuf,
    /// `~/.simpletuner`, the folder of all files of this program.
    pub base_dir: PathBuf,
    /// SimpleTuner's own state folder.
    pub state_dir: PathBuf,
    /// The mount point.
    pub mount_point: PathBuf,
    /// The credential key's file.
    pub key_file: PathBuf,
    /// The background daemon's log.
    pub log_file: PathBuf,
    /// The settings file, which need not exist.
    pub config_file: PathBuf,
    /// The credential key itself, if the environment sets it.
    pub credential_key: Option<SecretValue>,
    /// The secrets file; `None`: the first default path that exists.
    pub file_path: Option<PathBuf>,
    /// The prefix of the environment variables that hold secrets.
    pub env_prefix: String,
    /// Further variables to list.
    pub env_keys: Vec<SecretName>,
    /// The AWS secret.
    pub aws_secret_name: Option<String>,
    /// The AWS region; `None`: the SDK's default.
    pub aws_region: Option<String>,
    /// Vault's address.
    pub vault_url: Option<String>,
    /// Vault's namespace; only `VAULT_NAMESPACE` sets it, as for Vault's own command line.
    pub vault_namespace: Option<String>,
    /// A PEM file with the certificates to trust for Vault (`VAULT_CACERT`).
    pub vault_ca_file: Option<PathBuf>,
    /// A folder with such files (`VAULT_CAPATH`).
    pub vault_ca_folder: Option<PathBuf>,
    /// The client certificate for Vault (`VAULT_CLIENT_CERT`).
    pub vault_client_cert: Option<PathBuf>,
    /// The key of the client certificate (`VAULT_CLIENT_KEY`).
    pub vault_client_key: Option<PathBuf>,
    /// Whether Vault's certificate is not verified (`VAULT_SKIP_VERIFY`).
    pub vault_skip_verify: bool,
    /// Vault's token.
    pub vault_token: Option<SecretValue>,
    /// A file with Vault's token.
    pub vault_token_file: Option<PathBuf>,
    /// The AppRole's id.
    pub vault_role_id: Option<SecretValue>,
    /// The AppRole's secret id.
    pub vault_secret_id: Option<SecretValue>,
    /// The path in Vault.
    pub vault_path: String,
    /// The mount point of Vault's KV engine.
    pub vault_mount_point: String,
    /// Whether values are written encrypted.
    pub encrypt: bool,
    /// For how long values are cached.
    pub ttl: Ttl,
    /// For how long a failing provider's last document is served.
    pub max_stale: Duration,
    /// How long to wait for others.
    pub timeout: Timeouts,
    /// Whether the backends are asked at the start, before the first read.
    pub prefetch: bool,
    /// Whether root may use the mount.
    pub allow_root: bool,
    /// Whether reads are recorded.
    pub audit_reads: bool,
    /// For how many days recorded reads are kept; `None`: for ever.
    pub audit_keep_days: Option<u32>,
    /// The audit trail's signing key, if the environment sets it.
    pub audit_key: Option<SecretValue>,
}

impl Settings {
    /// Loads the settings from the flags, this process's environment and the settings file.
    ///
    /// # Errors
    /// [`Error::Settings`] says which setting is wrong; [`Error::Io`] if the file cannot be read.
    pub fn load(flags: &Flags) -> Result<Self> {
        refuse_unreadable_home()?;
        Self::load_from(flags, &|name| std::env::var(name).ok())
    }

    /// Like [`load`](Self::load), with another environment. An empty variable counts as unset.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_from(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::load_below(flags, env, Path::new("/"))
    }

    /// The mount point by the flags and this process's environment. Does not read the settings file: a mistake in it must not
    /// prevent `status` or `umount`.
    ///
    /// # Errors
    /// [`Error::Settings`] if there is no home, or it belongs to another user.
    pub fn mount_point_by(flags: &Flags) -> Result<PathBuf> {
        refuse_unreadable_home()?;
        let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let base = BasePaths::find(flags, &env)?;
        refuse_foreign_home(&base.home)?;
        base.mount_point(flags)
    }

    fn load_below(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        root: &Path,
    ) -> Result<Self> {
        let env = |name: &str| env(name).filter(|text| !text.is_empty());
        let base = BasePaths::find(flags, &env)?;
        refuse_foreign_home(&base.home)?;
        let mount_point = base.mount_point(flags)?;
        keep_out_of_mount("the settings file", &base.config_file, &mount_point)?;
        let name = base.config_file.display().to_string();
        let document = read_document(&base.config_file, flags.config.is_some())?;
        refuse_removed(&document.root, &name)?;
        let top = Section::top(&document.root, &name, &KNOWN)?;

        let text = |setting: &str| top.text(setting).map(|text| text.map(ToOwned::to_owned));
        let path = |setting: &str| -> Result<Option<PathBuf>> {
            let beside = base.config_file.parent().unwrap_or(Path::new("/"));
            match top.text(setting)? {
                Some("") => Err(top.wrong(setting, "must be a path")),
                Some(text) => base.expand(text, beside).map(Some),
                None => Ok(None),
            }
        };
        let secret = |setting: &str, variable: &str| -> Result<Option<SecretValue>> {
            let set = top.text(setting)?.filter(|text| !text.is_empty());
            Ok(env(variable).as_deref().or(set).map(SecretValue::new))
        };
        // Relative to the working folder, as in other programs that read these variables.
        let variable_path = |variable: &str| -> Result<Option<PathBuf>> {
            let text = env(variable);
            text.map(|text| base.absolute(Path::new(&text))).transpose()
        };
        let vault_url = env("VAULT_ADDR").or(text("vault_url")?);
        let timeout = top.section("timeout", &["connect", "total", "server"])?;
        let seconds = Duration::from_secs;
        let settings = Settings {
            file_path: match &flags.file_path {
                Some(path) => Some(base.absolute(path)?),
                None => path("file_path")?,
            },
            env_prefix: text("env_prefix")?.unwrap_or_default(),
            env_keys: read_names(&top, "env_keys")?,
            aws_secret_name: env("SIMPLETUNER_AWS_SECRET_NAME").or(text("aws_secret_name")?),
            // Unlike for the other settings, the environment comes last: these are the SDK's variables.
            aws_region: text("aws_region")?
                .or_else(|| env("AWS_REGION"))
                .or_else(|| env("AWS_DEFAULT_REGION")),
            vault_url: vault_url.clone(),
            vault_token: secret("vault_token", "VAULT_TOKEN")?,
            vault_token_file: match variable_path("VAULT_TOKEN_FILE")? {
                Some(path) => Some(path),
                None => path("vault_token_file")?,
            },
            vault_namespace: env("VAULT_NAMESPACE"),
            vault_ca_file: variable_path("VAULT_CACERT")?,
            vault_ca_folder: variable_path("VAULT_CAPATH")?,
            vault_client_cert: variable_path("VAULT_CLIENT_CERT")?,
            vault_client_key: variable_path("VAULT_CLIENT_KEY")?,
            vault_skip_verify: vault_url.is_some() && read_skip_verify(&env)?,
            vault_role_id: secret("vault_role_id", "VAULT_ROLE_ID")?,
            vault_secret_id: secret("vault_secret_id", "VAULT_SECRET_ID")?,
            vault_path: env("SIMPLETUNER_VAULT_PATH")
                .or(text("vault_path")?)
                .unwrap_or_else(|| "simpletuner".to_owned()),
            vault_mount_point: text("vault_mount_point")?.unwrap_or_else(|| "secret".to_owned()),
            encrypt: top.flag("encrypt")?.unwrap_or(true),
            ttl: read_ttl(&top)?,
            max_stale: top.seconds("max_stale", false)?.unwrap_or(seconds(3600)),
            timeout: Timeouts {
                connect: timeout.seconds("connect", true)?.unwrap_or(seconds(3)),
                total: timeout.seconds("total", true)?.unwrap_or(seconds(10)),
                server: timeout.seconds("server", true)?.unwrap_or(seconds(10)),
            },
            prefetch: top.flag("prefetch")?.unwrap_or(false),
            allow_root: match flags.allow_root {
                Some(flag) => flag,
                None => top.flag("allow_root")?.unwrap_or(false),
            },
            audit_reads: top.flag("audit_reads")?.unwrap_or(true),
            audit_keep_days: read_days(&top, "audit_keep_days")?,
            audit_key: env("SIMPLETUNER_AUDIT_KEY")
                .as_deref()
                .map(SecretValue::new),
            credential_key: env("SIMPLETUNER_CREDENTIAL_KEY")
                .as_deref()
                .map(SecretValue::new),
            state_dir: paths::state_dir(&env, &base.base_dir, root),
            key_file: base.base_dir.join("credential.key"),
            log_file: base.base_dir.join("live.log"),
            config_file: base.config_file.clone(),
            base_dir: base.base_dir,
            home: base.home,
            mount_point,
        };
        settings.check(&top)?;
        if document.is_open_to_others
            && (top.value("vault_token").or(top.value("vault_secret_id"))).is_some()
        {
            tracing::warn!(
                "{name} holds a credential and can be read by others; fix it with: chmod 600 {name}"
            );
        }
        Ok(settings)
    }

    fn check(&self, top: &Section<'_>) -> Result<()> {
        let is_identifier = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !self.env_prefix.chars().all(is_identifier) {
            return Err(top.wrong("env_prefix", "must be letters, digits and '_'"));
        }
        if let Some(url) = &self.vault_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(top.wrong(
                "vault_url",
                "(or VAULT_ADDR) must begin with https:// or http://",
            ));
        }
        if self.vault_role_id.is_some() != self.vault_secret_id.is_some() {
            return Err(top.wrong(
                "vault_role_id",
                "and vault_secret_id must be set both, or neither",
            ));
        }
        for (what, path) in [
            ("the credential key", &self.key_file),
            ("the log", &self.log_file),
            ("the state folder", &self.state_dir),
        ] {
            keep_out_of_mount(what, path, &self.mount_point)?;
        }
        for (what, path) in [
            ("vault_token_file", &self.vault_token_file),
            ("VAULT_CACERT", &self.vault_ca_file),
            ("VAULT_CAPATH", &self.vault_ca_folder),
            ("VAULT_CLIENT_CERT", &self.vault_client_cert),
            ("VAULT_CLIENT_KEY", &self.vault_client_key),
        ] {
            if let Some(path) = path {
                keep_out_of_mount(what, path, &self.mount_point)?;
            }
        }
        let defaults = paths::DEFAULT_NAMES.map(|name| self.base_dir.join(name));
        let stores = match &self.file_path {
            Some(path) => std::slice::from_ref(path),
            None => &defaults[..],
        };
        // `adopt` has replaced such a default path with a link into the mount; the provider then uses the store beside it.
        let is_not_adopted = |path: &&PathBuf| paths::adopted_store(path, &self.base_dir).is_none();
        for path in stores.iter().filter(is_not_adopted) {
            keep_out_of_mount("the secrets file", path, &self.mount_point)?;
        }
        Ok(())
    }
}

/// Parses `VAULT_SKIP_VERIFY` as Vault's own command line does (Go's `strconv.ParseBool`).
fn read_skip_verify(env: &dyn Fn(&str) -> Option<String>) -> Result<bool> {
    match env("VAULT_SKIP_VERIFY").as_deref() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(_) => Err(Error::Settings(
            "VAULT_SKIP_VERIFY must be true or false".to_owned(),
        )),
    }
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
    let owner = rustix::fs::stat(home).map_or(uid.as_raw(), |stat| stat.st_uid);
    if !uid.is_root() || owner == 0 {
        return Ok(());
    }
    let user = crate::users::user_name(owner).unwrap_or_else(|| owner.to_string());
    let home = home.display();
    Err(Error::Settings(format!(
        "this is root, and HOME={home} belongs to {user}, who could not use the files that root would create there; \
         run it as {user}, or with root's own home: `sudo -H`, or HOME=/root"
    )))
}

/// Refuses a path into the mount: the server would wait for itself.
fn keep_out_of_mount(what: &str, path: &Path, mount_point: &Path) -> Result<()> {
    if paths::leads_into(path, mount_point) {
        return Err(Error::Settings(format!(
            "{what}, {}, leads into our own mount {}, which would wait for itself",
            path.display(),
            mount_point.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
