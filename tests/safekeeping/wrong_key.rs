//! The credential key is missing or another one: nothing is encrypted with it, and removing, moving and setting back work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::support::home::{BINARY, Home, ran};
use super::{WAYS, get, set};

const KEY: &str = ".simpletuner/credential.key";
const STORE: &str = ".simpletuner/secrets.json";

/// A home with two values, whose key is away.
fn without_key() -> Home {
    let home = Home::new();
    set(&home, "A", "alpha");
    set(&home, "B", "beta");
    fs::rename(home.path(KEY), home.path("away")).unwrap();
    home
}

fn other_key(home: &Home) {
    home.write(KEY, "another key");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(home.path(KEY), mode).unwrap();
}

#[test]
fn without_the_key_no_new_one_is_made_and_the_way_out_is_said() {
    let home = without_key();
    let store = fs::read_to_string(home.path(STORE)).unwrap();
    for mounted in [false, true] {
        if mounted {
            home.run(&["mount"]).done();
        }
        for way in WAYS {
            for key in ["A", "NEW"] {
                let said = home.run_with("x", &[&["set", key], way].concat()).failed();
                assert!(said.contains("no new key is made"), "{said}");
                assert!(said.contains("restore the key"), "{said}");
                assert!(said.contains("credential.key"), "{said}");
            }
        }
        if mounted {
            let said = home.sh(
                "cd ~/.simpletuner/live; python3 -c '\n\
                 import os\n\
                 for f in \"secrets/A\", \"secrets/NEW\":\n\
                 \ttry:\n\
                 \t\twith open(f, \"w\") as f: f.write(\"x\")\n\
                 \texcept OSError as e: print(e.errno)\n\
                 try:\n\
                 \twith open(\"bundle/secrets.json\", \"w\") as f: f.write(\"{\\\"C\\\": \\\"c\\\"}\")\n\
                 except OSError as e: print(e.errno)'",
            );
            assert_eq!(said, format!("{0}\n{0}\n{0}\n", libc::EKEYREJECTED));
        }
        assert!(!home.path(KEY).exists());
        assert_eq!(fs::read_to_string(home.path(STORE)).unwrap(), store);
    }
    fs::rename(home.path("away"), home.path(KEY)).unwrap();
    for way in WAYS {
        home.run_with("x", &[&["set", "NEW"], way].concat()).done();
    }
    assert_eq!(get(&home, "A"), "alpha");
    home.run(&["umount"]).done();
}

#[test]
fn a_key_that_decrypts_none_of_the_values_encrypts_none() {
    let home = without_key();
    other_key(&home);
    let store = fs::read_to_string(home.path(STORE)).unwrap();
    let said = home.run_with("x", &["set", "NEW"]).failed();
    assert!(
        said.contains("decrypts none of the encrypted values"),
        "{said}"
    );
    fs::remove_file(home.path(KEY)).unwrap();
    let mut with_variable = home.command(BINARY);
    let with_variable = with_variable
        .env("SIMPLETUNER_CREDENTIAL_KEY", "another key")
        .args(["set", "NEW", "x"]);
    let said = ran(with_variable).failed();
    assert!(said.contains("SIMPLETUNER_CREDENTIAL_KEY"), "{said}");
    for damage in ["", " \n", "\u{feff}\u{1c}", "another key"] {
        home.write(KEY, damage);
        let said = home.run_with("x", &["set", "NEW"]).failed();
        assert!(said.contains("credential.key"), "{said}");
    }
    assert_eq!(fs::read_to_string(home.path(STORE)).unwrap(), store);
}

#[test]
fn removing_moving_and_setting_back_need_no_key() {
    for has_other_key in [false, true] {
        let home = without_key();
        if has_other_key {
            other_key(&home);
        }
        home.run(&["mount"]).done();
        home.sh("cd ~/.simpletuner/live/secrets; mv A C; rm B");
        home.run(&["undo", "B", "--yes"]).done();
        home.run(&["rm", "B", "--no-mount"]).done();
        home.run(&["rm", "C"]).done();
        assert_eq!(home.run(&["ls"]).done(), "");
        // Nothing is encrypted any more, so a new key may be made.
        home.sh("echo new > ~/.simpletuner/live/secrets/D");
        assert_eq!(get(&home, "D"), "new");
        let undone = home.run(&["undo", "C", "--yes"]);
        assert!(undone.err.contains("cannot be decrypted"), "{}", undone.err);
        undone.done();
        // One value of this key is there, so it is the file's.
        set(&home, "E", "more");
        home.run(&["umount"]).done();
        fs::copy(home.path("away"), home.path(KEY)).unwrap();
        assert_eq!(get(&home, "C"), "alpha");
    }
}

#[test]
fn one_value_of_the_key_is_enough_to_write() {
    let home = Home::new();
    set(&home, "A", "alpha");
    let mut store: Value =
        serde_json::from_str(&fs::read_to_string(home.path(STORE)).unwrap()).unwrap();
    let other = Home::new();
    set(&other, "X", "x");
    let foreign: Value =
        serde_json::from_str(&fs::read_to_string(other.path(STORE)).unwrap()).unwrap();
    for n in 0..5 {
        store[format!("0_FOREIGN{n}")] = foreign["X"].clone();
    }
    fs::write(home.path(STORE), store.to_string()).unwrap();
    set(&home, "0_FOREIGN1", "mine");
    set(&home, "B", "beta");
    assert_eq!(get(&home, "0_FOREIGN1"), "mine");
    home.run(&["rm", "A"]).done();
    home.run(&["rm", "B"]).done();
    home.run(&["rm", "0_FOREIGN1"]).done();
    let said = home.run_with("x", &["set", "C"]).failed();
    assert!(said.contains("decrypts none"), "{said}");
}

#[test]
fn a_store_of_plain_values_gets_a_new_key() {
    let home = Home::new();
    home.write(STORE, r#"{"A": "alpha"}"#);
    set(&home, "B", "beta");
    assert_eq!(
        (get(&home, "A"), get(&home, "B")),
        ("alpha".into(), "beta".into())
    );
    // A value that is no token says nothing of the key.
    let home = Home::new();
    home.write(STORE, r#"{"A": "Z0FBQUFBdamaged"}"#);
    home.write(KEY, "some key");
    set(&home, "B", "beta");
    assert_eq!(get(&home, "B"), "beta");
}

#[test]
fn adopting_and_encrypting_a_file_make_no_second_key() {
    let home = without_key();
    let text = fs::read_to_string(home.path(STORE)).unwrap();
    home.write(STORE, &text.replacen('{', "{\"PLAIN\": \"plain\",", 1));
    for command in ["encrypt-file", "adopt"] {
        let said = home.run(&[command]).failed();
        assert!(said.contains("no new key is made"), "{command}: {said}");
        assert!(!home.path(KEY).exists(), "{command}");
    }
    let said = home.run_with("x", &["encrypt"]).failed();
    assert!(said.contains("no new key is made"), "{said}");
    assert!(!home.path(KEY).exists());
    other_key(&home);
    for command in ["encrypt-file", "adopt"] {
        let said = home.run(&[command]).failed();
        assert!(said.contains("decrypts none"), "{command}: {said}");
    }
    fs::rename(home.path("away"), home.path(KEY)).unwrap();
    home.run(&["adopt"]).done();
    assert_eq!(get(&home, "PLAIN"), "plain");
    assert_eq!(get(&home, "B"), "beta");
}

#[test]
fn ls_and_status_say_which_values_cannot_be_decrypted_and_why() {
    let home = without_key();
    home.write("env", "");
    let mut mount = home.command(BINARY);
    ran(mount.arg("mount")).done();
    let status = home.run(&["status"]).done();
    assert!(
        status.contains("A, B cannot be decrypted: the key"),
        "{status}"
    );
    assert!(status.contains("there is no such file"), "{status}");
    for way in WAYS {
        let listed = home.run(&[&["ls", "-l"], way].concat()).done();
        let row = listed.lines().find(|line| line.starts_with("A ")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..4], ["A", "file", "?", "?"], "{listed}");
        assert!(row.contains("there is no such file"), "{listed}");
        let json = home.run(&[&["ls", "-l", "--json"], way].concat()).done();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[0]["size"], Value::Null, "{json}");
        assert!(
            json[0]["error"].as_str().unwrap().contains("no such file"),
            "{json}"
        );
    }
    other_key(&home);
    let reason = "it was encrypted with another credential key";
    super::support::wait_until("the key was read", || {
        home.run(&["status"]).done().contains(reason)
    });
    fs::rename(home.path("away"), home.path(KEY)).unwrap();
    super::support::wait_until("all can be decrypted", || {
        !home.run(&["status"]).done().contains("cannot be decrypted")
    });
    let listed = home.run(&["ls", "-l"]).done();
    assert!(!listed.contains("PROBLEM"), "{listed}");
    home.run(&["umount"]).done();
}
