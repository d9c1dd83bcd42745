//! Where a command finds the secrets: in the files of a running mount, or without one through the library. Both give the
//! same answers.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::failure::warn;
use super::mount_client::MountClient;
use super::reason;
use super::secret_list::{Detail, ListedSecret, NO_ANSWER, Unlisted};
use super::{Context, Outcome};
use crate::audit::{Actor, AuditEvent, AuditTrail, ReadTarget};
use crate::error::Error;
use crate::manager::SecretsManager;
use crate::secret::SecretName;

pub(super) enum Target {
    /// A mount is running: its caches are warm, and it records who reads.
    Mount(MountClient),
    /// No mount is running, or the user gave `--no-mount`.
    Store(Store),
}

/// The library, and the audit trail, which the library does not write. Dropping it writes the last rows.
pub(super) struct Store {
    manager: Arc<SecretsManager>,
    audit: Arc<AuditTrail>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.manager.close();
    }
}

impl Store {
    fn record(&self, event: AuditEvent) {
        self.audit.record(Actor::this_process(), event);
    }
}

impl Target {
    pub(super) fn open(context: &Context, no_mount: bool) -> Outcome<Self> {
        let settings = context.settings()?;
        if !no_mount && let Some(client) = MountClient::find(&settings)? {
            return Ok(Target::Mount(client));
        }
        Ok(Target::Store(Store {
            manager: SecretsManager::from_settings(&settings)?,
            audit: AuditTrail::from_settings(&settings),
        }))
    }

    pub(super) fn get(&self, name: &SecretName) -> Outcome<Zeroizing<Vec<u8>>> {
        match self {
            Target::Mount(client) => client.get(name),
            Target::Store(Store { manager, audit }) => {
                let value = manager.get(name.as_str())?;
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

    /// Sets the value, and warns if another provider overrides it.
    pub(super) fn set(&self, name: &SecretName, value: &[u8]) -> Outcome {
        match self {
            Target::Mount(client) => {
                if let Some(provider) = client.set(name, value)? {
                    warn(&format!(
                        "{name} is written to the file, but the {provider} provider has it too, and reads still give \
                         that value"
                    ));
                }
            }
            Target::Store(store) => {
                let text = std::str::from_utf8(value).map_err(|_| Error::NotUtf8 {
                    name: name.to_string(),
                })?;
                // The manager itself warns about a provider that overrides the file.
                store.manager.set(name.as_str(), text)?;
                store.record(AuditEvent::SecretSet(name.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &SecretName) -> Outcome {
        match self {
            Target::Mount(client) => client.remove(name),
            Target::Store(store) => {
                store.manager.delete(name.as_str())?;
                store.record(AuditEvent::SecretDeleted(name.clone()));
                Ok(())
            }
        }
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
                    let found = match detail {
                        Detail::All => snapshot.find(&name).last_known(),
                        Detail::Names => None,
                    };
                    ListedSecret {
                        provider: Some(provider.to_string()),
                        size: found.as_ref().map(|found| found.size() as u64),
                        changed_at: found.map(|found| found.changed_at),
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
            Target::Mount(client) => reason::unlisted(client),
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
