//! The table beside SimpleTuner's own way of using it.

use serde_json::{Map, Value};

use super::writer::CREATE;
use super::*;
use crate::audit::Actor;
use crate::simpletuner_db::MAX_CONFIG;
use rusqlite::Connection;
use serde_json::json;

/// A scratch state folder, and SimpleTuner's way of using the database in it.
struct State(tempfile::TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cloud/jobs.db")
    }

    fn configs(&self) -> Arc<ProviderConfigs> {
        Arc::new(ProviderConfigs::at(self.path()))
    }

    /// Another program's connection.
    fn simpletuner(&self) -> Connection {
        std::fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        let connection = Connection::open(self.path()).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection.execute_batch(CREATE).unwrap();
        connection
    }
}

fn insert(connection: &Connection, name: &str, config: &str) {
    connection
        .execute(
            "INSERT OR REPLACE INTO provider_config VALUES (?1, ?2, '2026-01-02T03:04:05.678901+00:00')",
            [name, config],
        )
        .unwrap();
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn without_a_database_every_list_is_empty_and_reading_creates_nothing() {
    let state = State::new();
    let configs = state.configs();
    assert!(!configs.get("replicate").unwrap().exists());
    assert!(configs.list().unwrap().is_empty() && configs.try_list().is_empty());
    assert!(!configs.delete("replicate").unwrap());
    assert!(!configs.rename("replicate", "other").unwrap());
    assert!(std::fs::read_dir(state.0.path()).unwrap().next().is_none());
}

#[test]
fn the_first_save_creates_a_private_folder_and_file_with_one_table() {
    use std::os::unix::fs::PermissionsExt;
    let state = State::new();
    let configs = state.configs();
    let config = object(json!({"webhook_url": "https://example.com", "cost_limit_amount": 10.5}));
    let changed = configs.save("replicate", &config).unwrap();
    assert_eq!(changed.set, ["webhook_url", "cost_limit_amount"]);
    assert_eq!(*configs.get("replicate").unwrap().object(), config);
    assert_eq!(configs.list().unwrap(), ["replicate"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state.path()), 0o600);
    assert_eq!(mode(state.path().parent().unwrap()), 0o700);
    let other = state.simpletuner();
    let tables: String = other
        .query_row(
            "SELECT group_concat(name) FROM sqlite_master WHERE type = 'table'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tables, "provider_config");
    let stored: String = other
        .query_row("SELECT config FROM provider_config", [], |row| row.get(0))
        .unwrap();
    assert_eq!(
        stored,
        r#"{"webhook_url": "https://example.com", "cost_limit_amount": 10.5}"#
    );
}

#[test]
fn a_save_by_another_program_is_seen_at_once_despite_the_cache() {
    let state = State::new();
    let other = state.simpletuner();
    insert(&other, "replicate", r#"{"a": 1}"#);
    let configs = state.configs();
    for round in 0..3 {
        insert(&other, "replicate", &json!({"a": round}).to_string());
        assert_eq!(configs.get("replicate").unwrap().object()["a"], round);
        assert_eq!(configs.get("replicate").unwrap().object()["a"], round);
    }
    let stats = configs.cache().stats();
    assert_eq!((stats.hits, stats.size), (3, 1));
    insert(&other, "runpod", "{}");
    assert_eq!(configs.try_list(), ["replicate", "runpod"]);
    other.execute("DELETE FROM provider_config", []).unwrap();
    assert!(!configs.get("replicate").unwrap().exists());
    assert!(configs.cache().is_empty());
}

#[test]
fn an_invalidation_and_a_save_drop_that_provider_from_the_cache() {
    let state = State::new();
    let configs = state.configs();
    for name in ["a", "ab"] {
        configs.save(name, &object(json!({"k": name}))).unwrap();
    }
    configs.get("a").unwrap();
    assert!(configs.cache().ttl_left("provider:a:config").is_some());
    assert_eq!(configs.invalidate(Some("a")), 1);
    configs.get("a").unwrap();
    configs
        .cache()
        .set("provider:a:other", ProviderConfig::default());
    configs.save("a", &object(json!({"k": 2}))).unwrap();
    assert!(configs.cache().ttl_left("provider:a:other").is_none());
    assert_eq!(configs.get("a").unwrap().object()["k"], 2);
}

#[test]
fn columns_of_a_newer_version_keep_their_values() {
    let state = State::new();
    let other = state.simpletuner();
    other
        .execute_batch("ALTER TABLE provider_config ADD COLUMN owner TEXT NOT NULL DEFAULT 'x'")
        .unwrap();
    other
        .execute(
            "INSERT INTO provider_config VALUES ('replicate', '{}', '', 'somebody')",
            [],
        )
        .unwrap();
    let configs = state.configs();
    configs.save("replicate", &object(json!({"a": 1}))).unwrap();
    configs
        .update("replicate", |config| {
            drop(config.insert("b".into(), json!(2)))
        })
        .unwrap();
    configs.save("new", &Map::new()).unwrap();
    assert!(configs.rename("replicate", "renamed").unwrap());
    let owners: String = other
        .query_row("SELECT group_concat(provider || '=' || owner || config, ';') FROM (SELECT * FROM provider_config ORDER BY 1)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(owners, r#"new=x{};renamed=somebody{"a": 1, "b": 2}"#);
}

#[test]
fn a_stored_text_that_is_not_an_object_is_an_error_until_a_whole_object_replaces_it() {
    let state = State::new();
    let other = state.simpletuner();
    for stored in ["hunter2", "[\"hunter2\"]", "", "{\"a\": NaN}"] {
        insert(&other, "replicate", stored);
        let configs = state.configs();
        let error = configs.get("replicate").unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = configs.update("replicate", |_| {}).unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
        let left: String = other
            .query_row("SELECT config FROM provider_config", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, stored);
        configs.save("replicate", &object(json!({"a": 1}))).unwrap();
        assert_eq!(configs.get("replicate").unwrap().object()["a"], 1);
    }
}

#[test]
fn an_invalid_name_or_configuration_is_refused_and_changes_nothing() {
    let state = State::new();
    let configs = state.configs();
    configs.save("a", &object(json!({"k": 1}))).unwrap();
    for (name, text, errno) in [
        ("a", "hunter2".to_owned(), libc::EINVAL),
        ("a", "[]".to_owned(), libc::EINVAL),
        (
            "a",
            format!("{{\"k\": \"{}\"}}", "x".repeat(MAX_CONFIG)),
            libc::EFBIG,
        ),
        ("a/b", "{}".to_owned(), libc::EINVAL),
        (".a", "{}".to_owned(), libc::EINVAL),
    ] {
        let error = configs
            .save_text_as(&Actor::this_process(), name, text.as_bytes())
            .unwrap_err();
        assert_eq!(error.errno(), errno, "{error}");
    }
    assert_eq!(configs.list().unwrap(), ["a"]);
    assert_eq!(configs.get("a").unwrap().object()["k"], 1);
}

#[test]
fn a_save_returns_the_keys_that_it_changed() {
    let state = State::new();
    let configs = state.configs();
    configs
        .save("a", &object(json!({"same": 1, "other": 1, "gone": 1})))
        .unwrap();
    let changed = configs
        .save("a", &object(json!({"same": 1, "other": 2, "new": 1})))
        .unwrap();
    assert_eq!(changed.set, ["other", "new"]);
    assert_eq!(changed.removed, ["gone"]);
}

#[test]
fn a_file_that_is_not_a_database_is_an_error_and_stays_as_it_is() {
    let state = State::new();
    std::fs::create_dir_all(state.path().parent().unwrap()).unwrap();
    let garbage =
        "this is no database, and long enough to have a header of one hundred bytes".repeat(20);
    std::fs::write(state.path(), &garbage).unwrap();
    let configs = state.configs();
    for error in [
        configs.get("a").unwrap_err(),
        configs.list().unwrap_err(),
        configs.save("a", &Map::new()).unwrap_err(),
        configs.delete("a").unwrap_err(),
    ] {
        assert_eq!(error.errno(), libc::EIO, "{error}");
    }
    assert!(configs.try_list().is_empty());
    assert_eq!(std::fs::read_to_string(state.path()).unwrap(), garbage);
    std::fs::remove_file(state.path()).unwrap();
    std::fs::create_dir(state.path()).unwrap();
    assert_eq!(configs.get("a").unwrap_err().errno(), libc::EIO);
}

#[test]
fn an_empty_file_is_an_empty_database_and_the_first_save_creates_the_table() {
    let state = State::new();
    std::fs::create_dir_all(state.path().parent().unwrap()).unwrap();
    std::fs::write(state.path(), "").unwrap();
    let configs = state.configs();
    assert!(configs.list().unwrap().is_empty());
    assert_eq!(std::fs::metadata(state.path()).unwrap().len(), 0);
    configs.save("a", &object(json!({"k": 1}))).unwrap();
    assert_eq!(configs.get("a").unwrap().object()["k"], 1);
}

#[test]
fn a_file_that_replaces_the_database_is_noticed() {
    let state = State::new();
    insert(&state.simpletuner(), "a", r#"{"k": 1}"#);
    let configs = state.configs();
    assert_eq!(configs.get("a").unwrap().object()["k"], 1);
    let new = State::new();
    insert(&new.simpletuner(), "b", r#"{"k": 2}"#);
    std::fs::rename(new.path(), state.path()).unwrap();
    assert_eq!(configs.list().unwrap(), ["b"]);
    assert!(!configs.get("a").unwrap().exists());
    assert_eq!(configs.get("b").unwrap().object()["k"], 2);
}

#[test]
fn try_get_never_waits_for_a_lock_and_when_readable_calls_back_after_it() {
    let state = State::new();
    let other = state.simpletuner();
    insert(&other, "a", r#"{"k": 1}"#);
    insert(&other, "b", r#"{"k": 1}"#);
    let configs = state.configs();
    assert!(matches!(configs.try_get("a"), TryGet::Found(_)));
    // Without a write-ahead log a writer locks readers out, too. The journal mode changes only while nobody else is connected.
    other
        .pragma_update(None, "journal_mode", "DELETE")
        .unwrap_err();
    drop(configs);
    other.pragma_update(None, "journal_mode", "DELETE").unwrap();
    let configs = state.configs();
    assert!(matches!(configs.try_get("a"), TryGet::Found(_)));
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(
        matches!(configs.try_get("a"), TryGet::Found(_)),
        "a cached configuration is served"
    );
    assert!(matches!(configs.try_get("b"), TryGet::Locked));
    assert!(matches!(state.configs().try_get("a"), TryGet::Locked));
    assert_eq!(configs.try_list(), ["a", "b"]);
    let (sender, done) = std::sync::mpsc::channel();
    for name in ["b", "a"] {
        let sender = sender.clone();
        configs.when_readable(name, Box::new(move || sender.send(name).unwrap()));
    }
    assert_eq!(done.recv().unwrap(), "a");
    assert!(done.try_recv().is_err());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(done.recv().unwrap(), "b");
    assert!(matches!(configs.try_get("b"), TryGet::Found(_)));
}
