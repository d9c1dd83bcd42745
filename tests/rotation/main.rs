//! `key rotate` puts every value under the new key and loses none, while others read and write, and when it is killed.

mod crash;
mod load;
mod refused;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use support::home::Home;

const KEY: &str = ".simpletuner/credential.key";
const STORE: &str = ".simpletuner/secrets.json";
const NEXT: &str = ".simpletuner/credential.key.new";

/// What SimpleTuner's `decrypt_credential` does, with the key in the file and nothing of this program.
const SIMPLETUNER: &str = r#"
import base64, hashlib, hmac, json, subprocess, sys
folder, = sys.argv[1:]
secret = open(folder + "/credential.key").read().strip().encode()
key = hashlib.pbkdf2_hmac("sha256", secret, b"simpletuner-credential-encryption-v1", 100_000, 32)
def decrypt(stored):
    token = base64.urlsafe_b64decode(base64.urlsafe_b64decode(stored))
    body, mac = token[:-32], token[-32:]
    assert hmac.compare_digest(hmac.new(key[:16], body, "sha256").digest(), mac), "another key"
    openssl = ["openssl", "enc", "-d", "-aes-128-cbc", "-K", key[16:].hex(), "-iv", body[9:25].hex()]
    return subprocess.run(openssl, input=body[25:], stdout=subprocess.PIPE, check=True).stdout.decode()
values = json.load(open(folder + "/secrets.json"))
print(json.dumps({name: decrypt(stored) for name, stored in values.items()}))
"#;

fn set(home: &Home, key: &str, value: &str) {
    home.run_with(value, &["set", "--no-mount", key]).done();
}

/// A home with two values, the first of which had another one.
fn home() -> Home {
    let home = Home::new();
    set(&home, "A", "one");
    set(&home, "A", "two");
    set(&home, "B", "beta");
    home
}

fn text(home: &Home, path: &str) -> String {
    fs::read_to_string(home.path(path)).unwrap()
}

/// The retired keys.
fn retired(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path(".simpletuner")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_retired = |path: &PathBuf| path.to_str().unwrap().contains("credential.key.old-");
    paths.filter(is_retired).collect()
}

/// The values as SimpleTuner itself decrypts them.
fn as_simpletuner(home: &Home) -> BTreeMap<String, String> {
    home.write("simpletuner.py", SIMPLETUNER);
    serde_json::from_str(&home.sh("python3 simpletuner.py ~/.simpletuner")).unwrap()
}

/// The state of `~/.simpletuner`, without lock files and databases.
fn state(home: &Home) -> String {
    home.sh("cd ~/.simpletuner; sha256sum $(ls -A | grep -v -e lock -e db -e audit)")
}

#[test]
fn every_value_and_what_undo_sets_back_is_encrypted_with_the_new_key() {
    let home = home();
    let (key, store) = (text(&home, KEY), text(&home, STORE));
    let said = home.run(&["key", "rotate", "--yes"]).done();
    assert!(said.contains("2 values and 1 earlier value"), "{said}");
    assert_ne!(text(&home, KEY), key);
    assert_ne!(text(&home, STORE), store);
    let [old] = &*retired(&home) else {
        panic!("one key is retired");
    };
    assert_eq!(fs::read_to_string(old).unwrap(), key);
    for file in [old, &home.path(KEY)] {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(!home.path(NEXT).exists());
    // Without the old one.
    fs::remove_file(old).unwrap();
    let values = [("A", "two"), ("B", "beta")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(as_simpletuner(&home), BTreeMap::from(values));
    home.run(&["undo", "A", "--yes"]).done();
    assert_eq!(home.run(&["get", "A"]).done(), "one");
    let trail = home.run(&["audit", "tail"]).done();
    assert!(trail.contains("Credential key rotated"), "{trail}");
    home.run(&["audit", "verify"]).done();
}

#[test]
fn a_dry_run_changes_nothing_and_says_how_long_it_takes() {
    let home = home();
    let before = state(&home);
    let said = home.run(&["key", "rotate", "--dry-run"]).done();
    for words in [
        "2 values and 1 earlier value",
        "takes about",
        "credential.key.old-TIME",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let json = home.run(&["key", "rotate", "--dry-run", "--json"]).done();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["values"], &json["earlier_values"]),
        (&2.into(), &1.into())
    );
    // Nobody can be asked.
    let asked = home.run(&["key", "rotate"]);
    assert_eq!(asked.code, 1);
    assert!(asked.err.contains("nothing has changed"), "{}", asked.err);
    assert_eq!(state(&home), before);
}

#[test]
fn the_old_key_is_removed_if_it_is_to_be_forgotten() {
    let home = home();
    let json = home
        .run(&["key", "rotate", "--yes", "--forget-old", "--json"])
        .done();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["old_key"], Value::Null);
    assert!(retired(&home).is_empty());
    assert_eq!(home.run(&["get", "B"]).done(), "beta");
}

#[test]
fn a_key_behind_a_link_is_replaced_where_it_is() {
    let home = home();
    home.sh("mkdir keys; mv ~/.simpletuner/credential.key keys/k; ln -s ../keys/k ~/.simpletuner/credential.key");
    home.run(&["key", "rotate", "--yes"]).done();
    assert!(fs::read_link(home.path(KEY)).is_ok());
    assert_eq!(home.sh("ls keys | grep -c '^k.old-'").trim(), "1");
    assert_eq!(home.run(&["get", "A"]).done(), "two");
}

#[test]
fn two_mounts_have_the_new_key_at_once_and_each_says_so_in_one_event() {
    let home = home();
    for place in ["a", "b"] {
        home.run(&["mount", place]).done();
    }
    home.sh("cat a/secrets/A b/secrets/B a/bundle/secrets.json > /dev/null");
    let events = |place: &str| -> Vec<String> {
        let events = text(&home, &format!("{place}/events"));
        let event = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].to_string();
        events.lines().map(event).collect()
    };
    let before = ["a", "b"].map(events);
    for _ in 0..3 {
        home.run(&["key", "rotate", "--yes"]).done();
        let read =
            home.sh("cat a/secrets/A b/secrets/A; echo -n new > a/secrets/C; cat b/secrets/C");
        assert_eq!(read, "twotwonew");
        // What a mount wrote is under the new key.
        assert_eq!(as_simpletuner(&home)["C"], "new");
    }
    for (place, before) in ["a", "b"].iter().zip(before) {
        let since: Vec<String> = events(place).split_off(before.len());
        let rotated = since
            .iter()
            .filter(|event| *event == "\"key_rotated\"")
            .count();
        assert_eq!(rotated, 3, "{since:?}");
        // No value has changed, so none is reported but the one that was written.
        assert!(since.len() <= 6, "{since:?}");
        home.run(&["umount", place]).done();
    }
}
