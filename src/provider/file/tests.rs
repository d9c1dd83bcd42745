use std::time::SystemTime;

use super::*;
use crate::error::Error;
use crate::provider::{ChangeKind, KeyChange, ProviderChanges, ProviderReport, ViewLookup};
use crate::secret::{Change, MAX_VALUE, SecretValue};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

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
fn an_own_write_is_told_from_an_earlier_edit_by_another_program() {
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
        assert!(seen.stale && !seen.available && seen.last_error.is_some());
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
        assert!(report(&provider).available);
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

#[test]
fn a_document_that_would_grow_too_large_is_not_written() {
    let scratch = Scratch::new();
    let filler = format!("{{\"n\": [{}1]}}", "1,".repeat((MAX_DOCUMENT - 1000) / 2));
    scratch.write("secrets.json", &filler);
    let provider = scratch.with(|o| o.encrypt = false);
    let error = set(&provider, "A", &"x".repeat(MAX_VALUE)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit: MAX_DOCUMENT,
                ..
            }
        ),
        "{error}"
    );
    assert!(scratch.read("secrets.json") == filler);
    let error = set(&provider, "A", &"x".repeat(MAX_VALUE + 1)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit: MAX_VALUE,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_write_that_would_change_another_entry_fails_alone() {
    let scratch = Scratch::new();
    scratch.write("secrets.yaml", "A: &a alpha\nB: *a\n");
    let provider = scratch.with(|o| o.encrypt = false);
    let change = |key| [Change::Set(name(key), SecretValue::new("new"))];
    let (anchored, other) = (change("A"), change("C"));
    let results = provider.apply_each(&[&anchored, &other]);
    let refused = results[0].as_ref().unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL, "{refused}");
    assert!(results[1].is_ok());
    assert_eq!(
        scratch.read("secrets.yaml"),
        "A: &a alpha\nB: *a\n\"C\": \"new\"\n"
    );
    assert_eq!(get(&provider, "A").as_deref(), Some("alpha"));
}

#[test]
fn a_write_through_a_link_replaces_its_target() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("elsewhere")).unwrap();
    scratch.write("elsewhere/real.json", "{\"A\": \"1\"}");
    symlink("elsewhere/real.json", scratch.path("secrets.json")).unwrap();
    let provider = scratch.with(|o| o.encrypt = false);
    set(&provider, "A", "2").unwrap();
    assert!(
        std::fs::symlink_metadata(scratch.path("secrets.json"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        scratch.read("elsewhere/real.json"),
        "{\n  \"A\": \"2\"\n}\n"
    );
    std::fs::remove_file(scratch.path("elsewhere/real.json")).unwrap();
    set(&provider, "A", "3").unwrap();
    assert_eq!(
        get(&provider, "A").as_deref(),
        Some("3"),
        "a link to nothing is written through"
    );
}

#[test]
fn a_store_that_becomes_a_link_into_the_mount_is_never_touched_there() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\"}");
    let provider = scratch.provider();
    assert_eq!(get(&provider, "A").as_deref(), Some("1"));
    std::fs::remove_file(scratch.path("secrets.json")).unwrap();
    symlink("live/bundle/secrets.json", scratch.path("secrets.json")).unwrap();
    assert!(matches!(set(&provider, "A", "2"), Err(Error::Settings(_))));
    assert!(!report(&provider).available || poll_changes(&provider) != ProviderChanges::default());
}

#[test]
fn deleting_a_missing_key_changes_nothing() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\"}");
    let provider = scratch.provider();
    let changes = [
        Change::Set(name("B"), "2".into()),
        Change::Delete(name("C")),
    ];
    assert!(provider.apply(&changes).unwrap_err().is_not_found());
    assert_eq!(scratch.read("secrets.json"), "{\"A\": \"1\"}");
    assert!(
        provider
            .rename(&name("C"), &name("D"))
            .unwrap_err()
            .is_not_found()
    );
    provider.rename(&name("A"), &name("D")).unwrap();
    assert_eq!(
        (get(&provider, "A"), get(&provider, "D").as_deref()),
        (None, Some("1"))
    );
    scratch.has_no_leftovers();
}

#[test]
fn a_lock_timeout_names_the_lock_file() {
    let scratch = Scratch::new();
    let held = write::Lock::take(&scratch.path("secrets.json"), Duration::ZERO).unwrap();
    let provider = scratch.with(|o| o.lock_timeout = Duration::from_millis(5));
    let error = set(&provider, "A", "1").unwrap_err();
    assert_eq!(error.errno(), libc::ETIMEDOUT);
    assert!(error.to_string().contains("secrets.json.lock"), "{error}");
    drop(held);
    set(&provider, "A", "1").unwrap();
}

#[test]
fn writers_of_one_file_lose_no_key() {
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        for writer in 0..2 {
            // A provider each, as two processes have.
            let provider = scratch.with(|o| o.encrypt = false);
            scope.spawn(move || {
                for key in 0..200 {
                    set(&provider, &format!("W{writer}_{key}"), "v").unwrap();
                }
            });
        }
    });
    assert_eq!(
        report(&scratch.provider()).keys.len(),
        0,
        "nothing is read before it is asked for"
    );
    let provider = scratch.provider();
    poll_changes(&provider);
    assert_eq!(provider.view().names().len(), 400);
    scratch.has_no_leftovers();
}

#[test]
fn the_next_writer_replaces_the_temporary_file_of_a_killed_one() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\"}");
    scratch.write(".secrets.json.tmp", "{\"A\": \"ha");
    let provider = scratch.with(|o| o.encrypt = false);
    assert_eq!(get(&provider, "A").as_deref(), Some("1"));
    set(&provider, "B", "2").unwrap();
    assert_eq!(
        (
            get(&provider, "A").as_deref(),
            get(&provider, "B").as_deref()
        ),
        (Some("1"), Some("2"))
    );
    scratch.has_no_leftovers();
}

#[test]
fn a_write_keeps_the_files_owner_its_mode_and_its_acl() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\"}");
    let path = scratch.path("secrets.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, None, Some(12346)).unwrap();
    }
    let before = std::fs::metadata(&path).unwrap();
    let provider = scratch.provider();
    set(&provider, "A", "2").unwrap();
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (after.uid(), after.gid(), after.mode()),
        (before.uid(), before.gid(), before.mode())
    );

    let set_acl = |path: &Path, name: &str, acl: &[u8]| {
        rustix::fs::setxattr(path, name, acl, rustix::fs::XattrFlags::empty())
    };
    let acl_of = |path: &Path| {
        let mut acl = [0; 256];
        let len = rustix::fs::getxattr(path, "system.posix_acl_access", &mut acl)?;
        Ok::<_, rustix::io::Errno>(acl[..len].to_vec())
    };
    let acl = acl(4711);
    match set_acl(&path, "system.posix_acl_access", &acl) {
        // A filesystem without ACLs.
        Err(rustix::io::Errno::OPNOTSUPP) => return,
        result => result.unwrap(),
    }
    set(&provider, "A", "3").unwrap();
    assert_eq!(acl_of(&path).unwrap(), acl);
    // The default of the folder is for new files.
    set_acl(
        scratch.0.path(),
        "system.posix_acl_default",
        &self::acl(4713),
    )
    .unwrap();
    rustix::fs::removexattr(&path, "system.posix_acl_access").unwrap();
    set(&provider, "A", "4").unwrap();
    assert_eq!(acl_of(&path), Err(rustix::io::Errno::NODATA));
}

/// An ACL by which this user may read, too (`linux/posix_acl_xattr.h`: version 2, then tag, permissions, id).
fn acl(user: u32) -> Vec<u8> {
    let nobody = u32::MAX;
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01u16, 6u16, nobody),
        (0x02, 4, user),
        (0x04, 4, nobody),
        (0x10, 4, nobody),
        (0x20, 0, nobody),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

#[test]
fn a_hard_link_keeps_the_old_content_with_one_warning() {
    let scratch = Scratch::new();
    scratch.write("secrets.json", "{\"A\": \"1\"}");
    std::fs::hard_link(scratch.path("secrets.json"), scratch.path("other")).unwrap();
    let provider = scratch.with(|o| o.encrypt = false);
    let said = said_while(|| {
        set(&provider, "A", "2").unwrap();
        set(&provider, "A", "3").unwrap();
        std::fs::remove_file(scratch.path("other")).unwrap();
        std::fs::hard_link(scratch.path("secrets.json"), scratch.path("other")).unwrap();
        set(&provider, "A", "4").unwrap();
    });
    assert_eq!(said.matches("another name").count(), 1, "{said}");
    assert!(scratch.read("other").contains("\"3\""));
    assert_eq!(get(&provider, "A").as_deref(), Some("4"));
}

/// What this thread logs during the call.
fn said_while(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let said = said.0.lock().clone();
    String::from_utf8(said).unwrap()
}
