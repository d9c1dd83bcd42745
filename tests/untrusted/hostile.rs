//! Hostile databases, full disks and odd names, and what the log and the commands say about them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::support::wait_until;
use super::*;

#[test]
fn an_endless_view_or_trigger_delays_neither_a_read_nor_a_save_nor_umount() {
    const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'p' || x, '{}', '' FROM n";
    let hostile = [
        (format!("CREATE VIEW provider_config AS {ENDLESS}"), "1"),
        (
            format!(
                "{TABLE} CREATE TRIGGER t AFTER INSERT ON provider_config BEGIN INSERT INTO provider_config {ENDLESS}; END"
            ),
            "0",
        ),
    ];
    for (schema, code) in hostile {
        let home = Home::new();
        database(&home.path(".simpletuner/cloud/jobs.db"), &schema);
        home.run(&["mount"]).done();
        let began = Instant::now();
        let save = format!(
            "echo '{{\"a\": 1}}' | cp /dev/stdin {} 2> said; echo -n $?",
            home.live("config/x.json").display()
        );
        assert_eq!(home.sh(&save), code);
        home.sh(&format!(
            "ls {0}/config > /dev/null; echo v > {0}/secrets/A; cat {0}/secrets/A",
            home.live("").display()
        ));
        home.run(&["umount"]).done();
        assert!(
            began.elapsed() < Duration::from_secs(100),
            "{:?}",
            began.elapsed()
        );
        let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
        assert_eq!(
            log.contains("must be a table, and is a view"),
            code == "1",
            "{log}"
        );
        assert!(!log.contains("has ended"), "{log}");
    }
}

/// A filesystem for this test, unmounted with the home.
fn tmpfs(home: &Home, folder: &str, options: &str) {
    home.sh(&format!(
        "mkdir {folder} && mount -t tmpfs -o {options} tmpfs {folder}"
    ));
}

#[test]
fn reads_that_cannot_be_written_at_the_end_are_counted_in_the_log() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    tmpfs(&home, "state", "size=400k,mode=755");
    let run = |args: &[&str]| {
        ran(home
            .command(BINARY)
            .args(args)
            .env("SIMPLETUNER_STATE_DIR", home.path("state")))
    };
    run(&["mount"]).done();
    let secret = home.live("secrets/A").display().to_string();
    home.sh(&format!("echo v > {secret}; cat {secret}"));
    wait_until("the first rows are written", || {
        home.path("state/live-audit.db").exists()
    });
    home.sh("dd if=/dev/zero of=state/fill bs=1k count=900 2> /dev/null || true");
    home.sh(&format!(
        "for i in $(seq 40); do (exec -a reader$i cat {secret}) > /dev/null; done"
    ));
    run(&["umount"]).done();
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    let lost = log.lines().find(|line| {
        line.contains("reads could not be written to the audit trail of reads, and are lost")
    });
    let lost: u64 = lost
        .unwrap()
        .split("error: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // The database may have had room for some.
    assert!((1..=41).contains(&lost), "{log}");
}

#[test]
fn without_room_for_the_credential_key_a_write_is_enospc() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    tmpfs(&home, ".simpletuner", "size=1m,nr_inodes=12,mode=700");
    home.run(&["mount"]).done();
    // All that a write needs beside the key is there already.
    home.sh("cd .simpletuner; touch secrets.json.lock; chmod 600 secrets.json.lock; for i in $(seq 12); do touch fill$i || break; done 2> said || true; ls");
    let said = home
        .command("bash")
        .args([
            "-c",
            &format!(
                "printf w | cp /dev/stdin {}",
                home.live("secrets/A").display()
            ),
        ])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("No space left on device"),
        "{said:?}"
    );
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    // At the open, because without an inode no file can be made there.
    assert!(
        log.contains("create: A: writing") && log.contains("No space left"),
        "{log}"
    );
    assert!(!home.path(".simpletuner/credential.key").exists());
    home.run(&["umount"]).done();
}

#[test]
fn a_home_that_is_not_utf8_is_refused_with_that_word() {
    let home = Home::new();
    let strange = home.path("").join(OsStr::from_bytes(b"h\xff"));
    fs::create_dir(&strange).unwrap();
    for args in [&["get", "A"][..], &["status"], &["mount"]] {
        let said = ran(home.command(BINARY).args(args).env("HOME", &strange)).failed();
        assert!(said.contains("HOME is not UTF-8 text"), "{said}");
    }
}

#[test]
fn invisible_characters_in_a_programs_name_are_shown_escaped() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh(&format!("echo v > {}", home.live("secrets/A").display()));
    home.sh("cp $(command -v cat) $'ev\\xe2\\x80\\xaeil\\xe2\\x80\\x8b'");
    home.sh(&format!(
        "./$'ev\\xe2\\x80\\xaeil\\xe2\\x80\\x8b' {}",
        home.live("secrets/A").display()
    ));
    home.run(&["umount"]).done();
    let shown = home.run(&["audit", "tail"]).done();
    assert!(shown.contains("ev\\u{202e}il\\u{200b}["), "{shown}");
    assert!(!shown.contains('\u{202e}'), "{shown}");
}

#[test]
fn every_name_that_a_client_reads_credentials_from_is_refused() {
    let home = Home::new();
    // aws-config's `environment/credentials.rs` and `ecs.rs`; Vault's own command line.
    for own in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "VAULT_TOKEN",
    ] {
        let ran = ran(home
            .command(BINARY)
            .args(["get", own])
            .env(own, "own-secret"));
        assert_eq!((ran.code, &*ran.out), (4, ""), "{}", ran.err);
    }
}

#[test]
fn a_token_that_goes_to_another_host_in_the_clear_is_warned_of_in_the_log_and_in_status() {
    let home = Home::new();
    home.write(
        ".simpletuner/live.yaml",
        "vault_url: http://vault.invalid:8200\nvault_token: hvs.x\nprefetch: true\n",
    );
    fs::set_permissions(
        home.path(".simpletuner/live.yaml"),
        PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    home.run(&["mount"]).done();
    for name in ["A", "B"] {
        assert!(home.run(&["get", name]).code != 0);
    }
    let status = home.run(&["status"]).done();
    assert!(
        status.contains("the token goes to vault.invalid over plain http"),
        "{status}"
    );
    home.run(&["umount"]).done();
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    assert_eq!(
        log.matches("the token for Vault goes to vault.invalid over plain http")
            .count(),
        1,
        "{log}"
    );
    assert!(!log.contains("hvs.x"));
}

#[test]
fn a_value_damaged_at_its_front_is_ekeyrejected() {
    let home = Home::new();
    home.run(&["set", "--no-mount", "A", "hunter2"]).done();
    let store = home.path(".simpletuner/secrets.json");
    let good = fs::read_to_string(&store).unwrap();
    home.run(&["mount"]).done();
    for (from, to) in [("\"Z0", "\"Z1"), ("QUFB", "QUFC"), ("\"Z0F", "\"")] {
        assert!(good.contains(from));
        fs::write(&store, good.replacen(from, to, 1)).unwrap();
        let said = home.run(&["get", "--no-mount", "A"]).failed();
        assert!(said.contains("A cannot be decrypted"), "{said}");
        let read = || fs::read(home.live("secrets/A")).err()?.raw_os_error();
        wait_until("the edit shows", || read() == Some(libc::EKEYREJECTED));
    }
    // White space around a token is no damage.
    fs::write(&store, good.replacen("\"Z0", "\" Z0", 1)).unwrap();
    assert_eq!(
        home.run(&["get", "--no-mount", "A"]).done().trim(),
        "hunter2"
    );
    home.run(&["umount"]).done();
}
