//! The secrets, wherever a command finds them: through the files of a running mount, else by the library itself.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::live::Live;
use super::reason;
use super::{Context, Outcome};
use crate::error::Error;
use crate::manager::SecretsManager;
use crate::mount::{self, MountState};
use crate::secret::SecretName;
use crate::settings::Settings;
use crate::state::audit::{Act, Actor, AuditTrail, ReadOf};

/// One line of `ls`.
pub(super) struct Listed {
    pub(super) name: SecretName,
    pub(super) provider: Option<String>,
    /// In bytes, where it was asked for and the value can be read.
    pub(super) size: Option<u64>,
    pub(super) changed_at: Option<SystemTime>,
}

/// How much `ls` wants to know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Names only.
    Names,
    /// Which provider each has, too.
    Providers,
    /// And size and time, which may wait for a backend.
    All,
}

/// The library, and the trail that it does not know of. All is recorded when this is dropped.
pub(super) struct Direct {
    manager: Arc<SecretsManager>,
    audit: Arc<AuditTrail>,
}

impl Direct {
    fn record(&self, act: Act) {
        self.audit.record(Actor::this_process(), act);
    }
}

/// Which way the secrets are reached; both give the same answers.
pub(super) enum Store {
    /// A mount runs: its caches are warm, and its trail sees who reads.
    Mounted(Live),
    /// None does, or it is not wanted.
    Direct(Direct),
}

impl Store {
    pub(super) fn open(context: &Context, no_mount: bool) -> Outcome<Self> {
        let settings = context.settings()?;
        if !no_mount && let Some(live) = mount_if_running(&settings)? {
            return Ok(Store::Mounted(live));
        }
        Ok(Store::Direct(Direct {
            manager: SecretsManager::from_settings(&settings)?,
            audit: AuditTrail::from_settings(&settings),
        }))
    }

    pub(super) fn get(&self, name: &SecretName) -> Outcome<Zeroizing<Vec<u8>>> {
        match self {
            Store::Mounted(live) => live.get(name),
            Store::Direct(Direct { manager, audit }) => {
                let value = manager.get(name.as_str())?;
                let what = ReadOf::Without(name.clone(), "simpletuner-live");
                let uid = rustix::process::geteuid().as_raw();
                audit.record_read(uid, std::process::id(), what);
                Ok(Zeroizing::new(value.as_bytes().to_vec()))
            }
        }
    }

    /// Sets the value, and warns where another provider overrides it.
    pub(super) fn set(&self, name: &SecretName, value: &[u8]) -> Outcome {
        match self {
            Store::Mounted(live) => {
                if let Some(provider) = live.set(name, value)? {
                    warn(&format!(
                        "{name} is written to the file, but the {provider} provider has it too, and reads still give \
                         that value"
                    ));
                }
            }
            Store::Direct(direct) => {
                let text = std::str::from_utf8(value).map_err(|_| Error::NotUtf8 {
                    name: name.to_string(),
                })?;
                // It warns by itself.
                direct.manager.set(name.as_str(), text)?;
                direct.record(Act::SecretSet(name.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &SecretName) -> Outcome {
        match self {
            Store::Mounted(live) => live.remove(name),
            Store::Direct(direct) => {
                direct.manager.delete(name.as_str())?;
                direct.record(Act::SecretDeleted(name.clone()));
                Ok(())
            }
        }
    }

    /// All names, sorted.
    pub(super) fn list(&self, detail: Detail) -> Outcome<Vec<Listed>> {
        match self {
            Store::Mounted(live) => {
                let listed = live.list(detail)?;
                for (provider, reason) in reason::unlisted(&live.providers()) {
                    warn(&format!(
                        "the {provider} provider's names may be missing: {reason}"
                    ));
                }
                Ok(listed)
            }
            Store::Direct(Direct { manager, .. }) => {
                let (names, whole) = manager.list();
                if let Err(error) = whole {
                    warn(&error.to_string());
                }
                // Once there is the key, all values are at hand.
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
                        _ => None,
                    };
                    Listed {
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
}

/// The mount that `settings` name, if it answers.
pub(super) fn mount_if_running(settings: &Settings) -> Outcome<Option<Live>> {
    match mount::state(&settings.mount_point)? {
        MountState::Ours { alive: true, .. } => return Ok(Some(Live::new(&settings.mount_point))),
        MountState::Ours { alive: false, .. } => warn(&format!(
            "the mount at {} is dead; `simpletuner-live mount` cleans it up",
            settings.mount_point.display()
        )),
        MountState::OfAnother { uid } => {
            warn(&mount::of_another(&settings.mount_point, uid));
        }
        MountState::NotMounted | MountState::Foreign { .. } => {}
    }
    Ok(None)
}

/// The mount at `mount_point`.
///
/// # Errors
/// There is none, or it does not answer; the message says what to do.
pub(super) fn running_mount(mount_point: &Path) -> Outcome<Live> {
    let place = mount_point.display();
    match mount::state(mount_point)? {
        MountState::Ours { alive: true, .. } => Ok(Live::new(mount_point)),
        MountState::Ours { alive: false, .. } => Err(Failure::with_hint(
            format!("the mount at {place} is dead"),
            "`simpletuner-live mount` cleans it up and mounts anew",
        )),
        MountState::NotMounted => Err(Failure::with_hint(
            format!("nothing is mounted at {place}"),
            "`simpletuner-live mount` mounts it",
        )),
        MountState::OfAnother { uid } => Err(Failure::new(mount::of_another(mount_point, uid))),
        MountState::Foreign { fstype } => Err(Failure::new(format!(
            "{place} is a mount of another kind ({fstype}), not one of ours"
        ))),
    }
}
