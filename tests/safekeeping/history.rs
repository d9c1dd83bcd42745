//! What is kept of the values that a write replaces, and in which form.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use super::support::home::Home;
use super::{WAYS, files, get, set, settings};

const KEPT: &str = ".simpletuner/secrets.json.previous";

/// What `history --json` shows, without the times.
fn history(home: &Home, key: &str) -> Value {
    let all: Value = serde_json::from_str(&home.run(&["history", key, "--json"]).done()).unwrap();
    let all = all.as_array().unwrap().iter().map(|entry| {
        let mut entry = entry.clone();
        let at = entry.as_object_mut().unwrap().remove("at").unwrap();
        assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
        entry
    });
    all.collect()
}

#[test]
fn the_last_values_of_a_key_are_kept_encrypted_in_a_private_file() {
    let home = Home::new();
    settings(&home, "keep_previous: 3\n");
    for value in ["alpha-1", "beta-2", "gamma-3", "delta-4", "epsilon-5"] {
        set(&home, "K", value);
    }
    let kept = fs::read_to_string(home.path(KEPT)).unwrap();
    let mode = fs::metadata(home.path(KEPT)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let line: Value = serde_json::from_str(&kept).unwrap();
    let entries = line["entries"].as_array().unwrap();
    let decrypted = entries.iter().map(|entry| {
        let stored = entry["before"].as_str().unwrap();
        home.run_with(stored, &["decrypt"]).done()
    });
    let decrypted: Vec<String> = decrypted.collect();
    assert_eq!(decrypted, ["delta-4", "gamma-3", "beta-2"]);
    assert!(!kept.contains("delta"), "{kept}");
    assert_eq!(
        history(&home, "K"),
        json!([
            {"key": "K", "did": "set", "had_value": true},
            {"key": "K", "did": "set", "had_value": true},
            {"key": "K", "did": "set", "had_value": true},
        ])
    );
}

#[test]
fn each_way_to_change_a_key_is_kept_with_what_was_done() {
    let home = Home::new();
    settings(&home, "keep_previous: 20\n");
    home.run(&["mount"]).done();
    home.sh(
        "cd ~/.simpletuner/live/secrets; echo one > A; echo two > A; printf 'three' >> A; \
         mv A B; echo other > C; mv B C; rm C",
    );
    let did = |key: &str| {
        let entries = history(&home, key);
        let words = entries.as_array().unwrap().iter().map(|entry| {
            let other = entry["to"].as_str().or(entry["from"].as_str());
            let before = if entry["had_value"] == true {
                "value"
            } else {
                "none"
            };
            format!(
                "{}{}:{before}",
                entry["did"].as_str().unwrap(),
                other.unwrap_or_default()
            )
        });
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(did("A"), "renamedB:value set:value set:value set:none");
    assert_eq!(did("B"), "renamedC:value renamedA:none");
    assert_eq!(did("C"), "deleted:value renamedB:value set:none");
    // A program that writes the bundle back changes what it changed.
    home.sh(
        "cd ~/.simpletuner/live; echo 1 > secrets/X; echo 2 > secrets/Y; python3 -c '\n\
         import json\n\
         d = json.load(open(\"bundle/secrets.json\"))\n\
         d[\"X\"] = \"new\"; d[\"Z\"] = \"z\"\n\
         json.dump(d, open(\"bundle/secrets.json\", \"w\"))'",
    );
    assert_eq!(did("X"), "set:value set:none");
    assert_eq!(did("Y"), "set:none");
    assert_eq!(did("Z"), "set:none");
    home.run(&["umount"]).done();
}

#[test]
fn the_same_value_again_is_no_change() {
    let home = Home::new();
    for (options, first, second) in [
        ("", "first", "second"),
        ("encrypt: false\n", "third", "fourth"),
    ] {
        settings(&home, options);
        set(&home, "K", first);
        set(&home, "K", second);
        let kept = fs::read_to_string(home.path(KEPT)).unwrap();
        for way in WAYS {
            home.run_with(second, &[&["set", "K"], way].concat()).done();
        }
        assert_eq!(fs::read_to_string(home.path(KEPT)).unwrap(), kept);
        home.run(&["undo", "K", "--yes"]).done();
        assert_eq!(get(&home, "K"), first);
    }
}

#[test]
fn encrypting_a_file_or_adopting_it_leaves_no_plain_text_behind() {
    let home = Home::new();
    settings(&home, "encrypt: false\n");
    set(&home, "K", "plain-one");
    set(&home, "K", "plain-two");
    set(&home, "OTHER", "plain-three");
    set(&home, "OTHER", "plain-four");
    let kept = fs::read_to_string(home.path(KEPT)).unwrap();
    assert!(
        kept.contains("plain-one") && kept.contains("plain-three"),
        "{kept}"
    );
    settings(&home, "");
    home.run(&["encrypt-file"]).done();
    let kept = fs::read_to_string(home.path(KEPT)).unwrap();
    assert!(!kept.contains("plain"), "{kept}");
    assert_eq!(history(&home, "K").as_array().unwrap().len(), 1);
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "plain-one");

    let home = Home::new();
    home.write(".simpletuner/secrets.json", r#"{"K": "plain-one"}"#);
    set(&home, "K", "plain-two");
    home.write(".simpletuner/secrets.json", r#"{"K": "plain-three"}"#);
    home.run(&["adopt"]).done();
    assert!(!files(&home).contains(&"secrets.json.previous".to_owned()));
    let kept = fs::read_to_string(home.path(".simpletuner/store.json.previous")).unwrap();
    assert!(!kept.contains("plain"), "{kept}");
    home.run(&["undo", "K", "--yes", "--config", "/dev/null"])
        .failed();
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "plain-one");
}

#[test]
fn an_edit_by_another_program_is_not_kept() {
    let home = Home::new();
    settings(&home, "encrypt: false\nkeep_previous: 5\n");
    set(&home, "K", "one");
    set(&home, "K", "two");
    home.write(".simpletuner/secrets.json", r#"{"K": "by hand"}"#);
    assert_eq!(get(&home, "K"), "by hand");
    assert_eq!(history(&home, "K").as_array().unwrap().len(), 2);
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "one");
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "by hand");
}

#[test]
fn with_keep_previous_0_nothing_is_kept() {
    let home = Home::new();
    set(&home, "K", "one");
    set(&home, "K", "two");
    assert!(home.path(KEPT).exists());
    settings(&home, "keep_previous: 0\n");
    set(&home, "K", "three");
    assert!(!home.path(KEPT).exists());
    let said = home.run(&["undo", "K", "--yes"]).failed();
    assert!(said.contains("no earlier value of K is kept"), "{said}");
    assert!(said.contains("keep_previous"), "{said}");
    settings(&home, "keep_previous: 21\n");
    let said = home.run(&["get", "K"]).failed();
    assert!(
        said.contains("keep_previous must be a number of values, 0 to 20"),
        "{said}"
    );
}

#[test]
fn what_is_kept_is_neither_listed_nor_served() {
    let home = Home::new();
    set(&home, "GONE", "hunter2");
    home.run(&["rm", "GONE"]).done();
    home.run(&["mount"]).done();
    assert_eq!(home.run(&["ls"]).done(), "");
    assert_eq!(
        home.sh("ls ~/.simpletuner/live/secrets; cat ~/.simpletuner/live/bundle/secrets.json"),
        "{}\n"
    );
    assert_eq!(home.run(&["get", "GONE"]).code, 4);
    let shown = home.run(&["history"]).done();
    assert!(
        shown.contains("GONE") && !shown.contains("hunter2"),
        "{shown}"
    );
    assert_eq!(home.run(&["history", "NEVER"]).code, 4);
    home.run(&["umount"]).done();
}

#[test]
fn beside_malformed_settings_both_commands_say_what_to_do_and_change_nothing() {
    let home = Home::new();
    home.run(&["mount"]).done();
    set(&home, "K", "one");
    set(&home, "K", "two");
    settings(&home, "timeout: abc\n");
    for args in [&["history", "K"][..], &["undo", "K", "--yes"]] {
        let said = home.run(args).failed();
        for words in [
            "live.yaml: line 1: timeout",
            "{connect: 3}",
            "hint: ",
            "mend them",
            "--config",
        ] {
            assert!(said.contains(words), "{args:?}: {said}");
        }
    }
    assert_eq!(get(&home, "K"), "two");
    // By other settings, as the hint says.
    home.write("right.yaml", "ttl: 60\n");
    home.run(&["undo", "K", "--yes", "--config", "right.yaml"])
        .done();
    assert_eq!(get(&home, "K"), "one");
    home.run(&["umount"]).done();
}

#[test]
fn a_damaged_file_is_moved_aside_and_does_not_prevent_a_write() {
    let home = Home::new();
    set(&home, "K", "one");
    let damages = [
        "{",
        "null",
        "\n",
        r#"{"key":"K","entries":[{"at":"then"}]}"#,
        r#"{"key":"#,
    ];
    for (round, damage) in damages.iter().enumerate() {
        let value = format!("two{round}");
        fs::write(home.path(KEPT), damage).unwrap();
        let said = home.run(&["history", "K"]).failed();
        assert!(said.contains("secrets.json.previous"), "{said}");
        let wrote = home.run_with(&value, &["set", "K"]);
        assert!(
            wrote.err.contains("secrets.json.previous.damaged"),
            "{}",
            wrote.err
        );
        wrote.done();
        set(&home, "K", "three");
        home.run(&["undo", "K", "--yes"]).done();
        assert_eq!(get(&home, "K"), value);
    }
    assert_eq!(
        files(&home)
            .iter()
            .filter(|name| name.contains("damaged"))
            .count(),
        1
    );
}

#[test]
fn a_write_that_fails_keeps_what_was_kept() {
    let home = Home::new();
    set(&home, "K", "one");
    set(&home, "K", "two");
    let kept = fs::read_to_string(home.path(KEPT)).unwrap();
    let large = "x".repeat(70_000);
    assert_eq!(home.run_with(&large, &["set", "K"]).code, 1);
    // A folder is in the way of the temporary file.
    fs::create_dir(home.path(".simpletuner/.secrets.json.tmp")).unwrap();
    assert_eq!(home.run_with("three", &["set", "K"]).code, 1);
    fs::remove_dir(home.path(".simpletuner/.secrets.json.tmp")).unwrap();
    assert_eq!(fs::read_to_string(home.path(KEPT)).unwrap(), kept);
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "one");
    let mode = PermissionsExt::mode(&fs::metadata(home.path(KEPT)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
