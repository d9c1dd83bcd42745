//! The order of the chain, its failure rule, and what the environment hides or never serves.

use std::sync::Arc;
use std::time::Duration;

use simpletuner_live::error::Error;
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::file::{FileOptions, StoreLocation};
use simpletuner_live::provider::{FileProvider, Provider};

use crate::provider::{Has, Remote};
use crate::{Home, environment, listen, name, value};

const OWN_CREDENTIALS: [&str; 9] = [
    "SIMPLETUNER_CREDENTIAL_KEY",
    "SIMPLETUNER_AUDIT_KEY",
    "VAULT_TOKEN",
    "VAULT_ROLE_ID",
    "VAULT_SECRET_ID",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// The file provider of a home by itself.
pub fn file_of(home: &Home) -> FileProvider {
    let settings = home.settings();
    FileProvider::new(FileOptions {
        location: StoreLocation::at(home.path("secrets.json")),
        key: simpletuner_live::credential::KeySource::new(None, settings.key_file),
        encrypt: true,
        max_stale: settings.max_stale,
        max_keys: 10_000,
        keep_previous: 1,
        lock_timeout: settings.timeout.total,
    })
}

#[test]
fn a_key_of_the_environment_hides_the_files_and_a_write_says_so() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "file", "B": "file"}"#);
    let manager = home.manager_with(&[("A", "environment")]);
    let heard = listen(&manager);
    assert_eq!(
        value(&manager, "A") + &value(&manager, "B"),
        "environmentfile"
    );
    let by: Vec<String> = manager
        .names()
        .iter()
        .map(|(name, by)| format!("{name} {by}"))
        .collect();
    assert_eq!(by, ["A environment", "B file"]);
    assert_eq!(
        manager.set("A", "written").unwrap().shadowed_by.as_deref(),
        Some("environment")
    );
    assert_eq!(manager.set("B", "written").unwrap().shadowed_by, None);
    assert_eq!(value(&manager, "A"), "environment");
    assert_eq!(value(&home.manager(), "A"), "written");
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "set A file",
            "shadowed A environment",
            "encrypted A file",
            "set B file",
            "encrypted B file"
        ]
    );
    manager.delete("A").unwrap();
    assert_eq!(value(&manager, "A"), "environment");
    let error = manager.delete("A").unwrap_err();
    assert!(
        matches!(&error, Error::ReadOnlyProvider { provider, .. } if provider == "environment"),
        "{error:?}"
    );
    assert_eq!(error.errno(), libc::EPERM);
    assert!(manager.delete("C").unwrap_err().is_not_found());
}

#[test]
fn a_key_is_looked_up_in_upper_case_with_underscores_and_an_empty_value_counts() {
    let home = Home::make();
    home.write(
        "secrets.json",
        r#"{"EMPTY": "file", "lower.case": "exact"}"#,
    );
    let manager = home.manager_with(&[("REPLICATE_API_TOKEN", "r8"), ("EMPTY", "")]);
    for key in [
        "REPLICATE_API_TOKEN",
        "replicate-api-token",
        "Replicate.Api_token",
    ] {
        assert_eq!(value(&manager, key), "r8");
    }
    assert_eq!(value(&manager, "EMPTY"), "");
    assert_eq!(value(&manager, "lower.case"), "exact");
    assert!(manager.get("LOWER_CASE").unwrap_err().is_not_found());
}

#[test]
fn with_a_prefix_only_prefixed_variables_are_found_and_all_of_them_are_listed() {
    let home = Home::make();
    home.write("live.yaml", "env_prefix: MINE\n");
    let manager = home.manager_with(&[("HF_TOKEN", "bare"), ("MINE_OTHER", "prefixed")]);
    assert_eq!(value(&manager, "other"), "prefixed");
    assert!(manager.get("HF_TOKEN").unwrap_err().is_not_found());
    let names: Vec<String> = manager
        .names()
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(names, ["OTHER"]);
}

#[test]
fn own_credentials_in_the_environment_are_never_served_or_listed() {
    let variables: Vec<(&str, &str)> = OWN_CREDENTIALS.iter().map(|name| (*name, "own")).collect();
    for own in OWN_CREDENTIALS {
        let keys = [name(own)];
        let (prefix, rest) = own.split_once('_').unwrap();
        let plain = environment(&variables, "", &keys);
        let prefixed = environment(&variables, prefix, &[]);
        let spelled = [
            own.to_owned(),
            own.to_lowercase(),
            own.replace('_', "-"),
            own.replace('_', "."),
        ];
        let home = Home::make();
        home.write("live.yaml", &format!("env_keys: [{own}]\n"));
        let manager = home.manager_with(&variables);
        for key in spelled {
            assert!(plain.get(&name(&key)).unwrap().is_none(), "{key}");
            assert!(!plain.view().has(&name(&key)), "{key}");
            assert!(manager.get(&key).unwrap_err().is_not_found(), "{key}");
        }
        assert!(prefixed.get(&name(rest)).unwrap().is_none(), "{own}");
        assert!(plain.view().names().is_empty() && prefixed.view().names().is_empty());
        assert!(manager.names().is_empty());
        // A key of that name in the file is the user's own, and is served.
        manager.set(own, "his").unwrap();
        assert_eq!(value(&manager, own), "his");
    }
}

#[test]
fn a_failed_provider_is_skipped_but_never_means_no_such_key() {
    let home = Home::make();
    home.write("secrets.json", r#"{"BEHIND": "file"}"#);
    let remote = Remote::new(Has::Failure);
    let manager = SecretsManager::builder()
        .with_source(remote.clone())
        .with_provider(Arc::new(file_of(&home)))
        .build();
    for asked in 1..=2 {
        let found = manager.find(&name("BEHIND")).unwrap();
        assert_eq!((found.value.as_str(), &*found.provider), ("file", "file"));
        assert_eq!(found.expires_in, Duration::ZERO, "it is not cached");
        assert_eq!(remote.calls(), asked);
    }
    let error = manager.get("NEVER_THERE").unwrap_err();
    assert!(
        matches!(&error, Error::ProviderFailed { provider, .. } if provider == "remote"),
        "{error:?}"
    );
    assert_eq!(manager.available_providers(), ["file"]);
    remote.now_has(Has::Nothing);
    assert!(manager.get("NEVER_THERE").unwrap_err().is_not_found());
    assert!(!manager.find(&name("BEHIND")).unwrap().expires_in.is_zero());
}

#[test]
fn the_last_value_of_a_provider_that_fails_is_served_within_max_stale_only() {
    for (max_stale, serves) in [(3600, true), (0, false)] {
        let remote = Remote::new(Has::Value("last"));
        let manager = SecretsManager::builder()
            .with_source(remote.clone())
            .ttl(Duration::ZERO, Duration::ZERO, [])
            .max_stale(Duration::from_secs(max_stale))
            .build();
        assert_eq!(value(&manager, "K"), "last");
        remote.now_has(Has::Failure);
        match manager.get("K") {
            Ok(value) => assert!(serves && value.as_str() == "last"),
            Err(error) => assert!(
                !serves && matches!(error, Error::ProviderFailed { .. }),
                "{error:?}"
            ),
        }
        remote.now_has(Has::Nothing);
        assert!(manager.get("K").unwrap_err().is_not_found());
        remote.now_has(Has::Failure);
        let error = manager.get("K").unwrap_err();
        assert!(
            matches!(error, Error::ProviderFailed { .. }),
            "a key that was gone came back"
        );
    }
}

#[test]
fn a_value_that_cannot_be_decrypted_ends_the_chain() {
    let home = Home::make();
    home.manager().set("K", "sealed").unwrap();
    home.write("credential.key", "another key altogether");
    let remote = Remote::new(Has::Value("stand-in"));
    let manager = SecretsManager::builder()
        .with_provider(Arc::new(file_of(&home)))
        .with_source(remote.clone())
        .build();
    let error = manager.get("K").unwrap_err();
    assert!(matches!(error, Error::CannotDecrypt { .. }), "{error:?}");
    assert_eq!(remote.calls(), 0);
    assert_eq!(value(&manager, "ELSEWHERE"), "stand-in");
}

#[test]
fn an_edit_by_another_program_shows_in_the_next_read_and_is_an_event() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "alpha", "B": "beta"}"#);
    let manager = home.manager();
    assert_eq!(value(&manager, "A"), "alpha");
    let heard = listen(&manager);
    home.write("secrets.json", r#"{"A": "changed", "C": "new"}"#);
    assert_eq!(value(&manager, "A"), "changed");
    assert!(manager.get("B").unwrap_err().is_not_found());
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, ["deleted B file", "set A file", "set C file"]);
}
