//! The library as a Rust program uses it: a custom chain, single providers, the global manager, convenience methods.

use std::sync::Arc;
use std::time::Duration;

use simpletuner_live::error::Error;
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::{Provider, SecretStore};
use simpletuner_live::secret::{Change, SecretValue};

use crate::chain::file_of;
use crate::provider::{Has, Remote};
use crate::{Home, another_process, environment, name, value};

#[test]
fn a_custom_chain_asks_its_providers_in_order() {
    let home = Home::make();
    home.write("secrets.json", r#"{"K": "file"}"#);
    let env = || Arc::new(environment(&[("K", "environment")], "", &[]));
    let file = || Arc::new(file_of(&home));
    let first = SecretsManager::builder()
        .with_provider(env())
        .with_provider(file())
        .build();
    let second = SecretsManager::builder()
        .with_provider(file())
        .with_provider(env())
        .build();
    assert_eq!(value(&first, "K") + &value(&second, "K"), "environmentfile");
    let order = |manager: &SecretsManager| {
        let reports = manager.reports().into_iter();
        reports
            .map(|r| format!("{} {}", r.priority, r.name))
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&first), ["1 environment", "2 file"]);
    assert_eq!(order(&second), ["1 file", "2 environment"]);
    assert_eq!(first.available_providers(), ["environment", "file"]);
    assert!(first.report("vault").is_none());
}

#[test]
fn a_chain_without_a_store_cannot_be_written_to() {
    let remote = Remote::new(Has::Value("v"));
    let manager = SecretsManager::builder().with_source(remote).build();
    assert!(matches!(
        manager.set("K", "v").unwrap_err(),
        Error::Settings(_)
    ));
    assert_eq!(manager.store_path(), None);
    let empty = SecretsManager::builder().build();
    assert!(empty.get("K").unwrap_err().is_not_found());
}

#[test]
fn each_provider_works_without_a_chain() {
    let env = environment(&[("HF_TOKEN", "hf"), ("OTHER", "x")], "", &[]);
    assert_eq!(
        env.get(&name("hf-token")).unwrap().unwrap().value.as_str(),
        "hf"
    );
    assert_eq!(env.view().names(), [name("HF_TOKEN")]);
    assert!(env.store().is_none());

    let home = Home::make();
    let file = file_of(&home);
    assert!(file.get(&name("K")).unwrap().is_none());
    file.apply(&[Change::Set(name("K"), SecretValue::new("v"))])
        .unwrap();
    assert_eq!(file.get(&name("K")).unwrap().unwrap().value.as_str(), "v");
    file.rename(&name("K"), &name("L")).unwrap();
    assert_eq!(file.view().names(), [name("L")]);
    assert_eq!(SecretStore::path(&file), home.path("secrets.json"));
}

#[test]
fn a_default_replaces_a_missing_key_but_never_a_failure() {
    let home = Home::make();
    let manager = home.manager_with(&[("THERE", "value"), ("EMPTY", "")]);
    let or = |key| manager.get_or(key, "default").unwrap().as_str().to_owned();
    assert_eq!(
        [or("THERE"), or("EMPTY"), or("MISSING")],
        ["value", "", "default"]
    );
    assert!(matches!(
        manager.get_or("no name", "d").unwrap_err(),
        Error::InvalidName { .. }
    ));
    let failing = SecretsManager::builder()
        .with_source(Remote::new(Has::Failure))
        .build();
    let error = failing.get_or("K", "default").unwrap_err();
    assert!(matches!(error, Error::ProviderFailed { .. }), "{error:?}");
    assert!(failing.hf_token().is_err());
}

#[test]
fn the_well_known_keys_have_their_own_methods() {
    let all = Home::make().manager_with(&[
        ("HF_TOKEN", "hf"),
        ("REPLICATE_API_TOKEN", "r8"),
        ("CLOUD_WEBHOOK_SECRET", "hook"),
    ]);
    let none = Home::make().manager();
    type Method = fn(&SecretsManager) -> simpletuner_live::error::Result<Option<SecretValue>>;
    let methods: [(Method, &str); 3] = [
        (SecretsManager::hf_token, "hf"),
        (SecretsManager::replicate_api_token, "r8"),
        (SecretsManager::cloud_webhook_secret, "hook"),
    ];
    for (method, expected) in methods {
        assert_eq!(method(&all).unwrap().unwrap().as_str(), expected);
        assert!(method(&none).unwrap().is_none());
    }
}

#[test]
fn answers_are_cached_until_the_cache_is_cleared_even_no_such_key() {
    let remote = Remote::new(Has::Value("one"));
    let manager = SecretsManager::builder()
        .with_source(remote.clone())
        .ttl(
            Duration::from_secs(300),
            Duration::from_secs(300),
            [(name("NEVER"), Duration::ZERO)],
        )
        .build();
    assert_eq!(value(&manager, "K"), "one");
    remote.now_has(Has::Nothing);
    assert_eq!(value(&manager, "K"), "one");
    assert_eq!(remote.calls(), 1);
    manager.clear_cache();
    for _ in 0..2 {
        assert!(manager.get("K").unwrap_err().is_not_found());
    }
    assert_eq!(remote.calls(), 2);
    remote.now_has(Has::Value("two"));
    for asked in 3..=4 {
        assert_eq!(value(&manager, "NEVER"), "two");
        assert_eq!(
            remote.calls(),
            asked,
            "a key with no time to live is cached"
        );
    }
    assert_eq!(manager.invalidate_prefix("secret:"), 1);
    assert_eq!(value(&manager, "K"), "two");
}

#[test]
fn a_process_has_one_global_manager_over_its_own_home() {
    let home = Home::make();
    home.write("secrets.json", r#"{"GLOBAL_KEY": "of this home"}"#);
    let test = "library::the_other_process_uses_its_global_manager";
    assert!(another_process(test, &home).status().unwrap().success());
    // It wrote through one and read through the other, so the key is in this home now.
    assert_eq!(value(&home.manager(), "WRITTEN"), "through the global one");
}

#[test]
#[ignore = "the other process of a test"]
fn the_other_process_uses_its_global_manager() {
    let (first, second) = (
        SecretsManager::global().unwrap(),
        SecretsManager::global().unwrap(),
    );
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(value(&first, "GLOBAL_KEY"), "of this home");
    first.set("WRITTEN", "through the global one").unwrap();
    assert_eq!(value(&second, "WRITTEN"), "through the global one");
}
