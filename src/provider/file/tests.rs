//! The file provider: what it reads, notices and reports.

mod rotation;
mod writes;

use std::time::SystemTime;

use super::*;
use crate::error::Error;
use crate::provider::{ChangeKind, KeyChange, ProviderChanges, ProviderReport, ViewLookup};
use crate::secret::{Change, MAX_VALUE, SecretValue};
use std::os::unix::fs::MetadataExt;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }
    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.path(file), content).unwrap();
    }
    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }
    fn with(&self, change: impl FnOnce(&mut FileOptions)) -> FileProvider {
        let mut options = FileOptions {
            location: StoreLocation::new(None, self.0.path(), &self.path("live")),
            key: KeySource::new(None, self.path("credential.key")),
            encrypt: true,
            max_stale: Duration::from_secs(3600),
            max_keys: 10_000,
            keep_previous: 1,
            lock_timeout: Duration::from_secs(20),
        };
        change(&mut options);
        FileProvider::new(options)
    }
    fn provider(&self) -> FileProvider {
        self.with(|_| {})
    }
    /// Nothing but the store, its lock and the key.
    fn has_no_leftovers(&self) {
        for entry in std::fs::read_dir(self.0.path()).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            assert!(!file.starts_with('.'), "{file} was left");
        }
    }
}

fn get(provider: &FileProvider, key: &str) -> Option<String> {
    let provided = provider.get(&name(key)).unwrap()?;
    Some(provided.value.as_str().to_owned())
}

/// What other programs changed since the last call.
fn poll_changes(provider: &FileProvider) -> ProviderChanges {
    provider.check_for_changes(Duration::MAX);
    provider.take_update().changes
}

/// These keys, changed by others.
fn keys(keys: Vec<KeyChange>) -> ProviderChanges {
    ProviderChanges {
        keys,
        ..ProviderChanges::default()
    }
}

fn failed() -> ProviderChanges {
    ProviderChanges {
        health: true,
        ..ProviderChanges::default()
    }
}

fn report(provider: &FileProvider) -> ProviderReport {
    provider.view().report(Instant::now())
}

fn set(provider: &FileProvider, key: &str, value: &str) -> Result<()> {
    provider.apply(&[Change::Set(name(key), SecretValue::new(value))])
}

#[test]
fn without_a_file_there_are_no_keys_and_the_first_write_creates_it_private() {
    let scratch = Scratch::new();
    let provider = scratch.with(|o| {
        let folder = scratch.path("new");
        o.location = StoreLocation::new(None, &folder, &folder.join("live"));
    });
    assert_eq!(get(&provider, "A"), None);
    assert!(!scratch.path("new").exists(), "a read makes nothing");
    assert!(!scratch.path("credential.key").exists());
    set(&provider, "A", "alpha").unwrap();
    assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
    let mode = |file| std::fs::metadata(scratch.path(file)).unwrap().mode() & 0o777;
    assert_eq!(mode("new"), 0o700);
    for file in [
        "new/secrets.json",
        "new/secrets.json.lock",
        "credential.key",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert!(!scratch.read("new/secrets.json").contains("alpha"));
}

#[test]
fn the_first_default_path_is_used_and_keeps_its_format() {
    let scratch = Scratch::new();
    let provider = scratch.with(|o| o.encrypt = false);
    scratch.write("secrets.yml", "A: yml\n");
    assert_eq!(get(&provider, "A").as_deref(), Some("yml"));
    scratch.write("secrets.yaml", "A: yaml\n");
    assert_eq!(get(&provider, "A").as_deref(), Some("yaml"));
    set(&provider, "B", "beta").unwrap();
    assert_eq!(scratch.read("secrets.yaml"), "A: yaml\n\"B\": \"beta\"\n");
    scratch.write("secrets.json", "{\"A\": \"json\"}");
    assert_eq!(get(&provider, "A").as_deref(), Some("json"));
    assert_eq!(get(&provider, "B"), None);
}

#[test]
fn plain_and_encrypted_values_coexist_and_a_write_encrypts_only_its_own() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"alpha\", \"B\": \"beta\"}");
    let provider = scratch.provider();
    set(&provider, "B", "gamma").unwrap();
    let text = scratch.read("secrets.json");
    assert!(text.contains("alpha") && text.contains("Z0FBQUFB") && !text.contains("gamma"));
    assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
    assert_eq!(get(&provider, "B").as_deref(), Some("gamma"));
    assert_eq!(provider.encrypt_all().unwrap(), 1);
    assert_eq!(provider.encrypt_all().unwrap(), 0);
    assert!(!scratch.read("secrets.json").contains("alpha"));
    assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
}

#[test]
fn a_plain_value_that_looks_encrypted_is_read_back_as_it_was_set() {
    let scratch = Scratch::new();
    let provider = scratch.with(|o| o.encrypt = false);
    set(&provider, "A", "Z0FBQUFBnot-really").unwrap();
    assert_eq!(get(&provider, "A").as_deref(), Some("Z0FBQUFBnot-really"));
}

#[test]
fn a_value_encrypted_with_another_key_fails_alone() {
    let scratch = Scratch::new();
    set(&scratch.provider(), "A", "alpha").unwrap();
    let text = scratch
        .read("secrets.json")
        .replace("\n}", ",\n  \"B\": \"beta\"\n}");
    scratch.write("secrets.json", &text);
    let other =
        scratch.with(|o| o.key = KeySource::new(Some("other".into()), scratch.path("none")));
    assert!(matches!(
        other.get(&name("A")),
        Err(Error::CannotDecrypt { .. })
    ));
    assert_eq!(get(&other, "B").as_deref(), Some("beta"));
    let keyless = scratch.with(|o| o.key = KeySource::new(None, scratch.path("none")));
    assert!(matches!(
        keyless.get(&name("A")),
        Err(Error::KeyUnusable { .. })
    ));
    assert!(!scratch.path("none").exists());
}

#[test]
fn an_edit_by_another_program_shows_at_once_and_is_reported_once() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\", \"B\": \"2\"}");
    let provider = scratch.provider();
    assert_eq!(
        poll_changes(&provider),
        ProviderChanges::default(),
        "the first reading is no change"
    );
    // Same length, in place, at once: the timestamps may well be the same.
    scratch.write("secrets.json", "{\"A\": \"3\", \"B\": \"2\"}");
    let change = |key: &str, kind| KeyChange {
        name: name(key),
        kind,
    };
    assert_eq!(
        poll_changes(&provider),
        keys(vec![change("A", ChangeKind::Set)])
    );
    assert_eq!(poll_changes(&provider), ProviderChanges::default());
    assert_eq!(get(&provider, "A").as_deref(), Some("3"));
    std::fs::remove_file(scratch.path("secrets.json")).unwrap();
    assert_eq!(
        poll_changes(&provider),
        keys(vec![
            change("A", ChangeKind::Deleted),
            change("B", ChangeKind::Deleted)
        ])
    );
}

#[test]
fn an_own_write_is_distinguished_from_an_earlier_edit_by_another_program() {
    let scratch = Scratch::new();
    let provider = scratch.with(|o| o.encrypt = false);
    set(&provider, "A", "1").unwrap();
    let set_key = |key: &str| KeyChange {
        name: name(key),
        kind: ChangeKind::Set,
    };
    let changes = poll_changes(&provider);
    assert_eq!((changes.keys, changes.own), (vec![], vec![set_key("A")]));
    scratch.write("secrets.json", "{\"A\": \"1\", \"FOREIGN\": \"x\"}");
    set(&provider, "B", "2").unwrap();
    let changes = poll_changes(&provider);
    assert_eq!(
        (changes.keys, changes.own),
        (vec![set_key("FOREIGN")], vec![set_key("B")])
    );
    assert_eq!(get(&provider, "FOREIGN").as_deref(), Some("x"));
}

#[test]
fn only_changed_keys_have_a_new_time() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\", \"B\": \"2\"}");
    let old = SystemTime::now() - Duration::from_secs(1000);
    let file = std::fs::File::options()
        .write(true)
        .open(scratch.path("secrets.json"));
    file.unwrap().set_modified(old).unwrap();
    let provider = scratch.provider();
    let changed = |key: &str| provider.get(&name(key)).unwrap().unwrap().changed_at;
    assert_eq!(changed("A"), changed("B"));
    set(&provider, "A", "3").unwrap();
    assert!(changed("A") > changed("B"));
    assert!(changed("B") < SystemTime::now() - Duration::from_secs(900));
}

#[test]
fn a_file_that_is_malformed_serves_the_last_good_document_and_is_not_written() {
    for bad in ["", "{\"A\": \"al", "[1]", "null"] {
        let scratch = Scratch::new();
        scratch.write("secrets.json", "{\"A\": \"alpha\"}");
        let provider = scratch.provider();
        assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
        assert!(!report(&provider).stale);
        poll_changes(&provider);
        scratch.write("secrets.json", bad);
        assert_eq!(
            poll_changes(&provider),
            failed(),
            "its state changed, no name did"
        );
        assert_eq!(get(&provider, "A").as_deref(), Some("alpha"), "{bad}");
        let seen = report(&provider);
        assert!(seen.stale && seen.available == Some(false) && seen.last_error.is_some());
        assert!(matches!(
            set(&provider, "B", "b"),
            Err(Error::MalformedStore { .. })
        ));
        assert_eq!(scratch.read("secrets.json"), bad);
        // One that never saw a good document has nothing to serve.
        let late = scratch.provider();
        assert!(matches!(
            late.get(&name("A")),
            Err(Error::MalformedStore { .. })
        ));
        scratch.write("secrets.json", "{\"A\": \"mended\"}");
        assert_eq!(get(&provider, "A").as_deref(), Some("mended"));
        assert_eq!(report(&provider).available, Some(true));
    }
}

#[test]
fn a_document_that_is_too_old_is_not_served() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"alpha\"}");
    let provider = scratch.with(|o| o.max_stale = Duration::ZERO);
    let find = |provider: &FileProvider| provider.view().find(&name("A"), Instant::now());
    assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
    scratch.write("secrets.json", "");
    assert!(
        matches!(find(&provider), ViewLookup::Value { .. }),
        "not looked at yet"
    );
    assert_eq!(poll_changes(&provider), failed(), "it failed");
    assert!(matches!(
        find(&provider),
        ViewLookup::Failed {
            error: Error::MalformedStore { .. },
            ..
        }
    ));
}

#[test]
fn a_store_that_is_not_a_file_is_an_error_and_never_a_hang() {
    let scratch = Scratch::new();
    for (make, what) in [("folder", "it is a folder"), ("fifo", "it is a named pipe")] {
        let path = scratch.path(make);
        match make {
            "folder" => std::fs::create_dir(&path).unwrap(),
            _ => rustix::fs::mkfifoat(
                rustix::fs::CWD,
                &path,
                rustix::fs::Mode::from_raw_mode(0o600),
            )
            .unwrap(),
        }
        let provider = scratch.with(|o| o.location = StoreLocation::at(&path));
        for error in [
            provider.get(&name("A")).unwrap_err(),
            set(&provider, "A", "a").unwrap_err(),
        ] {
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[test]
fn a_file_of_fifty_megabytes_is_malformed_without_being_read() {
    let scratch = Scratch::new();
    let file = std::fs::File::create(scratch.path("secrets.json")).unwrap();
    file.set_len(50 << 20).unwrap();
    let error = scratch.provider().get(&name("A")).unwrap_err();
    assert!(
        matches!(&error, Error::MalformedStore { reason, .. } if reason.contains("too large")),
        "{error}"
    );
}
