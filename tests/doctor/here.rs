//! What lies in the home: settings, files, values, SimpleTuner's files.

use super::*;
use support::home::is_root;

#[test]
fn files_that_others_may_read_or_change_are_found_and_mended() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    patient.sh(&format!("echo {VALUE} | simpletuner-live set A"));
    for (script, expected) in [
        (
            "chmod 644 .simpletuner/credential.key",
            "every user may read",
        ),
        (
            "chmod 640 .simpletuner/credential.key",
            "the group may read",
        ),
        ("chmod 604 .simpletuner/secrets.json", "every user may read"),
        (
            "chgrp daemon .simpletuner/secrets.json; chmod 620 .simpletuner/secrets.json",
            "other users may change",
        ),
        ("chmod 777 .simpletuner", "other users may change"),
        (
            "chown daemon .simpletuner/secrets.json",
            "belongs to daemon",
        ),
        ("chown daemon: .simpletuner", "belongs to daemon"),
        (
            "echo 'vault_token: t' > .simpletuner/live.yaml; chmod 644 .simpletuner/live.yaml",
            "live.yaml, which holds secrets",
        ),
        ("mkdir .simpletuner/live.log", "must be a file"),
        ("ln -s nowhere .simpletuner/views.json", "does not exist"),
    ] {
        patient.breaks(script, "files", expected);
    }
    assert_eq!(patient.check("files").status(), "ok");
}

#[test]
fn settings_that_are_wrong_are_found_and_the_other_checks_go_on() {
    let patient = Patient::healthy();
    patient.sh(&format!("echo {VALUE} | simpletuner-live set A"));
    patient.sh("echo 'ttll: 3' > .simpletuner/live.yaml");
    let report = patient.doctor();
    report.check("settings").is("failed", "ttll");
    assert_eq!(report.check("values").status(), "ok");
    report.check("aws").is("skipped", "it is not known whether");
    let fix = report.check("settings").finding("ttll")["fix"].clone();
    let fix = fix.as_str().unwrap();
    patient.sh(&format!("EDITOR='sed -i s/ttll/ttl/'; {fix}"));
    assert_eq!(patient.check("settings").status(), "ok");

    // A path with a blank, and a file that is not there.
    let mut other = patient.command(BINARY);
    other.args(["--config", "an other.yaml", "doctor", "--json"]);
    let other = Report::of(ran(&mut other));
    let fix = other.check("mount").finding("nothing is mounted")["fix"].clone();
    let expected = format!(
        "--config '{}'",
        patient.home.path("an other.yaml").display()
    );
    assert!(fix.as_str().unwrap().contains(&expected), "{fix}");
}

#[test]
fn without_a_home_the_machine_is_checked_all_the_same() {
    let patient = Patient::healthy();
    let mut doctor = patient.command(BINARY);
    let report = Report::of(ran(doctor.args(["doctor", "--json"]).env_remove("HOME")));
    assert_eq!(report.code, 1);
    report.check("settings").is("failed", "HOME is not set");
    assert_eq!(report.check("kernel").status(), "ok");
    report.check("values").is("skipped", "see settings");
}

#[test]
fn values_that_cannot_be_decrypted_are_named_and_none_is_shown() {
    let patient = Patient::healthy();
    patient.sh(&format!(
        "for key in A B; do echo {VALUE} | simpletuner-live set $key; done"
    ));
    patient.check("values").is("ok", "2 values; each can");
    // One that is damaged.
    patient.sh(
        "python3 -c 'import json; p = \".simpletuner/secrets.json\"; d = json.load(open(p)); d[\"A\"] = d[\"A\"][:60] + \
         d[\"A\"][64:]; json.dump(d, open(p, \"w\"))'",
    );
    let found = patient.check("values");
    let finding = found.finding("A cannot be decrypted");
    assert_eq!(finding["status"], "failed");
    let fix = finding["fix"].as_str().unwrap();
    assert_eq!(fix, "simpletuner-live set A");
    patient.sh(&format!("echo {VALUE} | {fix}"));
    assert_eq!(patient.check("values").status(), "ok");

    // Several at once, beside one that shows that the key is right.
    patient.sh(&format!("echo {VALUE} | simpletuner-live set C"));
    patient.sh(r#"sed -i '/"C"/!s/\(Z0FBQUFB.\{52\}\)..../\1/' .simpletuner/secrets.json"#);
    let set_each = |fix: &str| {
        fix.replace(
            "simpletuner-live set",
            &format!("echo {VALUE} | simpletuner-live set"),
        )
    };
    let after = patient.mends("values", "A, B cannot be decrypted", set_each);
    assert_eq!(after.status(), "ok", "{}", after.0);

    patient.sh("simpletuner-live rm C");

    // The key of another home, and none at all.
    patient.sh("mv .simpletuner/credential.key kept; echo other > .simpletuner/credential.key; chmod 600 .simpletuner/credential.key");
    let found = patient.check("values");
    found.is("failed", "A, B cannot be decrypted");
    let fix = found.finding("A, B cannot")["fix"].clone();
    let fix = fix.as_str().unwrap();
    assert!(
        fix.starts_with("simpletuner-live restore FILE --only secrets --force    #")
            && fix.ends_with("rm -f A B"),
        "{fix}"
    );
    // A key that was kept beside is put back, and the other one stays.
    patient.breaks(
        "cp -p kept .simpletuner/credential.key.old-20260102T030405Z",
        "values",
        "A, B cannot be decrypted",
    );
    patient.sh(
        "cmp kept .simpletuner/credential.key && grep -x other .simpletuner/credential.key.away",
    );
    patient.sh("rm .simpletuner/credential.key*");
    let found = patient.check("values");
    let finding = found.finding("A, B cannot be decrypted");
    assert!(finding["fix"].is_null(), "{finding}");
    patient.breaks(
        "cp -p kept .simpletuner/credential.key.old-20260102T030405Z",
        "key",
        "values are encrypted with it",
    );
    let report = patient.doctor();
    assert_eq!(report.check("values").status(), "ok");
    assert_eq!(report.check("key").status(), "ok");
    patient.sh("cp .simpletuner/credential.key .simpletuner/credential.key.old-1; chmod 644 .simpletuner/credential.key.old-1");
    patient.check("files").is("failed", "credential.key.old-1");
    patient.sh("rm .simpletuner/credential.key.old-1");
    patient.breaks(
        "cd .simpletuner; touch -d '1 hour ago' .credential.key.before-restore-20260102T030405Z.0123456789abcdef .live.yaml.swp; \
         touch .views.json.tmp",
        "files",
        "left 1 hidden file behind",
    );
    patient.sh("rm .simpletuner/.live.yaml.swp .simpletuner/.views.json.tmp");

    patient.breaks(
        "echo 'file_path: ~/s.yaml' > .simpletuner/live.yaml; echo 'PLAIN: hunter2' > s.yaml; chmod 600 s.yaml",
        "values",
        "PLAIN is in plain text",
    );
    patient.sh("echo 'B: [1]' >> s.yaml");
    patient.mends("store", "1 entry of ", |fix| {
        format!("EDITOR='sed -i /B/d'; {fix}")
    });
    patient.breaks(
        "echo x >> s.yaml.previous",
        "store",
        "`undo` cannot set anything back",
    );
    patient.sh("echo '{' > s.yaml");
    let found = patient.check("store");
    let fix = found.finding("s.yaml is malformed")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    patient.sh(&format!("EDITOR='rm -f'; {fix}"));
    assert_eq!(patient.check("store").status(), "ok");
}

#[test]
fn what_simpletuner_cannot_read_is_found_and_adopted() {
    let patient = Patient::healthy();
    patient.sh(&format!("echo {VALUE} | simpletuner-live set A"));
    patient.breaks("true", "simpletuner", "cannot decrypt 1 encrypted value");
    patient.breaks(
        "true",
        "simpletuner",
        "finds no secrets until it is mounted",
    );
    patient.check("simpletuner").is("ok", "through this mount");
    patient.sh("simpletuner-live umount");
    patient.sh("mkdir -p .simpletuner/cloud; echo damaged > .simpletuner/cloud/jobs.db");
    patient
        .check("simpletuner")
        .is("failed", "is not an SQLite database");
    let mut named = Patient::healthy();
    named.env.push((
        "SIMPLETUNER_STATE_DIR",
        named.home.path("state").display().to_string(),
    ));
    named.breaks("true", "simpletuner", "which SIMPLETUNER_STATE_DIR");
}

#[test]
fn the_table_fits_its_terminal_and_has_colours_there_only() {
    let patient = Patient::healthy();
    let script = "script -qec 'stty cols 70; simpletuner-live doctor' /dev/null";
    let shown = patient.sh(&format!("TERM=xterm {script}"));
    assert!(
        shown.contains("\u{1b}[32mok     \u{1b}[0m  /dev/fuse"),
        "{shown}"
    );
    let plain = patient.sh(&format!("NO_COLOR=1 {script}"));
    assert!(!plain.contains("\u{1b}[32m"), "{plain}");
    for line in plain.lines() {
        let line = line.rsplit("\u{1b}[K").next().unwrap().trim_end();
        let is_long = line.chars().count() > 70;
        let is_path = line.trim_start().split(' ').count() == 1;
        assert!(!is_long || is_path || line.contains("$ "), "{line:?}");
    }
}
