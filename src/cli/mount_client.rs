//! A running mount, used through its files; turns errnos back into error messages. Knows no provider.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use zeroize::Zeroizing;

use super::Outcome;
use super::close::close;
use super::failure::{Failure, warn};
use super::reason;
use super::secret_list::{Detail, ListedSecret, NO_ANSWER, Unlisted};
use crate::error::Error;
use crate::mount::{self, MountPointState};
use crate::secret::{MAX_VALUE, SecretName, without_newline};

const PROVIDER: &str = "user.simpletuner.provider";
/// How long to wait for a provider if the settings cannot be read: the default of `timeout.total`.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(10);
const ERROR: &str = "user.simpletuner.error";
const STORED: &str = "user.simpletuner.stored";
/// Of a bundle: the providers whose secrets are missing.
const MISSING: &str = "user.simpletuner.missing";
/// How often a provider that has not answered yet is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A mount of this program that answers.
pub(super) struct MountClient {
    root: PathBuf,
    /// `~/.simpletuner`, if the settings were read.
    pub(super) base_dir: Option<PathBuf>,
    /// How long to wait for a provider.
    pub(super) timeout: Duration,
}

/// Why a mount does not answer, and what to type next.
fn explain_no_answer(mount_point: &Path) -> (String, String) {
    let path = mount_point.display();
    let mount = mount::command_for("mount", mount_point);
    match mount::explain_stopped(mount_point) {
        None => (
            format!("the mount at {path} is dead"),
            format!("{mount} cleans it up and mounts again"),
        ),
        Some((why, command)) => (why, format!("{mount}, or `{command}`, continues it")),
    }
}

impl MountClient {
    fn new(mount_point: &Path) -> Self {
        Self {
            root: mount_point.into(),
            base_dir: None,
            timeout: Duration::ZERO,
        }
    }

    /// The mount at `mount_point`, if it answers; warns about one that is dead or another user's.
    pub(super) fn find(mount_point: &Path) -> Outcome<Option<Self>> {
        match mount::mount_point_state(mount_point)? {
            MountPointState::Ours { alive: true, .. } => {
                return Ok(Some(Self {
                    timeout: PROVIDER_TIMEOUT,
                    ..Self::new(mount_point)
                }));
            }
            MountPointState::Ours { alive: false, .. } => {
                let (what, hint) = explain_no_answer(mount_point);
                warn(&format!("{what}; {hint}"));
            }
            MountPointState::OfAnother { uid } => {
                warn(&mount::belongs_to_another(mount_point, uid))
            }
            MountPointState::NotMounted | MountPointState::Foreign { .. } => {}
        }
        Ok(None)
    }

    /// The mount at `mount_point`.
    ///
    /// # Errors
    /// There is none, or it does not answer; the message says what to do.
    pub(super) fn require(mount_point: &Path) -> Outcome<Self> {
        let path = mount_point.display();
        match mount::mount_point_state(mount_point)? {
            MountPointState::Ours { alive: true, .. } => Ok(Self::new(mount_point)),
            MountPointState::Ours { alive: false, .. } => {
                let (what, hint) = explain_no_answer(mount_point);
                Err(Failure::with_hint(what, hint))
            }
            MountPointState::NotMounted => {
                let others = mount::own_mount_points();
                let others: Vec<_> = others.iter().map(|dir| dir.display().to_string()).collect();
                let mount = mount::command_for("mount", mount_point);
                let hint = match others.len() {
                    0 => format!("{mount} mounts it"),
                    _ => format!(
                        "{mount} mounts it; this user has a mount at {}",
                        others.join(", ")
                    ),
                };
                Err(Failure::with_hint(
                    format!("nothing is mounted at {path}"),
                    hint,
                ))
            }
            MountPointState::OfAnother { uid } => {
                Err(Failure::new(mount::belongs_to_another(mount_point, uid)))
            }
            MountPointState::Foreign { fstype } => Err(Failure::new(format!(
                "{path} is a {fstype} mount, not one of simpletuner-live"
            ))),
        }
    }

    fn secret_path(&self, name: &SecretName) -> PathBuf {
        self.root.join("secrets").join(name.as_str())
    }

    /// The value, [without the newline](without_newline) that ends a single line.
    pub(super) fn get(&self, name: &SecretName) -> Outcome<Zeroizing<Vec<u8>>> {
        // Allocated at its full size, because a vector that grows leaves unzeroed copies.
        let mut value = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 1));
        File::open(self.secret_path(name))
            .and_then(|file| file.take(MAX_VALUE as u64 + 1).read_to_end(&mut value))
            .map_err(|error| self.failure(name, "read", error))?;
        let kept = without_newline(&value).len();
        value.truncate(kept);
        Ok(value)
    }

    /// Sets the value.
    pub(super) fn set(&self, name: &SecretName, value: &[u8]) -> Outcome {
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(self.secret_path(name))?;
            // After a failed write the file is closed by dropping it: the server then discards what was written.
            file.write_all(value)?;
            close(file)
        };
        write().map_err(|error| self.failure(name, "write", error))
    }

    /// Whether the secrets file's value is encrypted.
    pub(super) fn is_encrypted(&self, name: &SecretName) -> Option<bool> {
        Some(reason::attribute(&self.secret_path(name), STORED)? == "encrypted")
    }

    pub(super) fn has(&self, name: &SecretName) -> bool {
        fs::symlink_metadata(self.secret_path(name)).is_ok()
    }

    pub(super) fn remove(&self, name: &SecretName) -> Outcome {
        fs::remove_file(self.secret_path(name)).map_err(|error| self.failure(name, "remove", error))
    }

    /// All names that are wanted, sorted.
    pub(super) fn list(
        &self,
        detail: Detail,
        is_wanted: &dyn Fn(&SecretName) -> bool,
    ) -> Outcome<Vec<ListedSecret>> {
        let folder = self.root.join("secrets");
        let failed = |e| Failure::Error(Error::io(format!("cannot list {}", folder.display()), e));
        // One file for each provider, instead of one attribute for each secret.
        let providers = match detail {
            Detail::Names => HashMap::new(),
            Detail::All => self.providers_by_name(),
        };
        let mut listed = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().and_then(|name| SecretName::new(name).ok()) else {
                continue;
            };
            if !is_wanted(&name) {
                continue;
            }
            let metadata = match detail {
                Detail::All => fs::metadata(self.secret_path(&name)).ok(),
                Detail::Names => None,
            };
            let provider = match detail {
                Detail::Names => None,
                Detail::All => match providers.get(name.as_str()) {
                    Some(provider) => Some(provider.clone()),
                    None => self.provider_of(&name),
                },
            };
            // The mount shows a value that cannot be read as an empty one.
            let looks_empty = metadata.as_ref().is_some_and(|m| m.len() == 0);
            let problem = looks_empty
                .then(|| reason::attribute(&self.secret_path(&name), ERROR))
                .flatten();
            let metadata = metadata.filter(|_| problem.is_none());
            listed.push(ListedSecret {
                provider,
                problem,
                size: metadata.as_ref().map(|m| m.len()),
                changed_at: metadata.and_then(|m| m.modified().ok()),
                name,
            });
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// The first provider of the chain that has it, for each secret.
    fn providers_by_name(&self) -> HashMap<String, String> {
        let mut providers = HashMap::new();
        for report in self.providers() {
            let keys = report["keys"].as_array().into_iter().flatten();
            for key in keys.filter_map(Value::as_str) {
                let provider = providers.entry(key.to_owned());
                provider.or_insert_with(|| report["name"].as_str().unwrap_or("?").to_owned());
            }
        }
        providers
    }

    /// The provider that reads of the key come from.
    pub(super) fn provider_of(&self, name: &SecretName) -> Option<String> {
        reason::attribute(&self.secret_path(name), PROVIDER)
    }

    /// Reads a JSON file: `status`, `cache/stats`, ...
    pub(super) fn read_json(&self, file: &str) -> Outcome<Value> {
        let path = self.root.join(file);
        let bytes =
            fs::read(&path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(format!("{} is not JSON: {e}", path.display())))
    }

    /// The reports of all providers, in the order of the chain.
    pub(super) fn providers(&self) -> Vec<Value> {
        let names = fs::read_dir(self.root.join("providers"))
            .into_iter()
            .flatten();
        let mut reports: Vec<Value> = names
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| self.read_json(&format!("providers/{name}")).ok())
            .collect();
        reports.sort_by_key(|report| report["priority"].as_u64());
        reports
    }

    /// The providers whose names a listing lacks. Waits for those that have not answered yet.
    pub(super) fn unlisted(&self) -> Vec<Unlisted> {
        let began = Instant::now();
        // Opening the folder has the mount ask them.
        let _ = fs::read_dir(self.path("secrets"));
        loop {
            let missing =
                reason::attribute(&self.path("bundle/secrets.json"), MISSING).unwrap_or_default();
            let reports = self.providers();
            let report_of = |name: &str| reports.iter().find(|report| report["name"] == *name);
            let is_asked = |name: &str| {
                report_of(name).is_none_or(|report| {
                    !report["last_success"].is_null() || !report["last_error"].is_null()
                })
            };
            if missing.split(' ').all(is_asked) || began.elapsed() >= self.timeout {
                let unlisted = |name: &str| Unlisted {
                    provider: name.to_owned(),
                    reason: report_of(name)
                        .and_then(|report| report["last_error"].as_str())
                        .unwrap_or(NO_ANSWER)
                        .to_owned(),
                };
                return missing.split_whitespace().map(unlisted).collect();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The mount point.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file in the mount.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Writes a control file.
    pub(super) fn write_control(&self, file: &str, input: &[u8]) -> Outcome {
        self.write(file, input, OpenOptions::new().write(true))
    }

    /// Writes a whole file, and creates it if it is missing.
    pub(super) fn write_whole(&self, file: &str, content: &[u8]) -> Outcome {
        let mut options = OpenOptions::new();
        self.write(
            file,
            content,
            options.write(true).create(true).truncate(true),
        )
    }

    fn write(&self, file: &str, input: &[u8], options: &OpenOptions) -> Outcome {
        let path = self.root.join(file);
        let write = || {
            let mut file = options.open(&path)?;
            file.write_all(input)?;
            close(file)
        };
        write().map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => Failure::new(format!("the mount has no {file}")),
            _ => Error::io(format!("cannot write {}", path.display()), e).into(),
        })
    }

    /// Reads a document with values.
    pub(super) fn read_bytes(&self, file: &str) -> Outcome<Zeroizing<Vec<u8>>> {
        let path = self.root.join(file);
        let failed = |e| Failure::Error(Error::io(format!("cannot read {}", path.display()), e));
        let mut opened = File::open(&path).map_err(failed)?;
        let size = opened.metadata().map_err(failed)?.len();
        // Allocated at its full size, because a vector that grows leaves unzeroed copies.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
        opened.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Reads a text file.
    pub(super) fn read_text(&self, file: &str) -> Outcome<String> {
        let path = self.root.join(file);
        fs::read_to_string(&path)
            .map_err(|e| Error::io(format!("cannot read {}", path.display()), e).into())
    }

    /// The error for an errno: with the server's own reason if it gives one, else by the table of errors in `docs/operation.md`.
    fn failure(&self, name: &SecretName, verb: &str, error: io::Error) -> Failure {
        let name_text = name.to_string();
        match error.raw_os_error() {
            Some(libc::ENOENT) => return Error::NotFound { name: name_text }.into(),
            Some(libc::ENOTCONN) => {
                return Failure::with_hint(
                    format!("the mount at {} has died", self.root.display()),
                    format!(
                        "{} cleans it up and mounts again",
                        mount::command_for("mount", &self.root)
                    ),
                );
            }
            _ => {}
        }
        if let Some(reason) = reason::of_key(&self.root, name) {
            return Failure::new(match reason.contains(&name_text) {
                true => reason,
                false => format!("cannot {verb} {name}: {reason}"),
            });
        }
        match error.raw_os_error() {
            Some(libc::EKEYREJECTED) => Error::CannotDecrypt {
                name: name_text,
                reason:
                    "the key is wrong, or the stored value is damaged; the daemon's log says more"
                        .into(),
            }
            .into(),
            Some(libc::EIO) => {
                let reason = reason::of_providers(&self.providers()).unwrap_or_else(|| {
                    "the daemon's log says why (~/.simpletuner/live.log)".into()
                });
                Failure::new(format!("cannot {verb} {name}: {reason}"))
            }
            Some(libc::EPERM) => match self.provider_of(name) {
                Some(provider) if provider != "file" => Error::ReadOnlyProvider {
                    name: name_text,
                    provider,
                }
                .into(),
                _ => Error::io(format!("cannot {verb} {name}"), error).into(),
            },
            Some(libc::EFBIG) => Error::TooLarge {
                what: format!("the value of {name}"),
                limit: MAX_VALUE,
            }
            .into(),
            Some(libc::EILSEQ) => Error::NotUtf8 { name: name_text }.into(),
            _ if error.kind() == ErrorKind::PermissionDenied => Failure::new(format!(
                "you may not {verb} {name}: the mount at {} belongs to another user",
                self.root.display()
            )),
            _ => Error::io(format!("cannot {verb} {name}"), error).into(),
        }
    }
}

#[cfg(test)]
mod tests;
