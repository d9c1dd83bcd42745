//! The list of backends, and what follows from it: their place in the chain, their settings, the variables that are their own.

use std::sync::Arc;

use super::backend::{BackendOptions, BackendProvider};
use super::diagnosis::{Diagnosing, wait_for_answer};
use super::{Asking, Finding, NotConfigured, Policy, Provider};
use crate::error::Result;
use crate::settings::{BackendSettings, SettingRow, Settings, rows};

/// The backends, in the order of the chain.
pub const BACKENDS: &[BackendKind] = &[super::aws::KIND, super::vault::KIND, super::command::KIND];

/// A provider, and where the chain has it.
pub struct ChainLink {
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// Its position in the chain, from 1; `None`: in the order of [`BACKENDS`].
    pub priority: Option<u32>,
}

impl ChainLink {
    /// The provider of a backend that has just one, which may be [`NotConfigured`].
    pub(super) fn only(backend: &BackendKind, provider: Option<BackendProvider>) -> Vec<Self> {
        let provider: Arc<dyn Provider> = match provider {
            Some(provider) => Arc::new(provider),
            None => Arc::new(NotConfigured::new(backend.name, backend.settings.switch)),
        };
        vec![Self {
            provider,
            priority: None,
        }]
    }
}

/// The chain of these links: each that has a priority is at that position, or at the end, and the others keep their order.
pub(crate) fn in_order(links: Vec<ChainLink>) -> Vec<Arc<dyn Provider>> {
    let (mut placed, others): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|link| link.priority.is_some());
    placed.sort_by_key(|link| link.priority);
    let mut placed = placed.into_iter().peekable();
    let mut chain = Vec::new();
    let mut position = 1;
    for link in others {
        while let Some(due) = placed.next_if(|link| link.priority <= Some(position)) {
            chain.push(due.provider);
            position += 1;
        }
        chain.push(link.provider);
        position += 1;
    }
    chain.extend(placed.map(|link| link.provider));
    chain
}

/// What the rest of the program needs to know of a backend. The backend's file defines it.
pub struct BackendKind {
    /// The provider's name: `aws`, `vault`.
    pub name: &'static str,
    /// Its settings.
    pub settings: BackendSettings,
    /// Variables with credentials that its library reads by itself; like those of its settings, they are never served as secrets.
    pub credentials: &'static [&'static str],
    /// Variables with paths that its library reads by itself; like those of its settings, they stay right when the daemon changes its folder.
    pub paths: &'static [&'static str],
    /// Makes its providers.
    pub open: fn(&Settings, BackendOptions) -> Result<Vec<ChainLink>>,
    /// Asks each thing that a fetch needs; `None`: it is not configured.
    pub(super) diagnose: fn(&Settings, Asking) -> Option<Diagnosing>,
    /// The least policy with which it can be read; `None`: it is not configured, or has no policies.
    pub(super) policy: fn(&Settings) -> Option<Policy>,
}

impl AsRef<BackendSettings> for BackendKind {
    fn as_ref(&self) -> &BackendSettings {
        &self.settings
    }
}

impl BackendKind {
    /// Its providers; one that is not configured may be [`NotConfigured`]. Calls nothing yet.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) if its settings are wrong;
    /// [`Error::Io`](crate::error::Error::Io) if the backends' thread cannot be started.
    pub fn links(&self, settings: &Settings) -> Result<Vec<ChainLink>> {
        let options = BackendOptions {
            ttl: settings.ttl.clone(),
            max_stale: settings.max_stale,
            max_keys: settings.max_keys as usize,
            timeout: settings.timeout.total,
        };
        (self.open)(settings, options)
    }

    /// Asks the backend each thing that a fetch needs; `None`: it is not configured.
    pub fn check(&self, settings: &Settings, asking: Asking) -> Option<Vec<Finding>> {
        let diagnosing = (self.diagnose)(settings, asking)?;
        Some(wait_for_answer(self.settings.title, asking, diagnosing))
    }

    /// The least policy with which it can be read; `None`: it is not configured, or has no policies.
    pub fn least_policy(&self, settings: &Settings) -> Option<Policy> {
        (self.policy)(settings)
    }
}

/// The variables with the program's own credentials: those of all secret settings, and those that the backends' libraries read.
pub fn own_credentials() -> Vec<&'static str> {
    variables(SettingRow::is_secret, |backend| backend.credentials)
}

/// The variables that contain paths.
pub fn path_variables() -> Vec<&'static str> {
    variables(SettingRow::is_path, |backend| backend.paths)
}

fn variables(
    which: fn(&SettingRow) -> bool,
    of_library: fn(&BackendKind) -> &'static [&'static str],
) -> Vec<&'static str> {
    let rows = rows(BACKENDS).into_iter();
    let of_settings = rows.filter(which).flat_map(|row| row.variables);
    let of_libraries = BACKENDS.iter().flat_map(of_library);
    of_settings.chain(of_libraries).copied().collect()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::clock::Instant;
    use crate::settings::Flags;

    fn load(yaml: &str) -> Settings {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("live.yaml");
        std::fs::write(&config, yaml).unwrap();
        let flags = Flags {
            config: Some(config),
            ..Flags::default()
        };
        Settings::load_from(&flags, &|_| None, BACKENDS).unwrap()
    }

    #[test]
    fn each_backend_is_configured_by_its_switch_alone() {
        for backend in BACKENDS {
            let switch = backend.settings.switch;
            let report = |settings: &Settings| {
                let links = backend.links(settings).unwrap();
                let link = links.first()?;
                Some(link.provider.view().report(Instant::now()))
            };
            let unset = report(&load(""));
            let value = match &unset {
                Some(unset) => {
                    assert!(!unset.configured, "{switch}");
                    assert_eq!(unset.source, format!("{switch} is not set"));
                    assert_eq!(unset.name, backend.name);
                    "https://backend.example"
                }
                None => "[{name: its-name, run: [program]}]",
            };
            let set = report(&load(&format!("{switch}: {value}"))).unwrap();
            assert!(set.configured, "{switch}");
            assert_eq!(
                set.name,
                unset.map_or("its-name".to_owned(), |unset| unset.name)
            );
        }
    }

    #[test]
    fn a_priority_is_a_position_in_the_chain_and_the_others_keep_their_order() {
        let names = |priorities: &[Option<u32>]| {
            let links = priorities.iter().zip(["a", "b", "c", "d", "e"]);
            let links = links.map(|(priority, name)| ChainLink {
                provider: Arc::new(NotConfigured::new(name, "nothing")),
                priority: *priority,
            });
            let chain = in_order(links.collect()).into_iter();
            chain
                .map(|provider| provider.name().to_owned())
                .collect::<String>()
        };
        for (priorities, order) in [
            (&[None, None, None][..], "abc"),
            (&[None, None, Some(1)], "cab"),
            (&[None, None, Some(2)], "acb"),
            (&[None, None, Some(99)], "abc"),
            (&[None, None, Some(99), Some(2), Some(2)], "adebc"),
            (&[None, None, None, Some(4), Some(3)], "abedc"),
            (&[Some(3), Some(1)], "ba"),
        ] {
            assert_eq!(names(priorities), order, "{priorities:?}");
        }
    }

    #[test]
    fn variables_with_credentials_and_paths_are_known_from_the_rows_and_the_backends() {
        let (credentials, paths) = (own_credentials(), path_variables());
        for name in ["SIMPLETUNER_AUDIT_KEY", "VAULT_TOKEN", "AWS_SESSION_TOKEN"] {
            assert!(credentials.contains(&name), "{name}");
        }
        for name in ["SIMPLETUNER_STATE_DIR", "VAULT_CACERT", "AWS_CA_BUNDLE"] {
            assert!(paths.contains(&name), "{name}");
        }
    }
}
