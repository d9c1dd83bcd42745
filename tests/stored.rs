//! Values in plain text and encrypted ones in the secrets file: what is said when the one becomes the other.

mod support;

use std::fs;

use serde_json::Value;
use support::alone;
use support::home::{BINARY, Home, ran};

const PLAIN: &str = r#"{"HF_TOKEN": "hf_plain", "WANDB": "w_plain"}"#;

fn stored(home: &Home, name: &str) -> String {
    let text = fs::read_to_string(home.path(".simpletuner/secrets.json")).unwrap();
    let store: Value = serde_json::from_str(&text).unwrap();
    store[name].as_str().unwrap().to_owned()
}

fn log(home: &Home) -> String {
    fs::read_to_string(home.path(".simpletuner/live.log")).unwrap()
}

fn events(home: &Home, event: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.live("events")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}

#[test]
fn an_encrypted_value_over_a_plain_one_that_simpletuner_reads_is_said_on_every_way() {
    let _alone = alone();
    let home = Home::new();
    let write_plain = || {
        home.write(".simpletuner/secrets.json", PLAIN);
        home.sh("chmod 600 ~/.simpletuner/secrets.json");
    };
    write_plain();
    let said = home.run_with("new", &["set", "HF_TOKEN"]);
    assert!(
        said.err.contains("HF_TOKEN was plain text in"),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("`simpletuner-live adopt`"),
        "{}",
        said.err
    );

    write_plain();
    home.run(&["mount"]).done();
    let form = |name: &str| {
        home.sh(&format!(
            "getfattr --only-values -n user.simpletuner.stored ~/.simpletuner/live/secrets/{name}"
        ))
    };
    assert_eq!(form("HF_TOKEN"), "plain");
    let through = home.run_with("new", &["set", "HF_TOKEN"]);
    assert_eq!(through.err, said.err);
    assert_eq!(form("HF_TOKEN"), "encrypted");
    assert_eq!(
        home.run_with("newer", &["set", "HF_TOKEN"]).err,
        "",
        "it is encrypted already"
    );
    home.sh(
        "echo w_new > ~/.simpletuner/live/secrets/WANDB; echo x > ~/.simpletuner/live/secrets/NEW",
    );
    let keys: Vec<Value> = events(&home, "encrypted")
        .iter()
        .map(|event| event["key"].clone())
        .collect();
    assert_eq!(keys, ["HF_TOKEN", "WANDB"]);
    assert_eq!(log(&home).matches("was plain text").count(), 1);
    assert!(stored(&home, "WANDB").starts_with("Z0FBQUFB"));
}

#[test]
fn nothing_is_said_of_a_file_that_simpletuner_does_not_read() {
    let home = Home::new();
    home.write(".simpletuner/mine.json", PLAIN);
    home.write(".simpletuner/live.yaml", "file_path: mine.json\n");
    home.run(&["mount"]).done();
    assert_eq!(home.run_with("new", &["set", "HF_TOKEN"]).err, "");
    assert!(events(&home, "encrypted").is_empty());
    assert_eq!(log(&home).matches("was plain text").count(), 0);
}

#[test]
fn decrypt_file_is_the_way_back_from_encrypt_file() {
    let _alone = alone();
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    home.run(&["mount"]).done();
    let planned = home.run(&["encrypt-file", "--dry-run"]);
    assert!(
        planned.err.contains("2 values would be encrypted"),
        "{}",
        planned.err
    );
    assert_eq!(planned.done(), "HF_TOKEN\nWANDB\n");
    assert_eq!(home.sh("cat .simpletuner/secrets.json"), PLAIN);
    home.run(&["encrypt-file"]).done();
    home.sh("echo line > ~/.simpletuner/live/secrets/LINE");

    let encrypted = home.sh("cat .simpletuner/secrets.json");
    let planned = home.run(&["decrypt-file", "-n"]);
    assert!(
        planned
            .err
            .contains("3 encrypted values would be plain text"),
        "{}",
        planned.err
    );
    assert_eq!(planned.done(), "HF_TOKEN\nLINE\nWANDB\n");
    let refused = home.run(&["decrypt-file"]).failed();
    assert!(refused.contains("--yes"), "{refused}");
    assert_eq!(home.sh("cat .simpletuner/secrets.json"), encrypted);

    let done = home.run(&["decrypt-file", "--yes"]);
    assert!(
        done.err.contains("3 encrypted values became plain text"),
        "{}",
        done.err
    );
    assert!(done.err.contains("`encrypt: false`"), "{}", done.err);
    done.done();
    for (name, value) in [
        ("HF_TOKEN", "hf_plain"),
        ("WANDB", "w_plain"),
        ("LINE", "line"),
    ] {
        assert_eq!(stored(&home, name), value);
        assert_eq!(
            fs::read_to_string(home.live(&format!("secrets/{name}"))).unwrap(),
            value
        );
    }
    let again = home.run(&["decrypt-file"]);
    assert!(again.err.contains("no encrypted value"), "{}", again.err);
    again.done();
}

#[test]
fn a_value_that_cannot_be_decrypted_is_named_and_left() {
    let home = Home::new();
    home.run_with("good", &["set", "GOOD"]).done();
    let mut other = home.command(BINARY);
    home.write("other", "other");
    other
        .env("SIMPLETUNER_CREDENTIAL_KEY", "another key")
        .arg("encrypt")
        .stdin(fs::File::open(home.path("other")).unwrap());
    let foreign = ran(&mut other).done();
    // A text that would be taken for an encrypted value.
    home.run_with(foreign.trim(), &["set", "NESTED"]).done();
    let good = stored(&home, "GOOD");
    let nested = stored(&home, "NESTED");
    home.write(
        ".simpletuner/secrets.json",
        &serde_json::json!({"GOOD": good, "BAD": foreign.trim(), "NESTED": nested, "P": "p"})
            .to_string(),
    );
    let failed = home.run(&["decrypt-file", "--yes"]).failed();
    for words in [
        "BAD cannot be decrypted",
        "NESTED: its plain text",
        "2 values stayed encrypted",
        "1 encrypted value became",
    ] {
        assert!(failed.contains(words), "{words}: {failed}");
    }
    let names = ["GOOD", "BAD", "NESTED", "P"];
    assert_eq!(
        names.map(|name| stored(&home, name)),
        ["good", foreign.trim(), &nested, "p"]
    );
    fs::remove_file(home.path(".simpletuner/credential.key")).unwrap();
    let failed = home.run(&["decrypt-file", "--yes"]).failed();
    assert!(failed.contains("key"), "{failed}");
    assert_eq!(stored(&home, "NESTED"), nested);
}

#[test]
fn a_key_that_the_environment_has_too_is_said_to_be_there_on_every_way() {
    let _alone = alone();
    let home = Home::new();
    let cli = |args: &[&str]| ran(home.command(BINARY).env("HF_TOKEN", "env").args(args));
    for through in [false, true] {
        if through {
            cli(&["mount"]).done();
        }
        let set = cli(&["set", "HF_TOKEN", "file"]);
        assert!(
            set.err
                .contains("the environment provider has it, too, and reads still give"),
            "{}",
            set.err
        );
        let removed = cli(&["rm", "HF_TOKEN"]);
        let words =
            "HF_TOKEN is removed from the file provider, but the environment provider has it, too";
        assert_eq!(removed.err.matches(words).count(), 1, "{}", removed.err);
        removed.done();
        assert_eq!(cli(&["get", "HF_TOKEN"]).done(), "env");
    }
    home.sh(
        "cd ~/.simpletuner/live/secrets; echo file > HF_TOKEN; echo file > HF_TOKEN; rm HF_TOKEN",
    );
    let keys: Vec<Value> = events(&home, "shadowed")
        .iter()
        .map(|event| event["key"].clone())
        .collect();
    assert_eq!(keys, ["HF_TOKEN"; 5]);
    let log = log(&home);
    assert_eq!(
        log.matches("HF_TOKEN is written to the file provider")
            .count(),
        1,
        "{log}"
    );
    assert_eq!(
        log.matches("HF_TOKEN is removed from the file provider")
            .count(),
        1,
        "{log}"
    );
}

#[test]
fn a_misspelt_name_is_answered_with_the_nearest_one() {
    let home = Home::new();
    home.run_with("hf", &["set", "HF_TOKEN"]).done();
    for through in [false, true] {
        if through {
            home.run(&["mount"]).done();
        }
        for args in [["get", "HF_TOKE"], ["rm", "HF_TOKE"], ["get", "hf_token"]] {
            let missed = home.run(&args);
            assert_eq!(
                (missed.code, missed.out.as_str()),
                (4, ""),
                "{args:?}: {}",
                missed.err
            );
            assert!(
                missed.err.contains("did you mean HF_TOKEN?"),
                "{args:?}: {}",
                missed.err
            );
        }
        let other = home.run(&["get", "SOMETHING_ELSE"]);
        assert!(!other.err.contains("did you mean"), "{}", other.err);
    }
}
