//! Attacks in `docs/security.md` that no other test tries.

use super::support::{Live, Setup, wait_until};
use super::*;

const VALUE: &str = "vAlUe-9b1c";

#[test]
fn a_backup_without_the_key_shows_names_and_times_and_no_value() {
    let victim = Home::new();
    victim.run(&["mount"]).done();
    victim.sh(&format!(
        "printf {VALUE} > {}",
        victim.live("secrets/HF_TOKEN").display()
    ));
    victim.sh(&format!(
        "cat {}",
        victim.live("secrets/HF_TOKEN").display()
    ));
    victim.run(&["umount"]).done();
    let thief = Home::new();
    thief.sh(&format!(
        "cp -a '{}' .simpletuner; mv .simpletuner/credential.key key",
        victim.path(".simpletuner").display()
    ));
    assert_eq!(
        thief.sh(&format!("grep -rl {VALUE} . || echo none")),
        "none\n"
    );
    assert!(thief.run(&["ls"]).done().contains("HF_TOKEN"));
    let read = thief.run(&["audit", "tail"]).done();
    assert!(read.contains("HF_TOKEN"), "{read}");
    assert!(thief.run(&["get", "HF_TOKEN"]).failed().contains("key"));
    // With the key, the backup is the secrets.
    thief.sh("mv key .simpletuner/credential.key");
    assert_eq!(thief.run(&["get", "HF_TOKEN"]).done(), VALUE);
}

#[test]
fn who_writes_the_store_without_the_key_can_swap_values_and_put_plain_ones_in() {
    let home = Home::new();
    for name in ["A", "B"] {
        home.run_with(name, &["set", name]).done();
    }
    home.sh(
        "cd .simpletuner && jq '{A: .B, B: .A, C: \"plain\"}' secrets.json > n && chmod 600 n && mv n secrets.json",
    );
    for (name, value) in [("A", "B"), ("B", "A"), ("C", "plain")] {
        assert_eq!(home.run(&["get", name]).done(), value);
    }
}

#[test]
fn a_container_of_another_user_gets_nothing_of_a_mount_that_it_binds() {
    for user in users() {
        user.run(&["mount"]).done();
        let live = user.live("");
        user.sh(&format!(
            "printf {VALUE} > {live}/secrets/A; chmod 755 . .simpletuner"
        ));
        // It has root's rights in its own user and mount namespace.
        let script = format!(
            "unshare --user --map-root-user --mount bash -c '
                cat {live}/secrets/A; ls {live}/secrets
                mount -t tmpfs none /mnt && mkdir /mnt/m && mount --bind {live} /mnt/m && cat /mnt/m/secrets/A
                for link in /proc/[0-9]*/root /proc/[0-9]*/cwd; do cat $link{live}/secrets/A; done' 2>&1"
        );
        let said = ran(user.command_as("daemon", "bash").args(["-c", &script]));
        assert!(!said.out.contains(VALUE), "{}", said.out);
        assert!(said.out.contains("Permission denied"), "{}", said.out);
        user.run(&["umount"]).done();
    }
}

/// The answers are names, and an attacker cannot ask often.
#[test]
fn a_program_of_the_same_user_cannot_try_many_values_of_the_mounts_variables() {
    let live = Live::start_with(Setup {
        env: vec![("VAULT_TOKEN", VALUE), ("VAULT_ADDR", "http://127.0.0.1:1")],
        ..Setup::default()
    });
    let compare = |value: &str| {
        let asked = fs::write(live.path("variables"), format!("VAULT_TOKEN={value}\0"));
        asked.map(|()| live.read("variables"))
    };
    assert_eq!(compare("guess").unwrap(), "VAULT_TOKEN\n");
    assert_eq!(compare(VALUE).unwrap(), "");
    // A program that looks at what close(2) returns.
    let guess = "printf 'VAULT_TOKEN=guess\\0' | dd of=variables status=none 2>&1";
    let refused = (0..20).find_map(|_| {
        let tried = live.try_sh(guess);
        (!tried.status.success()).then(|| String::from_utf8(tried.stdout).unwrap())
    });
    let refused = refused.unwrap();
    assert!(refused.contains("Device or resource busy"), "{refused}");
    let status = live.read("status");
    assert!(
        !status.contains("VAULT_TOKEN") && !status.contains(VALUE),
        "{status}"
    );
    wait_until("the refusal is logged", || {
        let log = fs::read_to_string(live.home("daemon.log")).unwrap();
        assert!(!log.contains(VALUE), "{log}");
        log.contains("the variables were compared too often")
    });
}
