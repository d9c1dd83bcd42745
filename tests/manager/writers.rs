//! Several writers, a writer that is killed, and a disk that is full.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};
use simpletuner_live::error::Error;
use simpletuner_live::manager::SecretsManager;

use crate::{Home, another_process, name, value};

const KEYS: usize = 200;

fn write_keys(manager: &SecretsManager, who: &str) {
    for n in 0..KEYS {
        manager
            .set(&format!("{who}_{n}"), &format!("of {who} {n}"))
            .unwrap();
    }
}

fn has_all_keys(home: &Home, writers: &[&str]) {
    let manager = home.manager();
    assert_eq!(manager.names().len(), KEYS * writers.len());
    for who in writers {
        for n in 0..KEYS {
            assert_eq!(
                value(&manager, &format!("{who}_{n}")),
                format!("of {who} {n}")
            );
        }
    }
}

#[test]
fn two_threads_lose_no_key_through_one_manager_or_two() {
    for shared in [true, false] {
        let home = Home::make();
        let first = home.manager();
        let second = if shared {
            first.clone()
        } else {
            home.manager()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| write_keys(&first, "ONE"));
            scope.spawn(|| write_keys(&second, "TWO"));
        });
        has_all_keys(&home, &["ONE", "TWO"]);
        for manager in [first, second] {
            assert_eq!(
                value(&manager, "ONE_199") + &value(&manager, "TWO_199"),
                "of ONE 199of TWO 199"
            );
        }
    }
}

#[test]
fn two_processes_lose_no_key() {
    let home = Home::make();
    let mut other = another_process("writers::the_other_process_writes_its_keys", &home)
        .spawn()
        .unwrap();
    write_keys(&home.manager(), "ONE");
    assert!(other.wait().unwrap().success());
    has_all_keys(&home, &["ONE", "TWO"]);
}

#[test]
#[ignore = "the other process of a test"]
fn the_other_process_writes_its_keys() {
    write_keys(&SecretsManager::open().unwrap(), "TWO");
}

/// Long enough for a write to take several pages.
fn long(letter: &str) -> String {
    letter.repeat(40_000)
}

#[test]
fn a_killed_writer_leaves_the_old_file_unchanged() {
    let home = Home::make();
    home.write("live.yaml", "encrypt: false\n");
    home.write("secrets.json", r#"{"KEPT": "kept", "LONG": ""}"#);
    let path = home.path("secrets.json");
    let read = || {
        let file = std::fs::read(&path).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).expect("the file is not whole");
        assert_eq!(file["KEPT"], "kept");
        file["LONG"].as_str().unwrap().to_owned()
    };
    let mut was = read();
    for changes in 1..12 {
        let mut writer = another_process("writers::the_other_process_writes_for_ever", &home)
            .spawn()
            .unwrap();
        for _ in 0..changes {
            was = loop {
                let is = read();
                if is != was {
                    break is;
                }
                assert!(writer.try_wait().unwrap().is_none(), "the writer ended");
            };
            assert!([long("a"), long("b")].contains(&was), "a mixed value");
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        was = read();
    }
    let manager = home.manager();
    manager.set("AFTER", "it").unwrap();
    assert_eq!(
        value(&manager, "AFTER") + &value(&home.manager(), "KEPT"),
        "itkept"
    );
    assert_eq!(
        home.files(),
        [
            "live.yaml",
            "secrets.json",
            "secrets.json.lock",
            "secrets.json.previous"
        ]
    );
}

#[test]
#[ignore = "the other process of a test"]
fn the_other_process_writes_for_ever() {
    let manager = SecretsManager::open().unwrap();
    loop {
        for letter in ["a", "b"] {
            manager.set("LONG", &long(letter)).unwrap();
        }
    }
}

/// A small disk of its own, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path) -> Option<Self> {
        match rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), c"size=64k") {
            Ok(()) => Some(Self(path.to_owned())),
            Err(errno) => {
                println!("skipped: a small disk cannot be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_fills_up_during_a_write_leaves_the_old_file_unchanged() {
    let home = Home::make();
    let Some(_disk) = SmallDisk::at(&home.path("")) else {
        return;
    };
    let manager = home.manager();
    manager.set("OLD", "old value").unwrap();
    let (store, files) = (home.read("secrets.json"), home.files());
    // Encrypted, it is over 100 KB.
    let error = manager.set("BIG", &"x".repeat(60_000)).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC)),
        "{error:?}"
    );
    assert_eq!(error.errno(), libc::ENOSPC);
    assert_eq!(home.read("secrets.json"), store);
    assert_eq!(home.files(), files, "something was left");
    assert!(manager.get("BIG").unwrap_err().is_not_found());
    for manager in [manager, home.manager()] {
        assert_eq!(value(&manager, "OLD"), "old value");
        manager.set("SMALL", "fits again").unwrap();
        assert_eq!(value(&manager, "SMALL"), "fits again");
    }
}

#[test]
fn a_write_of_several_keys_is_atomic() {
    use simpletuner_live::secret::{Change, SecretValue};
    let home = Home::make();
    let manager: Arc<SecretsManager> = home.manager();
    manager.set("A", "alpha").unwrap();
    let store = home.read("secrets.json");
    let changes = [
        Change::Set(name("B"), SecretValue::new("beta")),
        Change::Delete(name("NEVER_THERE")),
    ];
    assert!(manager.apply(&changes).unwrap_err().is_not_found());
    assert_eq!(home.read("secrets.json"), store);
    assert!(manager.get("B").unwrap_err().is_not_found());
}
