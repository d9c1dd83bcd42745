//! What only a backup brings back: `FILE` in the command is the backup that somebody has made.

use super::*;

/// A home with a backup of all that it has.
fn with_backup() -> Patient {
    let patient = Patient::healthy();
    patient
        .home
        .write("passphrase", "correct horse battery staple\n");
    patient.sh("chmod 600 passphrase; mkdir -m 700 .simpletuner/cloud
        sqlite3 .simpletuner/cloud/jobs.db 'create table provider_configs (name text primary key, config text)'");
    for key in ["A", "B"] {
        patient.sh(&format!("echo {VALUE} | simpletuner-live set {key}"));
    }
    patient.sh("simpletuner-live backup \"all of it.age\" --passphrase-file passphrase 2>&1");
    patient
}

/// The command as a person completes it.
fn completed(fix: &str) -> String {
    assert!(fix.contains("simpletuner-live restore FILE "), "{fix}");
    fix.replace("FILE", "'all of it.age' --passphrase-file passphrase --yes")
}

#[test]
fn a_key_that_is_lost_or_another_comes_back() {
    for script in [
        "rm .simpletuner/credential.key",
        ": > .simpletuner/credential.key",
        "printf '\\377' > .simpletuner/credential.key",
    ] {
        let patient = with_backup();
        patient.sh(script);
        let words = if script.starts_with("rm") {
            "there is no "
        } else {
            "is not usable"
        };
        assert_eq!(patient.check("key").status(), "failed");
        let after = patient.mends("key", words, completed);
        assert_eq!(after.status(), "ok", "{script}: {}", after.0);
        assert_eq!(patient.check("values").status(), "ok");
    }
    let patient = with_backup();
    patient.sh("echo other > .simpletuner/credential.key");
    let after = patient.mends("values", "A, B cannot be decrypted", completed);
    assert_eq!(after.status(), "ok", "{}", after.0);
    // One that nothing needs is put aside.
    let patient = Patient::healthy();
    patient.breaks(
        "(umask 077; : > .simpletuner/credential.key)",
        "key",
        "it is empty",
    );
    assert_eq!(patient.check("key").status(), "ok");
}

#[test]
fn trails_that_were_changed_or_have_lost_their_key_come_back() {
    let change = "sqlite3 .simpletuner/audit.db 'update audit_log set action = 1 where id = 1'";
    for (script, words) in [
        (change, "is broken at row 1"),
        ("rm .simpletuner/audit.key", "audit.key is not usable"),
        (": > .simpletuner/audit.key", "audit.key is not usable"),
        ("echo x > .simpletuner/audit.db", "the database "),
    ] {
        let patient = with_backup();
        patient.sh(script);
        assert_eq!(patient.check("audit").status(), "failed", "{script}");
        let after = patient.mends("audit", words, completed);
        assert_eq!(after.status(), "ok", "{script}: {}", after.0);
    }
}

#[test]
fn a_database_that_is_damaged_comes_back() {
    let patient = with_backup();
    patient.sh("echo damaged > .simpletuner/cloud/jobs.db");
    let after = patient.mends("simpletuner", "is not an SQLite database", completed);
    assert!(after.says("has the configuration of"), "{}", after.0);
}

#[test]
fn a_rotation_that_was_interrupted_is_ended() {
    let patient = with_backup();
    patient.breaks(
        "(umask 077; echo next > .simpletuner/credential.key.new)",
        "key",
        "a rotation of ",
    );
    assert_eq!(patient.check("key").status(), "ok");
    assert_eq!(patient.check("values").status(), "ok");
}
