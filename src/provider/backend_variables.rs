//! Whether two processes have the same variables for the backends, without revealing their values to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::path_variables;
use crate::secret::{new_salt, salted_hash};

/// The variables of the backends and their libraries that are set in a process, each as a salted hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendVariables {
    salt: String,
    hashes: BTreeMap<String, String>,
}

impl BackendVariables {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self::hashed(new_salt(), std::env::vars_os().filter_map(text))
    }

    fn hashed(salt: String, variables: impl Iterator<Item = (String, String)>) -> Self {
        let paths = path_variables();
        let hash = |(name, value): (String, String)| {
            // The daemon has made its paths absolute.
            let value = match paths.contains(&name.as_str()) && !value.starts_with('~') {
                true => {
                    std::path::absolute(&value).map_or(value, |path| path.display().to_string())
                }
                false => value,
            };
            let hash = salted_hash(&salt, &[name.as_bytes(), value.as_bytes()]);
            (name, hash)
        };
        let hashes = variables
            .filter(|(name, value)| is_of_backends(name) && !value.is_empty())
            .map(hash)
            .collect();
        Self { salt, hashes }
    }

    /// The variables of this process that the other one has not, or has with another value.
    pub fn changed_here(&self) -> Vec<String> {
        self.changed_in(std::env::vars_os().filter_map(text))
    }

    fn changed_in(&self, variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
        let here = Self::hashed(self.salt.clone(), variables);
        let changed = here.hashes.into_iter();
        changed
            .filter(|(name, hash)| self.hashes.get(name) != Some(hash))
            .map(|(name, _)| name)
            .collect()
    }
}

fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Whether a backend, or its library, reads the variable.
fn is_of_backends(name: &str) -> bool {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    let prefixes = ["AWS_", "VAULT_", "SIMPLETUNER_AWS_", "SIMPLETUNER_VAULT_"];
    proxies.contains(&name.to_ascii_uppercase().as_str())
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_new_or_changed_are_named_and_no_value_is_shown() {
        let set = |variables: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            variables.iter().map(owned).collect::<Vec<_>>().into_iter()
        };
        let there = BackendVariables::hashed(
            "salt".to_owned(),
            set(&[
                ("AWS_PROFILE", "hunter2"),
                ("VAULT_TOKEN", "hunter2"),
                ("AWS_REGION", "r"),
                ("HOME", "/a"),
                ("no_proxy", "*"),
                ("VAULT_CACERT", "/a/../ca.pem"),
            ]),
        );
        assert!(!serde_json::to_string(&there).unwrap().contains("hunter2"));
        let changed = there.changed_in(set(&[
            ("AWS_PROFILE", "hunter2"),
            ("VAULT_TOKEN", "other"),
            ("AWS_REGION", ""),
            ("VAULT_ADDR", "new"),
            ("HOME", "/b"),
            ("no_proxy", "*"),
            ("VAULT_CACERT", "/a/../ca.pem"),
        ]));
        assert_eq!(changed, ["VAULT_ADDR", "VAULT_TOKEN"]);
    }
}
