//! Secrets from the environment, as it was when the provider was created. Ignores later changes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::backends::own_credentials;
use super::{Provided, Provider, ProviderReport, View, ViewLookup, WELL_KNOWN_KEYS, rfc3339};
use crate::clock::Instant;
use crate::secret::{SecretName, SecretValue};
use crate::settings::Settings;

/// The environment provider: key `replicate-api-token` is variable `REPLICATE_API_TOKEN`, or
/// `PREFIX_REPLICATE_API_TOKEN`.
pub struct EnvironmentProvider(Arc<Environment>);

struct Environment {
    variables: HashMap<String, SecretValue>,
    prefix: String,
    listed: Vec<SecretName>,
    skipped: usize,
    taken_at: SystemTime,
}

impl EnvironmentProvider {
    /// The provider over these variables. `prefix` has no trailing underscore; `env_keys` are more keys to list.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        prefix: &str,
        env_keys: &[SecretName],
    ) -> Self {
        let mut provider = Environment {
            variables: HashMap::new(),
            prefix: prefix.trim_end_matches('_').to_owned(),
            listed: Vec::new(),
            skipped: 0,
            taken_at: SystemTime::now(),
        };
        let own = own_credentials();
        for (variable, value) in variables {
            match (variable.to_str(), value.to_str()) {
                (Some(variable), Some(value)) => {
                    if !own.contains(&variable) {
                        provider
                            .variables
                            .insert(variable.to_owned(), SecretValue::new(value));
                    }
                }
                _ => provider.skipped += 1,
            }
        }
        provider.listed = provider.list(env_keys);
        Self(Arc::new(provider))
    }

    /// The provider over this process's variables.
    pub fn from_process(prefix: &str, env_keys: &[SecretName]) -> Self {
        Self::new(std::env::vars_os(), prefix, env_keys)
    }

    /// The provider over this process's variables, without those that a program of `command` gets: they are its credentials.
    pub fn from_settings(settings: &Settings) -> Self {
        let own = super::command::variables(settings);
        let variables = std::env::vars_os();
        let variables = variables.filter(|(name, _)| !own.iter().any(|own| name == own.as_str()));
        Self::new(variables, &settings.env_prefix, &settings.env_keys)
    }
}

impl Environment {
    fn list(&self, env_keys: &[SecretName]) -> Vec<SecretName> {
        let mut listed: Vec<SecretName> = WELL_KNOWN_KEYS
            .iter()
            .filter_map(|name| SecretName::new(name).ok())
            .chain(env_keys.iter().cloned())
            .filter(|name| self.has(name))
            .collect();
        if !self.prefix.is_empty() {
            let prefixed = self.variables.keys().filter_map(|variable| {
                let name = variable.strip_prefix(&self.prefix)?.strip_prefix('_')?;
                // A variable such as `PREFIX_lower` could be listed but not read: its key stands for `PREFIX_LOWER`.
                SecretName::new(name)
                    .ok()
                    .filter(|name| self.variable_of(name) == *variable)
            });
            listed.extend(prefixed);
        }
        listed.sort();
        listed.dedup();
        listed
    }

    /// The variable of a key.
    fn variable_of(&self, name: &SecretName) -> String {
        let mut variable = String::with_capacity(self.prefix.len() + 1 + name.as_str().len());
        if !self.prefix.is_empty() {
            variable.push_str(&self.prefix);
            variable.push('_');
        }
        variable.extend(name.as_str().chars().map(|c| match c {
            '-' | '.' => '_',
            c => c.to_ascii_uppercase(),
        }));
        variable
    }
}

impl Provider for EnvironmentProvider {
    fn name(&self) -> &str {
        "environment"
    }

    fn view(&self) -> Arc<dyn View> {
        self.0.clone()
    }
}

impl View for Environment {
    fn find(&self, name: &SecretName, _now: Instant) -> ViewLookup {
        match self.variables.get(&self.variable_of(name)) {
            Some(value) => ViewLookup::Value {
                provided: Provided::now(value.clone(), self.taken_at),
                valid_for: Some(Duration::MAX),
            },
            None => ViewLookup::ABSENT,
        }
    }

    fn names(&self) -> Vec<SecretName> {
        self.listed.clone()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.variables.contains_key(&self.variable_of(name))
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        ProviderReport {
            name: "environment".to_owned(),
            configured: true,
            available: Some(true),
            source: if self.prefix.is_empty() {
                "environment variables".to_owned()
            } else {
                format!("environment variables {}_*", self.prefix)
            },
            keys: self.listed.iter().map(ToString::to_string).collect(),
            skipped_keys: self.skipped,
            last_success: Some(rfc3339(self.taken_at)),
            undecryptable: Some(Vec::new()),
            ..ProviderReport::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    fn provider(
        variables: &[(&str, &str)],
        prefix: &str,
        env_keys: &[&str],
    ) -> EnvironmentProvider {
        let env_keys: Vec<SecretName> = env_keys.iter().map(|key| name(key)).collect();
        EnvironmentProvider::new(
            variables.iter().map(|(k, v)| (k.into(), v.into())),
            prefix,
            &env_keys,
        )
    }

    fn value(provider: &EnvironmentProvider, key: &str) -> Option<String> {
        let provided = provider.get(&name(key)).unwrap()?;
        Some(provided.value.as_str().to_owned())
    }

    #[test]
    fn a_key_is_found_by_its_normalized_name() {
        let p = provider(&[("REPLICATE_API_TOKEN", "r8"), ("A_B_C", "abc")], "", &[]);
        assert_eq!(value(&p, "replicate-api-token").as_deref(), Some("r8"));
        assert_eq!(value(&p, "a.b-c").as_deref(), Some("abc"));
        assert_eq!(value(&p, "other"), None);
    }

    #[test]
    fn with_a_prefix_only_prefixed_variables_are_found_and_all_are_listed() {
        let p = provider(
            &[
                ("SIMPLETUNER_HF_TOKEN", "hf"),
                ("SIMPLETUNER_OTHER", "o"),
                ("SIMPLETUNER_lower", "never"),
                ("HF_TOKEN", "bare"),
                ("SIMPLETUNERX", "no"),
            ],
            "SIMPLETUNER_",
            &[],
        );
        assert_eq!(value(&p, "HF_TOKEN").as_deref(), Some("hf"));
        assert_eq!(p.0.names(), [name("HF_TOKEN"), name("OTHER")]);
    }

    #[test]
    fn without_a_prefix_only_well_known_and_named_keys_are_listed() {
        let p = provider(
            &[("HF_TOKEN", ""), ("PATH", "/bin"), ("WANDB_API_KEY", "w")],
            "",
            &["WANDB_API_KEY", "ABSENT"],
        );
        assert_eq!(p.0.names(), [name("HF_TOKEN"), name("WANDB_API_KEY")]);
        assert!(p.0.has(&name("PATH")), "found when asked for by name");
        assert_eq!(
            value(&p, "HF_TOKEN").as_deref(),
            Some(""),
            "an empty value counts"
        );
    }

    #[test]
    fn its_own_credentials_are_never_served_or_listed() {
        let credentials = own_credentials();
        let all: Vec<(&str, &str)> = credentials.iter().map(|own| (*own, "x")).collect();
        let bare = provider(&all, "", &["VAULT_TOKEN", "aws-session-token"]);
        for own in credentials {
            assert_eq!(value(&bare, own), None);
            assert_eq!(value(&bare, &own.to_lowercase().replace('_', "-")), None);
        }
        assert!(bare.0.names().is_empty());
        let prefixed = provider(&all, "SIMPLETUNER", &["credential.key"]);
        assert_eq!(value(&prefixed, "credential-key"), None);
        assert_eq!(value(&prefixed, "AUDIT_KEY"), None);
        assert!(prefixed.0.names().is_empty());
    }

    #[test]
    fn variables_that_are_not_utf8_are_skipped() {
        let p = EnvironmentProvider::new(
            [
                (OsString::from("BAD"), OsString::from_vec(vec![0xff])),
                (OsString::from("GOOD"), OsString::from("g")),
            ],
            "",
            &[],
        );
        assert_eq!(value(&p, "BAD"), None);
        assert_eq!(value(&p, "GOOD").as_deref(), Some("g"));
        assert_eq!(p.0.report(Instant::now()).skipped_keys, 1);
    }
}
