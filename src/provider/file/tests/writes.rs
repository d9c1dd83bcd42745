//! Writes: what they change, what they keep, and what refuses them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

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
fn a_key_more_than_the_file_may_have_is_not_written_and_the_others_are() {
    for file in ["secrets.json", "secrets.yaml"] {
        let scratch = Scratch::new();
        scratch.write(file, "{\"A\": \"1\", \"B\": \"2\"}");
        let provider = scratch.with(|o| (o.max_keys, o.encrypt) = (3, false));
        let change = |key| [Change::Set(name(key), SecretValue::new("new"))];
        let both = [
            Change::Delete(name("B")),
            Change::Set(name("E"), SecretValue::new("new")),
        ];
        let (c, d, a) = (change("C"), change("D"), change("A"));
        let results = provider.apply_each(&[&c, &d, &a, &both]);
        let refused = results[1].as_ref().unwrap_err();
        assert_eq!(refused.errno(), libc::ENOSPC, "{refused}");
        assert!(refused.to_string().contains("max_keys"), "{refused}");
        for index in [0, 2, 3] {
            assert!(results[index].is_ok(), "{index}: {:?}", results[index]);
        }
        for (key, value) in [
            ("A", Some("new")),
            ("B", None),
            ("C", Some("new")),
            ("D", None),
        ] {
            assert_eq!(get(&provider, key).as_deref(), value, "{key}");
        }
    }
}

#[test]
fn a_file_with_more_keys_than_it_may_have_is_malformed_and_stays() {
    let texts = [
        ("secrets.json", "{\"A\": \"1\", \"B\": \"2\", \"C\": {}}"),
        ("secrets.yaml", "A: 1\nB: 2\nC: {}\n"),
    ];
    for (file, text) in texts {
        let scratch = Scratch::new();
        scratch.write(file, text);
        let provider = scratch.with(|o| o.max_keys = 2);
        for said in [
            provider.get(&name("A")).unwrap_err(),
            set(&provider, "A", "new").unwrap_err(),
        ] {
            assert_eq!(said.errno(), libc::EIO);
            assert!(said.to_string().contains("more than 2 keys"), "{said}");
            assert!(said.to_string().contains("max_keys"), "{said}");
        }
        assert_eq!(scratch.read(file), text);
        let larger = scratch.with(|o| o.max_keys = 3);
        assert_eq!(get(&larger, "A").as_deref(), Some("1"));
    }
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
    assert!(
        report(&provider).available == Some(false)
            || poll_changes(&provider) != ProviderChanges::default()
    );
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

#[test]
fn a_key_that_has_changed_since_an_undo_was_planned_is_not_set_back() {
    let scratch = Scratch::new();
    let provider = scratch.provider();
    for value in ["one", "two"] {
        set(&provider, "A", value).unwrap();
        set(&provider, "B", value).unwrap();
    }
    let request = UndoRequest::Since(SystemTime::UNIX_EPOCH, None);
    let planned = provider.plan_undo(&request).unwrap();
    assert_eq!(planned.len(), 2);
    set(&provider, "B", "three").unwrap();
    let refused = provider.undo(&planned).unwrap_err();
    assert!(
        refused.to_string().contains("changed meanwhile"),
        "{refused}"
    );
    assert_eq!(get(&provider, "A").as_deref(), Some("two"));
    assert_eq!(get(&provider, "B").as_deref(), Some("three"));
    let planned = provider.plan_undo(&request).unwrap();
    provider.undo(&planned).unwrap();
    assert_eq!(get(&provider, "A").as_deref(), Some("one"));
    assert_eq!(get(&provider, "B").as_deref(), Some("two"));
    scratch.has_no_leftovers();
}
