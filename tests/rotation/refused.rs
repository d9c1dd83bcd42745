//! What prevents a rotation, and that nothing has changed then.

use std::fs;
use std::process::Command;

use super::support::alone;
use super::support::home::{BINARY, Home, is_root, ran};
use super::support::user::User;
use super::{KEY, STORE, home, retired, set, state, text};

#[test]
fn values_that_the_key_cannot_decrypt_are_named_and_nothing_is_replaced() {
    let home = home();
    let store = text(&home, STORE);
    fs::rename(home.path(KEY), home.path("key")).unwrap();
    fs::rename(home.path(STORE), home.path("store")).unwrap();
    set(&home, "FOREIGN", "x");
    let foreign: serde_json::Value = serde_json::from_str(&text(&home, STORE)).unwrap();
    let mut both: serde_json::Value = serde_json::from_str(&store).unwrap();
    both["FOREIGN"] = foreign["FOREIGN"].clone();
    home.write(STORE, &both.to_string());
    fs::rename(home.path("key"), home.path(KEY)).unwrap();
    let before = state(&home);
    for args in [&["key", "rotate", "--yes"][..], &["key", "rotate", "-n"]] {
        let said = home.run(args).failed();
        assert!(said.contains("1 value cannot be decrypted"), "{said}");
        assert!(said.contains("simpletuner-live rm FOREIGN"), "{said}");
    }
    assert_eq!(state(&home), before);
    assert!(retired(&home).is_empty());
    home.run(&["rm", "FOREIGN"]).done();
    home.run(&["key", "rotate", "--yes"]).done();
    assert_eq!(home.run(&["get", "A"]).done(), "two");
}

#[test]
fn a_key_in_the_variable_is_refused_with_the_steps_which_work() {
    let home = Home::new();
    let script = |script: &str| {
        let mut bash = home.command("bash");
        bash.args(["-c", script])
            .env("SIMPLETUNER_CREDENTIAL_KEY", "a key of mine");
        ran(&mut bash)
    };
    script(&format!("echo -n v | {BINARY} set A")).done();
    let said = script(&format!("{BINARY} key rotate --yes")).failed();
    assert!(said.contains("nothing has changed"), "{said}");
    assert!(!said.contains("a key of mine"), "{said}");
    let step = said.split_once("1. write the key to a file: ").unwrap().1;
    script(step.split_once("; 2.").unwrap().0).done();
    home.run(&["key", "rotate", "--yes"]).done();
    assert_eq!(home.run(&["get", "A"]).done(), "v");
    assert_ne!(text(&home, KEY), "a key of mine");
}

#[test]
fn without_a_key_there_is_nothing_to_rotate() {
    let home = Home::new();
    let said = home.run(&["key", "rotate", "--yes"]).failed();
    assert!(said.contains("the first write makes a key"), "{said}");
}

#[test]
fn another_secrets_file_and_simpletuners_database_keep_their_key() {
    let home = home();
    home.write(".simpletuner/store.json", &text(&home, STORE));
    let before = state(&home);
    let said = home.run(&["key", "rotate", "--yes"]).failed();
    assert!(said.contains("store.json would lose their key"), "{said}");
    assert_eq!(state(&home), before);
    fs::remove_file(home.path(".simpletuner/store.json")).unwrap();
    home.sh("mkdir -p ~/.simpletuner/cloud; python3 -c '
import json, os, sqlite3
folder = os.path.expanduser(\"~/.simpletuner/\")
db = sqlite3.connect(folder + \"cloud/jobs.db\")
db.execute(\"CREATE TABLE provider_credentials (credential_value TEXT)\")
stored = json.load(open(folder + \"secrets.json\"))[\"A\"]
db.execute(\"INSERT INTO provider_credentials VALUES (?)\", (stored,))
db.commit()'");
    let said = home.run(&["key", "rotate", "--yes"]).failed();
    assert!(
        said.contains("1 credential in SimpleTuner's database"),
        "{said}"
    );
    assert_eq!(text(&home, KEY).len(), 43);
    assert!(retired(&home).is_empty());
}

/// Refused, and everything is as before.
fn unchanged(home: &Home, words: &str, mut command: Command) {
    let before = state(home);
    let said = ran(&mut command);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains(words), "{}", said.err);
    assert_eq!(state(home), before);
}

#[test]
fn where_a_file_cannot_be_replaced_nothing_changes_and_the_reason_is_said() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let _alone = alone();
    let home = home();
    let rotate = |prepare: &str| {
        let mut command = home.command("unshare");
        let script = format!("{prepare}; exec {BINARY} key rotate --yes");
        command.args(["-m", "bash", "-c", &script]);
        command
    };
    let read_only =
        "mount --bind ~/.simpletuner ~/.simpletuner; mount -o remount,ro,bind ~/.simpletuner";
    unchanged(&home, "Read-only file system", rotate(read_only));
    let key = "mount --bind ~/.simpletuner/credential.key ~/.simpletuner/credential.key";
    unchanged(&home, "busy", rotate(key));
    // With more and more room, until it suffices.
    let fill = "mkdir -p small; mount -t tmpfs -o size=1m,mode=700 tmpfs small; cp -a ~/.simpletuner small/; export HOME=$PWD/small
                head -c 2M /dev/zero > small/zeros 2> /dev/null; truncate -s -$1k small/zeros
                sums() { sha256sum ~/.simpletuner/secrets.json* ~/.simpletuner/credential.key; }";
    let check = "before=$(sums); \"$0\" key rotate --yes && exit 0
                 [ \"$before\" = \"$(sums)\" ] && [ ! -e ~/.simpletuner/credential.key.new ] && exit 1; exit 9";
    let mut codes = Vec::new();
    for room in (0..80).step_by(4) {
        let mut command = home.command("unshare");
        command.args(["-m", "bash", "-c", &format!("{fill}\n{check}"), BINARY]);
        let said = ran(command.arg(room.to_string()));
        codes.push(said.code);
        match said.code {
            0 => break,
            code => assert_eq!(code, 1, "{room}: {}{}", said.out, said.err),
        }
        assert!(said.err.contains("No space left"), "{room}: {}", said.err);
    }
    assert_eq!(codes.last(), Some(&0), "{codes:?}");
    assert!(codes.len() > 2, "{codes:?}");
}

#[test]
fn an_ordinary_user_rotates_their_own_key_and_nobody_elses() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let user = User::new("nobody");
    user.sh("echo -n v | ../program set A");
    user.cli(&["key", "rotate", "--yes"]).output().unwrap();
    assert_eq!(user.run(&["get", "A"]).done(), "v");
    let old = user.sh("ls ~/.simpletuner | grep -c old-");
    assert_eq!(old.trim(), "1");
    // A folder that may not be written.
    user.sh("chmod 500 ~/.simpletuner");
    let said = user.run(&["key", "rotate", "--yes"]);
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.err.contains("Permission denied"), "{}", said.err);
    user.sh("chmod 700 ~/.simpletuner");
    assert_eq!(user.run(&["get", "A"]).done(), "v");
}
