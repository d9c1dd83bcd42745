//! Snapshots: all providers' documents of one moment; listeners run before any reader is answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use simpletuner_live::error::Error;
use simpletuner_live::manager::{ChangeSet, Lookup, SecretsManager};
use simpletuner_live::provider::ListingState;
use simpletuner_live::secret::SecretName;

use crate::provider::{Has, Remote};
use crate::{Home, name};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn fresh(lookup: Lookup) -> String {
    match lookup {
        Lookup::Fresh(version, _) => version.value().as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn ask(manager: &SecretsManager, key: &str) -> Lookup {
    let (answer, answered) = mpsc::channel();
    manager.find_async(
        &name(key),
        Box::new(move |lookup| answer.send(lookup).unwrap()),
    );
    answered.recv_timeout(TEST_TIMEOUT).unwrap()
}

/// Every change from now on.
fn changes(manager: &SecretsManager) -> Arc<Mutex<Vec<ChangeSet>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    manager.on_change(Box::new(move |change| {
        ear.lock().unwrap().push(change.clone())
    }));
    heard
}

#[test]
fn a_snapshot_never_changes_and_the_next_one_has_the_change() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "old", "B": "b"}"#);
    let manager = home.manager_with(&[("HF_TOKEN", "environment")]);
    let heard = changes(&manager);
    let before = manager.snapshot();
    assert_eq!(fresh(before.find(&name("hf-token"))), "environment");
    assert_eq!(fresh(before.find(&name("A"))), "old");
    assert!(matches!(before.find(&name("C")), Lookup::Missing));

    manager.set("A", "new").unwrap();
    let after = manager.snapshot();
    assert_eq!(fresh(before.find(&name("A"))), "old");
    assert_eq!(fresh(after.find(&name("A"))), "new");
    assert_eq!(after.generation(), before.generation() + 1);

    home.write("secrets.json", r#"{"B": "edited", "C": "c"}"#);
    manager.refresh();
    let edited = manager.snapshot();
    assert_eq!(edited.generation(), after.generation() + 1);
    assert_eq!(fresh(edited.find(&name("B"))), "edited");
    assert!(matches!(edited.find(&name("A")), Lookup::Missing));
    assert_eq!(fresh(after.find(&name("A"))), "new");
    let names: Vec<String> = edited
        .names()
        .iter()
        .map(|(n, by)| format!("{n} {by}"))
        .collect();
    assert_eq!(names, ["B file", "C file", "HF_TOKEN environment"]);

    let heard = heard.lock().unwrap();
    let notified: Vec<Vec<(&str, bool)>> = heard
        .iter()
        .map(|change| {
            let mut keys: Vec<_> = change
                .keys
                .iter()
                .map(|key| (key.name.as_str(), key.own))
                .collect();
            keys.sort_unstable();
            keys
        })
        .collect();
    assert_eq!(
        notified,
        [
            vec![("A", true)],
            vec![("A", false), ("B", false), ("C", false)]
        ]
    );
    assert_eq!(heard[1].snapshot.generation(), edited.generation());
}

#[test]
fn without_a_change_there_is_no_new_generation_and_no_notification() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "a"}"#);
    let manager = home.manager();
    let heard = changes(&manager);
    let before = manager.snapshot().generation();
    for _ in 0..3 {
        manager.refresh();
        manager.get("A").unwrap();
        assert!(manager.get("B").is_err());
    }
    // The same text once more is another file, and no change.
    home.write("secrets.json", r#"{"A": "a"}"#);
    manager.refresh();
    assert_eq!(manager.snapshot().generation(), before);
    assert!(heard.lock().unwrap().is_empty());
}

/// Writers, and readers that wait for a provider, are answered after all listeners have run.
#[test]
fn listeners_are_notified_before_any_reader_is_answered() {
    let home = Home::make();
    let manager = home.manager();
    let heard = Arc::new(Mutex::new(manager.snapshot()));
    let ear = heard.clone();
    manager.on_change(Box::new(move |change| {
        // Long enough for a writer that does not wait for it to be answered first.
        std::thread::sleep(Duration::from_millis(2));
        *ear.lock().unwrap() = change.snapshot.clone();
    }));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (manager, heard) = (&manager, &heard);
            scope.spawn(move || {
                let key = format!("K{writer}");
                for round in 0..20 {
                    let text = round.to_string();
                    manager.set(&key, &text).unwrap();
                    let notified = heard.lock().unwrap().find(&name(&key));
                    assert_eq!(fresh(notified), text);
                    assert_eq!(fresh(manager.snapshot().find(&name(&key))), text);
                }
            });
        }
    });
    let notified = heard.lock().unwrap().generation();
    assert_eq!(notified, manager.snapshot().generation());
}

#[test]
fn a_key_of_a_provider_without_documents_is_known_once_it_was_read() {
    let remote = Remote::new(Has::Value("far"));
    let manager = SecretsManager::builder()
        .with_source(remote.clone())
        .build();
    let heard = Arc::new(AtomicUsize::new(0));
    let ear = heard.clone();
    manager.on_change(Box::new(move |_| {
        ear.fetch_add(1, Ordering::SeqCst);
    }));
    assert!(matches!(
        manager.snapshot().find(&name("K")),
        Lookup::Unknown
    ));
    assert_eq!(fresh(ask(&manager, "K")), "far");
    assert_eq!(fresh(manager.snapshot().find(&name("K"))), "far");
    assert_eq!(remote.calls(), 1);

    remote.now_has(Has::Value("turned"));
    manager.clear_cache();
    assert_eq!(
        heard.load(Ordering::SeqCst),
        1,
        "an invalidation notifies the listeners"
    );
    assert!(matches!(
        manager.snapshot().find(&name("K")),
        Lookup::Stale(_)
    ));
    assert_eq!(fresh(ask(&manager, "K")), "turned");
    // What was invalidated is served while the source fails, as a document is.
    remote.now_has(Has::Failure);
    manager.clear_cache();
    assert_eq!(fresh(ask(&manager, "K")), "turned");
    assert!(matches!(
        ask(&manager, "M"),
        Lookup::Failed(Error::ProviderFailed { .. })
    ));
    remote.now_has(Has::Nothing);
    assert!(matches!(ask(&manager, "L"), Lookup::Missing));
}

/// An answer to a request from before an invalidation goes to its readers, and is never fresh afterwards.
#[test]
fn an_answer_from_before_an_invalidation_is_not_fresh_in_a_snapshot() {
    let remote = Remote::new(Has::Value("old"));
    let manager = SecretsManager::builder()
        .with_source(remote.clone())
        .build();
    let gate = remote.close();
    let (answer, answered) = mpsc::channel();
    manager.find_async(
        &name("K"),
        Box::new(move |lookup| answer.send(lookup).unwrap()),
    );
    while remote.calls() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    manager.clear_cache();
    drop(gate);
    assert_eq!(fresh(answered.recv_timeout(TEST_TIMEOUT).unwrap()), "old");
    assert!(matches!(
        manager.snapshot().find(&name("K")),
        Lookup::Stale(_)
    ));
}

#[test]
fn an_encrypted_value_stays_readable_once_the_key_is_known() {
    let home = Home::make();
    home.manager().set("A", "sealed").unwrap();
    let manager = home.manager();
    assert!(home.read("secrets.json").contains("Z0FBQUFB"));
    assert_eq!(fresh(ask(&manager, "A")), "sealed");
    assert_eq!(fresh(manager.snapshot().find(&name("A"))), "sealed");
    manager.set("B", "b").unwrap();
    let snapshot = manager.snapshot();
    assert_eq!(fresh(snapshot.find(&name("A"))), "sealed");
    assert_eq!(fresh(snapshot.find(&name("B"))), "b");
}

#[test]
fn a_file_that_fails_is_a_missing_source_and_its_keys_are_never_absent() {
    let home = Home::make();
    home.write("secrets.json", "{");
    let manager = home.manager_with(&[("HF_TOKEN", "environment")]);
    let snapshot = manager.snapshot();
    assert_eq!(fresh(snapshot.find(&name("HF_TOKEN"))), "environment");
    assert!(matches!(
        snapshot.find(&name("A")),
        Lookup::Failed(Error::ProviderFailed { .. })
    ));
    assert!(matches!(snapshot.listing_state(), ListingState::Failed(_)));
    let missing: Vec<String> = snapshot
        .missing_sources()
        .iter()
        .map(|(by, why)| format!("{by} {}", why.is_some()))
        .collect();
    assert_eq!(missing, ["file true"]);
    home.write("secrets.json", r#"{"A": "whole"}"#);
    manager.refresh();
    assert!(manager.snapshot().missing_sources().is_empty());
    assert_eq!(fresh(manager.snapshot().find(&name("A"))), "whole");
}

#[test]
fn reads_are_counted_by_the_cache_of_secrets() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "a"}"#);
    let manager = home.manager();
    let stats = || manager.caches().stats()["secrets"].clone();
    let a: SecretName = name("A");
    assert_eq!(fresh(manager.look_up(&a)), "a");
    assert_eq!((stats().hits, stats().misses, stats().size), (0, 1, 1));
    assert_eq!(fresh(manager.look_up(&a)), "a");
    assert_eq!(fresh(manager.look_up(&a)), "a");
    assert_eq!((stats().hits, stats().misses, stats().size), (2, 1, 1));
    manager.clear_cache();
    assert_eq!(stats().size, 0);
    assert_eq!(fresh(manager.look_up(&a)), "a");
    assert_eq!((stats().hits, stats().misses, stats().size), (2, 2, 1));
}
