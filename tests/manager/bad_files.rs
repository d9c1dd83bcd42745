//! Secrets files that are not what they should be.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use simpletuner_live::error::Error;

use crate::{Home, listen, name, value};

const GOOD: &str = r#"{"A": "alpha"}"#;

/// A defect of a file, and how to make it.
type Spoiling = (&'static str, fn(&Path));

/// Ways to make the file unreadable.
const SPOILED: [Spoiling; 10] = [
    ("empty", |path| std::fs::write(path, "").unwrap()),
    ("blank", |path| std::fs::write(path, " \n\n").unwrap()),
    ("truncated", |path| {
        std::fs::write(path, r#"{"A": "hidden-va"#).unwrap()
    }),
    ("a list", |path| {
        std::fs::write(path, r#"["hidden-value"]"#).unwrap()
    }),
    ("a text", |path| {
        std::fs::write(path, r#""hidden-value""#).unwrap()
    }),
    ("null", |path| std::fs::write(path, "null").unwrap()),
    ("not UTF-8", |path| {
        std::fs::write(path, b"{\"A\": \"hidden-value\xff\"}").unwrap()
    }),
    ("50 MB long", |path| {
        std::fs::write(path, r#"{"A": "hidden-value"}"#).unwrap();
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_len(50_000_000).unwrap();
    }),
    ("a folder", |path| {
        let _ = std::fs::remove_file(path);
        std::fs::create_dir(path).unwrap();
    }),
    ("a FIFO", |path| {
        let _ = std::fs::remove_file(path);
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }),
];

fn is_failed_file(error: &Error) -> bool {
    matches!(error, Error::ProviderFailed { provider, .. } if provider == "file")
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_and_never_no_such_key() {
    for (how, spoil) in SPOILED {
        let home = Home::make();
        spoil(&home.path("secrets.json"));
        let manager = home.manager_with(&[("HF_TOKEN", "hf")]);
        for key in ["A", "NEVER_THERE"] {
            let error = manager.get(key).unwrap_err();
            assert!(is_failed_file(&error), "{how}: {error:?}");
            assert_eq!(error.errno(), libc::EIO, "{how}");
            assert!(!format!("{error} {error:?}").contains("hidden"), "{how}");
        }
        assert_eq!(value(&manager, "HF_TOKEN"), "hf", "{how}");
        let report = manager.report("file").unwrap();
        assert!(report.available == Some(false) && !report.stale, "{how}");
        assert!(!report.last_error.unwrap().contains("hidden"), "{how}");
        assert_eq!(manager.available_providers(), ["environment"], "{how}");
    }
}

#[test]
fn the_last_good_document_is_served_until_a_bad_file_is_fixed() {
    for (how, spoil) in SPOILED {
        let home = Home::make();
        home.write("secrets.json", GOOD);
        let manager = home.manager();
        assert_eq!(value(&manager, "A"), "alpha", "{how}");
        let heard = listen(&manager);
        spoil(&home.path("secrets.json"));
        assert_eq!(value(&manager, "A"), "alpha", "{how}: cached");
        manager.clear_cache();
        assert_eq!(value(&manager, "A"), "alpha", "{how}: from the document");
        assert!(manager.report("file").unwrap().stale, "{how}");
        home.write("other.json", r#"{"A": "mended", "B": "new"}"#);
        let path = home.path("secrets.json");
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        }
        std::fs::rename(home.path("other.json"), &path).unwrap();
        assert_eq!(value(&manager, "A"), "mended", "{how}");
        assert_eq!(value(&manager, "B"), "new", "{how}");
        assert!(!manager.report("file").unwrap().stale, "{how}");
        let heard = heard.lock().unwrap();
        let count = |event: &str| heard.iter().filter(|line| *line == event).count();
        assert_eq!(count("provider_down - file"), 1, "{how}: {heard:?}");
        assert_eq!(count("provider_up - file"), 1, "{how}: {heard:?}");
    }
}

#[test]
fn a_document_older_than_max_stale_is_not_served_even_from_the_cache() {
    for (how, spoil) in SPOILED {
        let home = Home::make();
        home.write("live.yaml", "max_stale: 0\n");
        home.write("secrets.json", GOOD);
        let manager = home.manager();
        assert_eq!(value(&manager, "A"), "alpha", "{how}");
        spoil(&home.path("secrets.json"));
        for key in ["A", "NEVER_THERE"] {
            let error = manager.get(key).unwrap_err();
            assert!(is_failed_file(&error), "{how}: {error:?}");
        }
    }
}

#[test]
fn a_write_to_a_file_that_cannot_be_read_changes_nothing() {
    for (how, spoil) in SPOILED {
        for was_good in [false, true] {
            let home = Home::make();
            let path = home.path("secrets.json");
            if was_good {
                home.write("secrets.json", GOOD);
            }
            let manager = home.manager();
            spoil(&path);
            let (bytes, inode) = (std::fs::metadata(&path).unwrap().is_file())
                .then(|| std::fs::read(&path).unwrap())
                .map_or((None, 0), |bytes| {
                    (Some(bytes), std::fs::metadata(&path).unwrap().ino())
                });
            let errors = [
                manager.set("B", "beta").unwrap_err(),
                manager.delete("A").unwrap_err(),
                manager.rename(&name("A"), &name("B")).unwrap_err(),
            ];
            for error in errors {
                assert!(
                    matches!(error, Error::MalformedStore { .. }),
                    "{how}: {error:?}"
                );
                assert_eq!(error.errno(), libc::EIO, "{how}");
            }
            if let Some(bytes) = bytes {
                assert!(std::fs::read(&path).unwrap() == bytes, "{how}");
                assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "{how}");
            }
            assert_eq!(home.files(), ["secrets.json", "secrets.json.lock"], "{how}");
        }
    }
}

#[test]
fn entries_that_are_not_texts_are_not_secrets_and_survive_a_write() {
    let home = Home::make();
    home.write(
        "secrets.json",
        r#"{"N": 1e400, "A": "alpha", "L": [1, {"x": null}], "Z": null, "T": true, "not a name": "x"}"#,
    );
    let manager = home.manager();
    assert_eq!(value(&manager, "A"), "alpha");
    for key in ["N", "L", "Z", "T"] {
        assert!(manager.get(key).unwrap_err().is_not_found(), "{key}");
    }
    assert_eq!(manager.report("file").unwrap().skipped_keys, 5);
    manager.set("B", "beta").unwrap();
    manager.delete("A").unwrap();
    let file = home.read("secrets.json");
    for kept in [
        r#""N": 1e400"#,
        r#""Z": null"#,
        r#""T": true"#,
        r#""not a name": "x""#,
    ] {
        assert!(file.contains(kept), "{kept} is gone: {file}");
    }
    assert!(file.contains(r#"[1, {"x": null}]"#), "{file}");
    assert_eq!(value(&home.manager(), "B"), "beta");
}

#[test]
fn a_write_through_a_symbolic_link_replaces_its_target() {
    let home = Home::make();
    let target = home.root().join("real.json");
    std::fs::write(&target, GOOD).unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
    symlink("../real.json", home.path("secrets.json")).unwrap();
    let manager = home.manager();
    assert_eq!(value(&manager, "A"), "alpha");
    let before = std::fs::metadata(&target).unwrap().ino();
    manager.set("B", "beta").unwrap();
    let link = std::fs::read_link(home.path("secrets.json")).unwrap();
    assert_eq!(link, Path::new("../real.json"));
    let after = std::fs::symlink_metadata(&target).unwrap();
    assert_ne!(after.ino(), before, "written in place");
    assert_eq!(after.mode(), 0o100600);
    let fresh = home.manager();
    assert_eq!(value(&fresh, "A") + &value(&fresh, "B"), "alphabeta");
}
