//! Where a command finds the secrets: in the files of a running mount, or without one through the library. Both give the
//! same answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::mount_client::MountClient;
use super::nearest::nearest;
use super::secret_list::{Detail, ListedSecret, NO_ANSWER, Unlisted};
use super::{Context, Outcome, same_store};
use crate::audit::{Actor, AuditEvent, AuditTrail, ReadTarget};
use crate::error::Error;
use crate::manager::{Lookup, SecretsManager};
use crate::provider::{self, ChangeKind, PastChange, Undo, UndoRequest};
use crate::provider::{KeyRotationPlan, KeyRotationReport, KeyRotationRequest};
use crate::secret::SecretName;
use crate::settings::Settings;
use crate::settings::paths::{DEFAULT_NAMES, without_links};

pub(super) enum Target {
    /// A mount is running: its caches are warm, and it records who reads.
    Mount(MountClient),
    /// No mount is running, or the user gave `--no-mount`.
    Store(Store),
}

/// The library, and the audit trail, which the library does not write. Dropping it writes the last rows.
pub(super) struct Store {
    pub(super) manager: Arc<SecretsManager>,
    audit: Arc<AuditTrail>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.manager.close();
    }
}

impl Store {
    fn of(settings: &Settings) -> Outcome<Self> {
        Ok(Self {
            manager: SecretsManager::from_settings(settings)?,
            audit: AuditTrail::from_settings(settings),
        })
    }

    fn path(&self) -> PathBuf {
        self.manager.store_path().unwrap_or_default()
    }

    /// What was done to the keys, the newest first.
    pub(super) fn history(&self) -> Outcome<Vec<PastChange>> {
        Ok(self.manager.history()?)
    }

    /// Whether the store has the key.
    pub(super) fn has(&self, name: &SecretName) -> bool {
        self.manager.is_in_store(name)
    }

    /// What an undo would set back.
    pub(super) fn plan_undo(&self, what: &UndoRequest) -> Outcome<Vec<Undo>> {
        Ok(self.manager.plan_undo(what)?)
    }

    /// Sets keys back as planned.
    pub(super) fn undo(&self, planned: &[Undo]) -> Outcome {
        for outcome in self.manager.undo(planned)? {
            self.record(match outcome.kind {
                ChangeKind::Deleted => AuditEvent::SecretUndone(outcome.name),
                ChangeKind::Set | ChangeKind::Rotated => AuditEvent::SecretRestored(outcome.name),
            });
        }
        Ok(())
    }

    /// What a rotation of the key would do.
    pub(super) fn plan_key_rotation(&self) -> Outcome<KeyRotationPlan> {
        Ok(self.manager.plan_key_rotation()?)
    }

    /// Replaces the key as planned.
    pub(super) fn rotate_key(
        &self,
        plan: &KeyRotationPlan,
        request: &KeyRotationRequest,
    ) -> Outcome<KeyRotationReport> {
        let report = self.manager.rotate_key(plan, request)?;
        self.record(AuditEvent::KeyRotated {
            values: report.values,
            old_key: report.old_key.clone(),
        });
        Ok(report)
    }

    pub(super) fn record(&self, event: AuditEvent) {
        self.audit.record(Actor::this_process(), event);
    }
}

impl Target {
    pub(super) fn open(context: &Context, no_mount: bool) -> Outcome<Self> {
        // Before the settings are read: what is wrong with them does not concern a mount that runs.
        if !no_mount && let Some(mut client) = MountClient::find(&context.mount_point(None)?)? {
            if let Ok(settings) = context.settings() {
                client.timeout = settings.timeout.total;
                client.base_dir = Some(settings.base_dir);
            }
            return Ok(Target::Mount(client));
        }
        let settings = context.settings()?;
        same_store::refuse_moved_home(&settings)?;
        Ok(Target::Store(Store::of(&settings)?))
    }

    pub(super) fn get(&self, name: &SecretName) -> Outcome<Zeroizing<Vec<u8>>> {
        match self {
            Target::Mount(client) => client
                .get(name)
                .map_err(|failure| self.suggest(name, failure)),
            Target::Store(Store { manager, audit }) => {
                let value = manager.get(name.as_str());
                let value = value.map_err(|error| self.suggest(name, error.into()))?;
                for (provider, error) in manager.snapshot().missing_sources() {
                    if let Some(error) = error {
                        warn(&format!(
                            "the {provider} provider failed: {}",
                            error.reason()
                        ));
                    }
                }
                let target = ReadTarget::WithoutMount(name.clone(), "simpletuner-live");
                let uid = rustix::process::geteuid().as_raw();
                audit.record_read(uid, std::process::id(), target);
                Ok(Zeroizing::new(value.as_bytes().to_vec()))
            }
        }
    }

    /// Sets the value, and warns if another provider overrides it, or if SimpleTuner could read it before and cannot now.
    pub(super) fn set(&self, name: &SecretName, value: &[u8]) -> Outcome {
        match self {
            Target::Mount(client) => {
                let plain = (client.is_encrypted(name) == Some(false)).then(|| name.clone());
                client.set(name, value)?;
                if let Some(provider) = client.provider_of(name)
                    && provider != "file"
                {
                    warn(&format!(
                        "{name} is written to the file provider, but the {provider} provider has it, too, and reads still \
                         give that value"
                    ));
                }
                self.warn_if_hidden(client, plain.as_slice());
            }
            Target::Store(store) => {
                let text = std::str::from_utf8(value).map_err(|_| Error::NotUtf8 {
                    name: name.to_string(),
                })?;
                // The manager itself logs these warnings.
                store.manager.set(name.as_str(), text)?;
                store.record(AuditEvent::SecretSet(name.clone()));
            }
        }
        Ok(())
    }

    /// Warns of secrets that were plain text in the file that SimpleTuner reads itself, and are encrypted now.
    pub(super) fn warn_if_hidden(&self, client: &MountClient, plain: &[SecretName]) {
        let is_hidden = |name: &&SecretName| client.is_encrypted(name) == Some(true);
        for name in plain.iter().filter(is_hidden) {
            if let Some(store) = simpletuners_own_file(client) {
                warn(&provider::file::hidden(name, &store));
            }
        }
    }

    /// Removes the secret, and warns if another provider has it, too.
    pub(super) fn remove(&self, name: &SecretName) -> Outcome {
        let left = match self {
            Target::Mount(client) => {
                client
                    .remove(name)
                    .map_err(|failure| self.suggest(name, failure))?;
                client.provider_of(name)
            }
            Target::Store(store) => {
                let deleted = store.manager.delete(name.as_str());
                deleted.map_err(|error| self.suggest(name, error.into()))?;
                store.record(AuditEvent::SecretDeleted(name.clone()));
                // The manager itself logs it where that provider comes before the file.
                let found = store.manager.snapshot().find(name).last_known();
                let provider = found.map(|found| found.provider.to_string());
                provider.filter(|provider| provider != "environment")
            }
        };
        if let Some(provider) = left {
            warn(&format!(
                "{name} is removed from the file provider, but the {provider} provider has it, too, and reads give that value"
            ));
        }
        Ok(())
    }

    /// The failure of a command about this secret, with the name that the user may have meant.
    pub(super) fn suggest(&self, name: &SecretName, failure: Failure) -> Failure {
        let is_missing = matches!(&failure, Failure::Error(error) if error.is_not_found());
        if !is_missing {
            return failure;
        }
        let names = self.names();
        let nearest = nearest(name.as_str(), names.iter().map(SecretName::as_str));
        match (failure, nearest) {
            (Failure::Error(error), Some(nearest)) => Failure::Misspelt(error, nearest.to_owned()),
            (failure, _) => failure,
        }
    }

    /// The names that are known without asking anybody.
    fn names(&self) -> Vec<SecretName> {
        match self {
            Target::Mount(client) => {
                let listed = client.list(Detail::Names, &|_| true).unwrap_or_default();
                listed.into_iter().map(|one| one.name).collect()
            }
            Target::Store(Store { manager, .. }) => {
                let (names, _) = manager.list();
                names.into_iter().map(|(name, _)| name).collect()
            }
        }
    }

    /// Whether there is a secret of this name.
    pub(super) fn has(&self, name: &SecretName) -> bool {
        match self {
            Target::Mount(client) => client.has(name),
            Target::Store(store) => store.has(name),
        }
    }

    /// The store itself, whether a mount is running or not: a mount has noticed each write when it returns.
    pub(super) fn open_store(context: &Context) -> Outcome<Store> {
        let settings = context.settings().map_err(|error| {
            let hint = "this command changes or reads the secrets file itself, and the settings name it: mend them, or name others by \
                        --config; a mount that runs goes on with those in force, so `get`, `set` and `rm` work";
            Failure::Hinted(error, hint.to_owned())
        })?;
        let store = Store::of(&settings)?;
        same_store::require(context, &settings, &store.path())?;
        Ok(store)
    }

    /// All names that are wanted, sorted.
    pub(super) fn list(
        &self,
        detail: Detail,
        is_wanted: &dyn Fn(&SecretName) -> bool,
    ) -> Outcome<Vec<ListedSecret>> {
        match self {
            Target::Mount(client) => client.list(detail, is_wanted),
            Target::Store(Store { manager, .. }) => {
                let (mut names, _) = manager.list();
                names.retain(|(name, _)| is_wanted(name));
                // Asking for one value derives the file's key; after that the snapshot has all values.
                if detail == Detail::All
                    && let Some((name, _)) =
                        names.iter().find(|(_, provider)| &**provider == "file")
                {
                    let _ = manager.find(name);
                }
                let snapshot = manager.snapshot();
                let listed = names.into_iter().map(|(name, provider)| {
                    let looked_up = match detail {
                        Detail::All => snapshot.find(&name),
                        Detail::Names => Lookup::Unknown,
                    };
                    let problem = match &looked_up {
                        Lookup::Failed(error) => Some(error.to_string()),
                        _ => None,
                    };
                    let found = looked_up.last_known();
                    ListedSecret {
                        provider: Some(provider.to_string()),
                        size: found.as_ref().map(|found| found.size() as u64),
                        changed_at: found.map(|found| found.changed_at),
                        problem,
                        name,
                    }
                });
                Ok(listed.collect())
            }
        }
    }

    /// The providers whose names [`list`](Self::list) lacks. Waits for those that have not answered yet.
    pub(super) fn unlisted(&self) -> Vec<Unlisted> {
        match self {
            Target::Mount(client) => client.unlisted(),
            Target::Store(Store { manager, .. }) => {
                let _ = manager.list();
                let missing = manager.snapshot().missing_sources().into_iter();
                let unlisted = missing.map(|(provider, error)| Unlisted {
                    provider: provider.to_string(),
                    reason: error.map_or_else(|| NO_ANSWER.to_owned(), |error| error.reason()),
                });
                unlisted.collect()
            }
        }
    }
}

/// The secrets file of a mount, if it is the one that SimpleTuner reads itself.
fn simpletuners_own_file(mount: &MountClient) -> Option<PathBuf> {
    let report = mount.read_json("providers/file").ok()?;
    let store = without_links(Path::new(report["source"].as_str()?));
    let base_dir = mount.base_dir.as_ref()?;
    let mut defaults = DEFAULT_NAMES.iter().map(|name| base_dir.join(name));
    let first = defaults.find(|path| fs::symlink_metadata(path).is_ok())?;
    (without_links(&first) == store).then_some(store)
}
