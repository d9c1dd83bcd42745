//! Chains are appended to, pruned and verified, and each kind of tampering is found.

use super::*;
use crate::audit::{Actor, AuditEvent};
use rusqlite::Connection;

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, b"audit-key-for-tests")
}

fn rows(count: usize, at: &str) -> Vec<UnsignedRow> {
    let actor = Actor {
        uid: Some(1000),
        pid: 42,
        program: Some("cat".into()),
        container: None,
        unit: None,
    };
    let row = |number| {
        let name = crate::secret::SecretName::new(&format!("K{number}")).unwrap();
        AuditEvent::SecretSet(name).row(&actor, "me", at.to_owned())
    };
    (0..count).map(row).collect()
}

const THEN: &str = "2026-01-02T03:04:05.678901+00:00";

fn chain() -> (tempfile::TempDir, Chain) {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::own(dir.path().join("live-audit.db"));
    (dir, chain)
}

fn ids(chain: &Chain) -> Vec<i64> {
    let rows = chain.reader().last(1000).unwrap();
    rows.iter().map(|row| row.id).collect()
}

#[test]
fn the_vectors_that_simpletuner_signed_form_a_chain() {
    let vectors = include_str!("../../../tests/vectors/audit.json");
    let vectors: Vec<serde_json::Value> = serde_json::from_str(vectors).unwrap();
    let mut verifier = ChainVerifier::default();
    for (id, vector) in vectors.iter().enumerate() {
        let text = |field: &str| vector[field].as_str().unwrap();
        let actor_id = match vector["actor_id"].as_i64() {
            Some(id) => id.to_string(),
            None => "None".into(),
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, text("key").as_bytes());
        let row = SignedRow {
            id: id as i64 + 1,
            timestamp: text("timestamp"),
            event_type: text("event_type"),
            actor_id: &actor_id,
            action: text("action"),
            details: text("details"),
            previous_hash: text("previous_hash"),
            entry_hash: text("entry_hash"),
            others: OtherColumns::default(),
        };
        assert_eq!(row.hash(&key), row.entry_hash);
        verifier.check(&key, &row);
    }
    let verified = verifier.finish(None);
    assert_eq!((verified.rows, verified.broken), (2, None));
}

#[test]
fn changing_removing_or_inserting_a_row_is_detected() {
    let (_dir, chain) = chain();
    assert_eq!(chain.verify(&key()).unwrap().rows, 0);
    assert!(!chain.path().exists(), "verifying creates nothing");
    chain.append(&key(), &rows(3, THEN), BUSY_TIMEOUT).unwrap();
    chain.append(&key(), &rows(4, THEN), BUSY_TIMEOUT).unwrap();
    let whole = chain.verify(&key()).unwrap();
    assert_eq!((whole.rows, &whole.broken), (7, &None));
    assert_eq!(chain.verify_last(&key(), 3).unwrap().rows, 3);
    assert_eq!(chain.verify_last(&key(), 3).unwrap().broken, None);
    let other = hmac::Key::new(hmac::HMAC_SHA256, b"another");
    assert_eq!(chain.verify(&other).unwrap().broken.unwrap().id, 1);
    let saved = std::fs::read(chain.path()).unwrap();
    for (change, broken) in [
        ("UPDATE audit_log SET details = '{}' WHERE id = 4", 4),
        ("UPDATE audit_log SET timestamp = 'x' WHERE id = 7", 7),
        ("UPDATE audit_log SET event_type = 'x' WHERE id = 1", 1),
        ("UPDATE audit_log SET action = 'x' WHERE id = 2", 2),
        ("UPDATE audit_log SET actor_id = 7 WHERE id = 2", 2),
        ("DELETE FROM audit_log WHERE id = 4", 5),
        ("DELETE FROM audit_log WHERE id = 1", 2),
        ("DELETE FROM audit_log WHERE id > 5", 6),
        ("DELETE FROM audit_log", 1),
        (
            "INSERT INTO audit_log SELECT 100, timestamp, event_type, actor_id, actor_username, actor_ip, target_type,
             target_id, action, details, previous_hash, entry_hash FROM audit_log WHERE id = 7",
            100,
        ),
    ] {
        let other = Connection::open(chain.path()).unwrap();
        other.execute_batch(change).unwrap();
        drop(other);
        let verified = chain.verify(&key()).unwrap();
        assert_eq!(verified.broken.map(|b| b.id), Some(broken), "{change}");
        // A broken chain can still be appended to.
        chain.append(&key(), &rows(1, THEN), BUSY_TIMEOUT).unwrap();
        for beside in ["live-audit.db-wal", "live-audit.db-shm"] {
            let _ = std::fs::remove_file(chain.path().with_file_name(beside));
        }
        std::fs::write(chain.path(), &saved).unwrap();
    }
}

#[test]
fn a_pruned_chain_verifies_and_changes_of_it_are_still_detected() {
    let (_dir, chain) = chain();
    let cutoff = crate::provider::parse_rfc3339("2026-06-01T00:00:00Z").unwrap();
    assert_eq!(chain.prune(&key(), cutoff).unwrap(), 0);
    chain.append(&key(), &rows(5, THEN), BUSY_TIMEOUT).unwrap();
    let young = "2026-07-02T03:04:05.678901+00:00";
    chain.append(&key(), &rows(3, young), BUSY_TIMEOUT).unwrap();
    assert_eq!(chain.prune(&key(), cutoff).unwrap(), 5);
    assert_eq!(ids(&chain), [6, 7, 8, 9]);
    let verified = chain.verify(&key()).unwrap();
    assert_eq!(
        (verified.rows, verified.removed, verified.broken),
        (4, 5, None)
    );
    assert_eq!(chain.prune(&key(), cutoff).unwrap(), 0);
    chain.append(&key(), &rows(2, young), BUSY_TIMEOUT).unwrap();
    // Every row is old, also the one about the first removal.
    let far = crate::provider::parse_rfc3339("2099-06-01T00:00:00Z").unwrap();
    assert_eq!(chain.prune(&key(), far).unwrap(), 6);
    let verified = chain.verify(&key()).unwrap();
    assert_eq!(
        (verified.rows, verified.removed, verified.broken),
        (1, 11, None)
    );
    chain.append(&key(), &rows(4, young), BUSY_TIMEOUT).unwrap();
    assert_eq!(chain.verify(&key()).unwrap().broken, None);
    // Rows that were removed without such a row are detected, at the beginning and in the middle.
    let saved = std::fs::read(chain.path()).unwrap();
    for (remove, broken) in [("id < 13", 13), ("id = 14", 15), ("id < 15", 15)] {
        let other = Connection::open(chain.path()).unwrap();
        let remove = format!("DELETE FROM audit_log WHERE {remove}");
        other.execute_batch(&remove).unwrap();
        drop(other);
        let verified = chain.verify(&key()).unwrap();
        assert_eq!(verified.broken.map(|b| b.id), Some(broken), "{remove}");
        std::fs::write(chain.path(), &saved).unwrap();
    }
    let error = Chain::shared(chain.path().to_owned()).prune(&key(), far);
    assert!(error.is_err(), "nothing is removed from SimpleTuner's own");
}

#[test]
fn a_reader_continues_with_new_rows_and_with_a_file_that_replaced_the_first() {
    let (dir, chain) = chain();
    let mut reader = chain.reader();
    assert!(reader.last(10).unwrap().is_empty() && reader.new_rows(10).unwrap().is_empty());
    chain.append(&key(), &rows(3, THEN), BUSY_TIMEOUT).unwrap();
    assert_eq!(reader.last(2).unwrap()[0].id, 2);
    assert!(reader.last(0).unwrap().is_empty());
    assert!(reader.new_rows(10).unwrap().is_empty());
    chain.append(&key(), &rows(2, THEN), BUSY_TIMEOUT).unwrap();
    let new = reader.new_rows(10).unwrap();
    assert_eq!(new.iter().map(|row| row.id).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(new[0].username.as_deref(), Some("unix:me"));
    std::fs::remove_dir_all(dir.path()).unwrap();
    chain.append(&key(), &rows(1, THEN), BUSY_TIMEOUT).unwrap();
    assert_eq!(reader.new_rows(10).unwrap()[0].id, 1);
}
