//! The list of backends, and what follows from it: their place in the chain, their settings, the variables that are their own.

use std::sync::Arc;

use super::backend::{BackendOptions, BackendProvider};
use super::{NotConfigured, Provider};
use crate::error::Result;
use crate::settings::{BackendSettings, Row, Settings, rows};

/// The backends, in the order of the chain.
pub const BACKENDS: &[BackendKind] = &[super::aws::KIND, super::vault::KIND];

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
    /// Makes the provider; `None` if the settings do not configure it.
    pub open: fn(&Settings, BackendOptions) -> Result<Option<BackendProvider>>,
}

impl AsRef<BackendSettings> for BackendKind {
    fn as_ref(&self) -> &BackendSettings {
        &self.settings
    }
}

impl BackendKind {
    /// The provider, which may be [`NotConfigured`]. Calls nothing yet.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) if its settings are wrong;
    /// [`Error::Io`](crate::error::Error::Io) if the backends' thread cannot be started.
    pub fn provider(&self, settings: &Settings) -> Result<Arc<dyn Provider>> {
        let options = BackendOptions {
            ttl: settings.ttl.clone(),
            max_stale: settings.max_stale,
            max_keys: settings.max_keys as usize,
            timeout: settings.timeout.total,
        };
        Ok(match (self.open)(settings, options)? {
            Some(provider) => Arc::new(provider),
            None => Arc::new(NotConfigured::new(self.name, self.settings.switch)),
        })
    }
}

/// The variables with the program's own credentials: those of all secret settings, and those that the backends' libraries read.
pub fn own_credentials() -> Vec<&'static str> {
    variables(Row::is_secret, |backend| backend.credentials)
}

/// The variables that contain paths.
pub fn path_variables() -> Vec<&'static str> {
    variables(Row::is_path, |backend| backend.paths)
}

fn variables(
    which: fn(&Row) -> bool,
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
                let provider = backend.provider(settings).unwrap();
                provider.view().report(Instant::now())
            };
            let unset = report(&load(""));
            assert!(!unset.configured, "{switch}");
            assert_eq!(unset.source, format!("{switch} is not set"));
            let set = load(&format!("{switch}: https://backend.example"));
            let set = report(&set);
            assert!(set.configured, "{switch}");
            assert_eq!(set.name, backend.name);
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
