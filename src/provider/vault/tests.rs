//! How Vault's settings and variables become its options.

use std::path::PathBuf;

use super::{VaultAuth, VaultOptions};
use crate::error::Result;
use crate::provider::BACKENDS;
use crate::settings::{Flags, Settings};

struct Home(tempfile::TempDir);

impl Home {
    fn new(yaml: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.path(".simpletuner")).unwrap();
        std::fs::write(home.path(".simpletuner/live.yaml"), yaml).unwrap();
        home
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn load(&self, env: &[(&str, &str)]) -> Result<Settings> {
        let home = self.0.path().to_str().unwrap();
        let env = |name: &str| {
            let mut all = [("HOME", home)].into_iter().chain(env.iter().copied());
            let found = all.find(|(variable, _)| *variable == name);
            found.map(|(_, text)| text.to_owned())
        };
        Settings::load_from(&Flags::default(), &env, BACKENDS)
    }
}

#[test]
fn vaults_own_variables_set_what_the_settings_file_cannot() {
    let home = Home::new("vault_url: https://v\nvault_token_file: from-settings");
    let s = home.load(&[]).unwrap();
    let vault = s.backend::<VaultOptions>().unwrap();
    assert_eq!(vault.namespace, None);
    let tls = &vault.tls;
    assert!(tls.ca_file.is_none() && tls.ca_folder.is_none() && !tls.skip_verify);
    let env = [
        ("VAULT_NAMESPACE", "team"),
        ("VAULT_CACERT", "~/ca.pem"),
        ("VAULT_CAPATH", "/cas"),
        ("VAULT_CLIENT_CERT", "/cert.pem"),
        ("VAULT_CLIENT_KEY", "key.pem"),
        ("VAULT_SKIP_VERIFY", "t"),
        ("VAULT_TOKEN_FILE", "/run/token"),
    ];
    let s = home.load(&env).unwrap();
    let vault = s.backend::<VaultOptions>().unwrap();
    assert_eq!(vault.namespace.as_deref(), Some("team"));
    assert_eq!(vault.tls.ca_file, Some(home.path("ca.pem")));
    assert_eq!(vault.tls.ca_folder, Some("/cas".into()));
    let here = std::env::current_dir().unwrap();
    let client = ("/cert.pem".into(), here.join("key.pem"));
    assert_eq!(vault.tls.client, Some(client));
    assert!(vault.tls.skip_verify);
    assert!(matches!(&vault.auth, VaultAuth::TokenFile(file) if file == "/run/token"));
    // The settings file cannot set it.
    for name in ["vault_namespace", "vault_cacert", "vault_skip_verify"] {
        let said = Home::new(&format!("{name}: x")).load(&[]).unwrap_err();
        assert!(said.to_string().contains(name), "{said}");
    }
}

#[test]
fn a_variable_of_vault_must_be_right_only_if_vault_is_configured() {
    let load = |yaml: &str, word: &str| {
        let home = Home::new(yaml);
        home.load(&[("VAULT_SKIP_VERIFY", word)])
    };
    for (word, is_set) in [
        ("1", true),
        ("true", true),
        ("0", false),
        ("False", false),
        ("", false),
    ] {
        let settings = load("vault_url: https://v", word).unwrap();
        let vault = settings.backend::<VaultOptions>().unwrap();
        assert_eq!(vault.tls.skip_verify, is_set, "{word}");
    }
    let said = load("vault_url: https://v", "yes").unwrap_err().to_string();
    assert!(
        said.contains("VAULT_SKIP_VERIFY must be true or false"),
        "{said}"
    );
    assert!(load("", "yes").unwrap().backend::<VaultOptions>().is_none());
    let by_variable = [("VAULT_ADDR", "https://v"), ("VAULT_SKIP_VERIFY", "yes")];
    assert!(Home::new("").load(&by_variable).is_err());
}

#[test]
fn certificates_and_tokens_for_vault_must_not_be_in_the_mount() {
    for variable in [
        "VAULT_TOKEN_FILE",
        "VAULT_CACERT",
        "VAULT_CAPATH",
        "VAULT_CLIENT_KEY",
    ] {
        let home = Home::new("vault_url: https://v");
        let env = [(variable, "~/.simpletuner/live/secrets/X")];
        let said = home.load(&env).unwrap_err().to_string();
        assert!(
            said.contains("leads into the mount at"),
            "{variable}: {said}"
        );
    }
}
