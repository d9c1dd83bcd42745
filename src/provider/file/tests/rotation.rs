//! The key is replaced while something of the old one is still at hand in this process.

use super::*;
use crate::provider::{KeyRotationRequest, SecretStore, UndoRequest};

fn set(provider: &FileProvider, key: &str, value: &str) {
    let change = Change::Set(name(key), SecretValue::new(value));
    provider.apply(&[change]).unwrap();
}

/// Rotates through another provider, as another process does.
fn rotate(scratch: &Scratch) {
    let other = scratch.provider();
    let plan = other.plan_key_rotation().unwrap();
    let request = KeyRotationRequest {
        forget_old: true,
        ..KeyRotationRequest::default()
    };
    other.rotate_key(&plan, &request).unwrap();
    assert_eq!(request.done.into_inner(), plan.steps());
}

#[test]
fn what_was_encrypted_or_planned_before_a_rotation_is_written_under_the_new_key() {
    let scratch = Scratch::new();
    let provider = scratch.provider();
    set(&provider, "K", "one");
    set(&provider, "K", "two");
    let request = UndoRequest::Steps(name("K"), 1);
    let planned = provider.plan_undo(&request).unwrap();
    // The value of this write is encrypted before its turn comes.
    let change = Change::Set(name("L"), SecretValue::new("three"));
    let edit = provider.0.prepare(&[change]).unwrap();
    rotate(&scratch);
    provider.undo(&planned).unwrap();
    provider.0.write(vec![edit]).remove(0).unwrap();
    for provider in [provider, scratch.provider()] {
        assert_eq!(get(&provider, "K").unwrap(), "one");
        assert_eq!(get(&provider, "L").unwrap(), "three");
    }
}

#[test]
fn a_rotation_is_no_change_of_a_key_and_is_reported_once() {
    let scratch = Scratch::new();
    let provider = scratch.provider();
    set(&provider, "K", "one");
    provider.check_for_changes(Duration::MAX);
    assert_eq!(get(&provider, "K").unwrap(), "one");
    drop(provider.take_update());
    rotate(&scratch);
    let rotated = ProviderChanges {
        key_rotated: true,
        ..ProviderChanges::default()
    };
    // A check may run by itself between two steps.
    let mut seen = poll_changes(&provider);
    seen.key_rotated |= poll_changes(&provider).key_rotated;
    assert_eq!(seen, rotated);
    assert_eq!(poll_changes(&provider), ProviderChanges::default());
    assert_eq!(get(&provider, "K").unwrap(), "one");
}

#[test]
fn a_plan_for_another_key_is_refused() {
    let scratch = Scratch::new();
    let provider = scratch.provider();
    set(&provider, "K", "one");
    let plan = provider.plan_key_rotation().unwrap();
    rotate(&scratch);
    let key = scratch.read("credential.key");
    let refused = provider.rotate_key(&plan, &KeyRotationRequest::default());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("has changed meanwhile")
    );
    assert_eq!(scratch.read("credential.key"), key);
}

#[test]
fn ten_thousand_values_are_rotated_and_compared() {
    let scratch = Scratch::new();
    let provider = scratch.provider();
    let changes: Vec<Change> = (0..10_000)
        .map(|n| {
            Change::Set(
                name(&format!("K{n}")),
                SecretValue::new(&format!("value {n}")),
            )
        })
        .collect();
    provider.apply(&changes).unwrap();
    rotate(&scratch);
    for n in [0, 1, 4_999, 9_999] {
        assert_eq!(
            get(&provider, &format!("K{n}")).unwrap(),
            format!("value {n}")
        );
    }
}
