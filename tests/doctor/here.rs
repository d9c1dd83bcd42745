//! What lies in the home: settings, files, values, the mount, views, SimpleTuner's files, the service.

use super::*;
use support::home::{is_root, signal};
use support::wait_until;

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
            "chmod 620 .simpletuner/secrets.json",
            "other users may change",
        ),
        ("chmod 770 .simpletuner", "other users may change"),
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
        "cmp kept .simpletuner/credential.key && grep -x other .simpletuner/credential.key.other",
    );
    patient.sh("rm .simpletuner/credential.key*");
    let found = patient.check("values");
    let finding = found.finding("A, B cannot be decrypted");
    assert!(finding["fix"].is_null(), "{finding}");
    let report = patient.doctor();
    report
        .check("values")
        .is("failed", "A, B cannot be decrypted");
    let key = report.check("key");
    let fix = key.finding("values are encrypted with it")["fix"].clone();
    let kept = patient.home.path("kept").display().to_string();
    patient.sh(&fix
        .as_str()
        .unwrap()
        .replace("/path/of/the/backup/credential.key", &kept));
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
fn a_mount_that_is_dead_stopped_or_older_than_its_settings_is_found_and_mended() {
    let patient = Patient::healthy();
    patient.breaks("true", "mount", "nothing is mounted");
    let report = patient.doctor();
    assert_eq!(report.check("mount").status(), "ok");
    report.check("processes").is("ok", "keeper");
    report.check("providers").is("ok", "file has 0 secrets");
    patient.breaks(
        "echo 'ttl: 3' > .simpletuner/live.yaml",
        "settings",
        "is newer than",
    );
    // It was asked for.
    patient.sh("simpletuner-live reload");
    patient.check("processes").is("ok", "keeper");
    let live = patient.home.live("");
    let server = patient.home.server(&live);
    signal("KILL", server);
    wait_until("another server answers", || {
        std::fs::read(patient.home.live("status")).is_ok() && patient.home.server(&live) != server
    });
    patient
        .check("processes")
        .is("warning", "in the last day; the last one ended at");
    patient.home.kill(&live);
    patient.breaks("true", "mount", "is dead");

    let status = std::fs::read(patient.home.live("status")).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
    for pid in pids {
        signal("STOP", pid);
    }
    let found = patient.check("mount");
    let fix = found.finding("is stopped")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    patient.sh(&fix);
    wait_until("it goes on", || patient.check("mount").status() == "ok");
    patient.sh("simpletuner-live umount");
}

#[test]
fn patterns_without_a_secret_and_users_who_do_not_exist_are_found() {
    let patient = Patient::healthy();
    let view = "simpletuner-live view create trainer --secret";
    patient.sh(&format!("echo {VALUE} | simpletuner-live set HF_TOKEN"));
    patient.sh(&format!("simpletuner-live mount && {view} 'HF_*'"));
    patient.check("views").is("ok", "1 view; each pattern");
    patient.sh(
        r#"echo '{"t": {"secrets": ["WANDB_*"], "files": {"token": "NO_TOKEN"}, "user": "nosuch"}}' > .simpletuner/views.json"#,
    );
    let found = patient.check("views");
    for missing in ["WANDB_*", "NO_TOKEN"] {
        let finding = found.finding(&format!("no secret for {missing}"));
        patient.sh(&format!(
            "echo {VALUE} | {}",
            finding["fix"].as_str().unwrap()
        ));
    }
    let finding = found.finding("the user nosuch, who does not exist");
    assert_eq!(finding["fix"], "sudo useradd --system nosuch");
    let found = patient.check("views");
    assert!(!found.says("no secret for"), "{}", found.0);
    patient.sh("simpletuner-live umount; echo '{' > .simpletuner/views.json");
    patient
        .check("views")
        .is("failed", "views.json: it must be a JSON object");
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
fn a_trail_that_was_changed_and_errors_in_the_log_are_found() {
    let patient = Patient::healthy();
    patient.sh(&format!(
        "echo {VALUE} | simpletuner-live set A; echo {VALUE} | simpletuner-live set B"
    ));
    patient.check("audit").is("ok", "whole: ");
    patient.sh(
        "python3 -c 'import sqlite3; c = sqlite3.connect(\".simpletuner/audit.db\"); \
         c.execute(\"update audit_log set action = 1 where id = 1\"); c.commit()'",
    );
    let found = patient.check("audit");
    found.is("failed", "is broken at row 1");
    assert_eq!(
        found.finding("broken")["fix"],
        "simpletuner-live audit verify"
    );
    patient.sh("mv .simpletuner/audit.key kept");
    patient.check("audit").is("failed", "audit.key");

    patient.sh("echo \"$(date -u +%FT%TZ) error: the disk is full\" > .simpletuner/live.log; chmod 600 .simpletuner/live.log");
    let found = patient.check("log");
    found.is("warning", "1 error of the last day");
    let fix = found.finding("1 error")["fix"].as_str().unwrap().to_owned();
    assert!(patient.sh(&fix).contains("the disk is full"));
}

#[test]
fn a_unit_that_nothing_starts_or_whose_program_is_gone_is_found() {
    let patient = Patient::healthy();
    let found = patient.check("service");
    if found.status() != "skipped" {
        eprintln!("skipped: this machine has a service of its own");
        return;
    }
    let fix = found.finding("no unit is installed")["fix"].clone();
    patient.sh("install -m 755 \"$(readlink -f bin/simpletuner-live)\" program; mv bin/simpletuner-live kept; ln -s ../program bin/simpletuner-live");
    patient.sh(fix.as_str().unwrap());
    let found = patient.check("service");
    let fix = found.finding("is not enabled")["fix"].clone();
    assert_eq!(
        fix,
        "systemctl --user enable --now simpletuner-live.service"
    );
    // What that command does; there may be no service manager here.
    let wants = ".config/systemd/user/default.target.wants";
    patient.sh(&format!(
        "mkdir -p {wants}; ln -s ../simpletuner-live.service {wants}/"
    ));
    patient
        .check("service")
        .is(if is_root() { "ok" } else { "warning" }, "is enabled");
    patient.sh("rm program bin/simpletuner-live; mv kept bin/simpletuner-live");
    let found = patient.check("service");
    let fix = found.finding("which is not there")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    patient.sh(fix.split(" && ").next().unwrap());
    assert!(!patient.check("service").says("which is not there"));
}

#[test]
fn a_socket_that_nobody_answers_is_found() {
    let patient = Patient::healthy();
    patient.sh("printf 'docker: true\\ndocker_socket: ~/docker.sock\\n' > .simpletuner/live.yaml; simpletuner-live mount");
    patient.check("sockets").is("ok", "docker.sock");
    patient.breaks("rm docker.sock", "sockets", "is gone");
    patient.sh("simpletuner-live umount");
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
