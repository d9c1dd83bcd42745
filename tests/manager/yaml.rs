//! A `secrets.yaml` that people and other programs edit, too.

use std::time::{Duration, Instant};

use crate::{Home, value};

const FILE: &str = "# the team's secrets\r\nHF_TOKEN: 'hf_x'   # rotated in May\r\n\r\nSHA: 5e10\r\nACCOUNT: 12345678901234567890123456789012345678901\r\n\
                    OCT: 0o17\r\nPIN: 1.10\r\nraw: !!binary aGVsbG8=\r\nsealed: !vault |\r\n  $ANSIBLE_VAULT;1.1;AES256\r\n  6162\r\nPEM: |\r\n  -----\r\n  MII\r\n# end\r\n";

#[test]
fn numbers_are_served_as_they_stand() {
    let home = Home::make();
    home.write("secrets.yaml", FILE);
    let manager = home.manager();
    for (key, text) in [
        ("HF_TOKEN", "hf_x"),
        ("SHA", "5e10"),
        ("ACCOUNT", "12345678901234567890123456789012345678901"),
        ("OCT", "0o17"),
        ("PIN", "1.10"),
        ("PEM", "-----\nMII\n"),
    ] {
        assert_eq!(value(&manager, key), text);
    }
    assert!(manager.get("sealed").is_err());
}

#[test]
fn a_write_of_one_secret_leaves_all_other_lines_of_the_file() {
    let home = Home::make();
    home.write("live.yaml", "encrypt: false\n");
    home.write("secrets.yaml", FILE);
    let manager = home.manager();
    let mut expected = FILE.to_owned();
    let mut replace = |old: &str, new: &str| {
        assert!(expected.contains(old), "{old:?}");
        expected = expected.replace(old, new);
        assert_eq!(home.read("secrets.yaml"), expected);
    };
    manager.set("HF_TOKEN", "hf_\"y\"").unwrap();
    replace("'hf_x'", "\"hf_\\\"y\\\"\"");
    manager.set("PEM", "a\nb\n").unwrap();
    replace("PEM: |\r\n  -----\r\n  MII\r\n", "PEM: \"a\\nb\\n\"\r\n");
    manager.delete("SHA").unwrap();
    replace("SHA: 5e10\r\n", "");
    manager.set("WANDB_KEY", "w").unwrap();
    replace("# end\r\n", "WANDB_KEY: \"w\"\r\n# end\r\n");
    assert_eq!(value(&home.manager(), "WANDB_KEY"), "w");
}

#[test]
fn a_write_that_would_change_another_entry_by_its_anchor_is_refused() {
    let home = Home::make();
    let file = "token: &token abc\nHF_TOKEN: *token\n";
    home.write("secrets.yaml", file);
    let manager = home.manager();
    assert_eq!(value(&manager, "HF_TOKEN"), "abc");
    let error = manager.set("token", "new").unwrap_err();
    assert!(error.to_string().contains("anchor"), "{error}");
    assert_eq!(home.read("secrets.yaml"), file);
    manager.set("HF_TOKEN", "own").unwrap();
    assert_eq!(value(&manager, "token"), "abc");
}

#[test]
fn a_file_that_another_program_has_encrypted_is_never_written() {
    for (file, content, word) in [
        (
            "secrets.yaml",
            "A: ENC[AES256_GCM,data:x]\nsops:\n  mac: ENC[x]\n",
            "sops",
        ),
        (
            "secrets.json",
            "{\"A\": \"ENC[x]\", \"sops\": {\"mac\": \"ENC[x]\"}}",
            "sops",
        ),
        ("secrets.json", "\0GITCRYPT\0\u{1}\u{2}", "git-crypt"),
        (
            "secrets.yaml",
            "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
            "ansible-vault",
        ),
        ("secrets.json", "{\0\"\0A\0\"\0:\0\"\0x\0\"\0}\0", "UTF-16"),
        ("secrets.yaml", "A\0:\0 \0x\0", "UTF-16"),
    ] {
        let home = Home::make();
        home.write(file, content);
        let manager = home.manager();
        for error in [
            manager.get("A").map(drop).unwrap_err(),
            manager.set("B", "b").unwrap_err(),
        ] {
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(home.read(file), content);
    }
}

#[test]
fn white_space_before_an_encrypted_value_changes_nothing() {
    let home = Home::make();
    home.manager().set("A", "hunter2").unwrap();
    let stored = home.read("secrets.json");
    let stored = stored.split('"').nth(3).unwrap();
    home.write("secrets.json", &format!("{{\"A\": \"\\n {stored}\\n\"}}"));
    let manager = home.manager();
    assert_eq!(value(&manager, "A"), "hunter2");
    assert_eq!(manager.encrypt_all().unwrap(), 0);
    assert_eq!(value(&home.manager(), "A"), "hunter2");
}

#[test]
fn a_file_of_brackets_is_refused_at_once() {
    let brackets = format!("A: {}", "[".repeat(100_000));
    for file in ["secrets.yaml", "live.yaml"] {
        let home = Home::make();
        home.write(file, &brackets);
        let started = Instant::now();
        let error = match file {
            "live.yaml" => home.load_settings().map(drop).unwrap_err(),
            _ => home.manager().get("A").map(drop).unwrap_err(),
        };
        assert!(error.to_string().contains("line 1"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
