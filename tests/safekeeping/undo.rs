//! `undo`: what it sets back, what it asks, and that a running mount shows it at once.

use std::fs;

use serde_json::Value;

use super::support::home::Home;
use super::{get, set, settings};

#[test]
fn an_undo_sets_back_what_the_last_change_did_and_can_be_undone() {
    let home = Home::new();
    set(&home, "K", "one");
    set(&home, "K", "two");
    let undone = home.run(&["undo", "K", "--yes"]);
    assert!(
        undone.out.contains("gets its earlier value"),
        "{}",
        undone.out
    );
    assert!(undone.out.contains("set at 20"), "{}", undone.out);
    undone.done();
    assert_eq!(get(&home, "K"), "one");
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "two");
    home.run(&["rm", "K"]).done();
    let undone = home.run(&["undo", "K", "--yes"]).done();
    assert!(undone.contains("comes back"), "{undone}");
    assert_eq!(get(&home, "K"), "two");
    set(&home, "NEW", "x");
    let undone = home.run(&["undo", "NEW", "--yes"]).done();
    assert!(undone.contains("is removed"), "{undone}");
    assert_eq!(home.run(&["get", "NEW"]).code, 4);
    home.run(&["undo", "NEW", "--yes"]).done();
    assert_eq!(get(&home, "NEW"), "x");
}

#[test]
fn more_steps_go_further_back() {
    let home = Home::new();
    settings(&home, "keep_previous: 3\n");
    for value in ["a", "b", "c", "d", "e"] {
        set(&home, "K", value);
    }
    let said = home.run(&["undo", "K", "--steps", "4", "--yes"]).failed();
    assert!(said.contains("only the last 3 changes of K"), "{said}");
    home.run(&["undo", "K", "--steps", "3", "--yes"]).done();
    assert_eq!(get(&home, "K"), "b");
    assert_eq!(home.run(&["undo", "K", "--steps", "0"]).code, 2);
    assert_eq!(home.run(&["undo", "NEVER", "--yes"]).code, 4);
    assert_eq!(home.run(&["undo"]).code, 2);
    assert_eq!(home.run(&["undo", "--all"]).code, 2);
    assert_eq!(home.run(&["undo", "--all", "--since", "soon"]).code, 2);
}

#[test]
fn a_removed_mounted_folder_is_undone_as_a_whole() {
    let home = Home::new();
    set(&home, "BEFORE", "kept\nas it was\n");
    home.run(&["mount"]).done();
    home.sh(
        "cd ~/.simpletuner/live/secrets; for n in 1 2 3 4 5; do echo value$n > KEY$n; done; sleep 1.1; date -u +%FT%TZ > ~/then; \
         sleep 0.01; echo new > SINCE; echo other > KEY1; rm -rf ~/.simpletuner/live 2> /dev/null; true",
    );
    assert_eq!(home.run(&["ls"]).done(), "");
    let then = fs::read_to_string(home.path("then")).unwrap();
    let plan = home
        .run(&["undo", "--all", "--since", then.trim(), "--dry-run"])
        .done();
    assert_eq!(home.run(&["ls"]).done(), "");
    let json = [
        "undo",
        "--all",
        "--since",
        then.trim(),
        "--dry-run",
        "--json",
    ];
    let json: serde_json::Value = serde_json::from_str(&home.run(&json).done()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), plan.lines().count() - 1);
    assert_eq!(json[0]["key"], "BEFORE");
    let said = home.run(&["undo", "--all", "--since", then.trim()]);
    assert_eq!((said.code, said.out), (1, plan));
    assert!(said.err.contains("--yes"), "{}", said.err);
    // KEY1 changed twice since then, and one value of each is kept.
    assert!(
        said.err
            .contains("KEY1 changed more often since then than is kept"),
        "{}",
        said.err
    );
    home.run(&["undo", "--all", "--since", then.trim(), "--yes"])
        .done();
    let shown = home.sh("cd ~/.simpletuner/live/secrets; grep -H '' *");
    let read = "BEFORE:kept\nBEFORE:as it was\nKEY1:other\nKEY2:value2\nKEY3:value3\nKEY4:value4\nKEY5:value5\n";
    assert_eq!(shown, format!("{read}SINCE:new\n"));
    home.run(&["undo", "--all", "--since", "1m", "--yes"])
        .done();
    assert_eq!(home.run(&["ls"]).done(), "");
    home.run(&["umount"]).done();
}

#[test]
fn with_enough_values_kept_a_time_is_restored_exactly() {
    let home = Home::new();
    settings(&home, "keep_previous: 10\n");
    home.run(&["mount"]).done();
    home.sh(
        "cd ~/.simpletuner/live/secrets; echo a > A; echo b > B; sleep 1.1; date -u +%FT%TZ > ~/then; sleep 0.01; \
         echo a2 > A; echo a3 > A; mv B C; echo d > D; rm A",
    );
    let then = fs::read_to_string(home.path("then")).unwrap();
    home.run(&["undo", "--all", "--since", then.trim(), "--yes"])
        .done();
    assert_eq!(
        home.sh("cd ~/.simpletuner/live/secrets; grep -H '' *"),
        "A:a\nB:b\n"
    );
    let again = home.run(&["undo", "--all", "--since", then.trim(), "--yes"]);
    assert_eq!((again.code, again.out.as_str()), (0, ""));
    assert!(
        again.err.contains("no secret has changed since then"),
        "{}",
        again.err
    );
    home.run(&["umount"]).done();
}

#[test]
fn a_running_mount_shows_an_undo_at_once_and_the_trail_has_it() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("cd ~/.simpletuner/live/secrets; echo one > K; echo two > K; cat K");
    for value in ["one", "two", "one", "two"] {
        let read = home.sh(&format!(
            "{} undo K --yes > /dev/null; cat ~/.simpletuner/live/secrets/K",
            super::support::home::BINARY
        ));
        assert_eq!(read.trim(), value);
    }
    let events = fs::read_to_string(home.live("events")).unwrap();
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["key"]), (&"set".into(), &"K".into()));
    home.run(&["rm", "K"]).done();
    home.run(&["undo", "K", "--yes"]).done();
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(home.run(&["get", "K"]).code, 4);
    home.run(&["umount"]).done();
    let trail = home.run(&["audit", "tail"]).done();
    assert!(
        trail.contains("Secret K set back to an earlier value"),
        "{trail}"
    );
    assert!(trail.contains("Secret K removed by an undo"), "{trail}");
}

#[test]
fn a_value_kept_while_values_were_plain_comes_back_as_the_settings_say() {
    let home = Home::new();
    settings(&home, "encrypt: false\n");
    set(&home, "K", "one");
    set(&home, "K", "two");
    settings(&home, "");
    home.run(&["undo", "K", "--yes"]).done();
    let store = fs::read_to_string(home.path(".simpletuner/secrets.json")).unwrap();
    assert!(!store.contains("one"), "{store}");
    assert_eq!(get(&home, "K"), "one");
    set(&home, "K", "three");
    settings(&home, "encrypt: false\n");
    home.run(&["undo", "K", "--yes"]).done();
    let store = fs::read_to_string(home.path(".simpletuner/secrets.json")).unwrap();
    assert!(store.contains("\"one\""), "{store}");
}

#[test]
fn an_undo_never_sets_back_the_secrets_of_another_file_than_the_mount_shows() {
    let home = Home::new();
    set(&home, "K", "default file");
    set(&home, "K", "default file, newer");
    home.write("my.yaml", "file_path: ~/mine.json\n");
    home.run(&["mount", "--config", "my.yaml"]).done();
    set(&home, "K", "mine");
    set(&home, "K", "mine, newer");
    for command in [
        &["undo", "K", "--yes"][..],
        &["history"],
        &["encrypt-file"],
        &["decrypt-file", "--yes"],
    ] {
        let said = home.run(command).failed();
        assert!(said.contains("mine.json"), "{said}");
        assert!(said.contains("/my.yaml` takes the settings"), "{said}");
    }
    home.run(&["undo", "K", "--yes", "--config", "my.yaml"])
        .done();
    assert_eq!(get(&home, "K"), "mine");
    assert_eq!(
        home.run(&["get", "K", "--no-mount"]).done(),
        "default file, newer"
    );
    home.run(&["umount"]).done();
    home.run(&["mount"]).done();
    // live.yaml is newer than what is in force.
    settings(&home, "file_path: ~/mine.json\n");
    let said = home.run(&["undo", "K", "--yes"]).failed();
    assert!(
        said.contains("`simpletuner-live reload` has the mount use that file"),
        "{said}"
    );
    assert_eq!(get(&home, "K"), "default file, newer");
    home.run(&["reload"]).done();
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "mine, newer");
    home.run(&["umount"]).done();
}

/// A program that replaces the link with a file of its own: the younger file wins, and the other's value is not lost.
#[test]
fn what_an_adoption_replaces_can_be_set_back() {
    let home = Home::new();
    let replace = |value: &str| {
        home.sh(&format!(
            "echo '{{\"K\": \"{value}\", \"NEW\": \"n\"}}' > new && mv new ~/.simpletuner/secrets.json"
        ))
    };
    set(&home, "K", "stored");
    set(&home, "SAME", "s");
    home.run(&["adopt"]).done();
    replace("theirs");
    home.run(&["adopt"]).done();
    assert_eq!(get(&home, "K") + &get(&home, "NEW"), "theirsn");
    assert!(!home.sh("cat ~/.simpletuner/*.previous").contains("stored"));
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K"), "stored");
    replace("theirs again");
    home.run(&["adopt", "--undo", "--yes"]).done();
    assert_eq!(get(&home, "K"), "theirs again");
    home.run(&["undo", "K", "--yes"]).done();
    assert_eq!(get(&home, "K") + &get(&home, "SAME"), "storeds");
}
