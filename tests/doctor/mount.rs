//! The mount, its processes, sources, log, sockets, views and service.

use super::*;
use support::home::{is_root, signal};
use support::wait_until;

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
    // It says why the server ended; nothing takes back that it did.
    let found = patient.check("processes");
    found.is("warning", "in the last day; the last one ended at");
    let fix = found.finding("in the last day")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(patient.sh(&fix).contains("SIGKILL"), "{fix}");
    patient.home.kill(&live);
    patient.breaks("true", "mount", "is dead");

    let status = std::fs::read(patient.home.live("status")).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
    for pid in pids {
        signal("STOP", pid);
    }
    let found = patient.check("mount");
    let words = [
        "its processes ",
        " and ",
        " are stopped (by SIGSTOP, or by a debugger)",
    ];
    let finding = found.finding(words[0]);
    let message = finding["message"].as_str().unwrap();
    assert!(
        words.iter().all(|words| message.contains(words)),
        "{message}"
    );
    let fix = finding["fix"].as_str().unwrap().to_owned();
    patient.sh(&fix);
    wait_until("it goes on", || patient.check("mount").status() == "ok");
    let [keeper, server] = ["keeper_pid", "server_pid"].map(|field| {
        let status: Value =
            serde_json::from_slice(&std::fs::read(patient.home.live("status")).unwrap()).unwrap();
        status[field].as_u64().unwrap() as u32
    });
    // The mount answers without its keeper.
    signal("STOP", keeper);
    wait_until("it is stopped", || {
        patient.check("processes").says("the keeper, process")
    });
    patient.mends("processes", "the keeper, process", str::to_owned);
    assert_ne!(keeper, server);
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
    found.is("failed", "the user nosuch, who does not exist");
    let found = patient.check("views");
    assert!(!found.says("no secret for"), "{}", found.0);
    patient.sh("simpletuner-live umount; echo '{' > .simpletuner/views.json");
    patient
        .check("views")
        .is("failed", "views.json: it must be a JSON object");
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
    patient.sh(&format!(
        "{} --allow-root '/run/a b'",
        fix.as_str().unwrap()
    ));
    let found = patient.check("service");
    let fix = found.finding("is not enabled")["fix"].clone();
    assert_eq!(
        fix,
        "systemctl --user enable --now simpletuner-live.service"
    );
    // There is no service manager here: `enable` links the unit, and says that `--now` cannot be done.
    patient.sh(&format!(
        "SYSTEMD_OFFLINE=1 {}; true",
        fix.as_str().unwrap()
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
    patient.sh(&format!("export SYSTEMD_OFFLINE=1; {fix}"));
    assert!(!patient.check("service").says("which is not there"));
    let unit = patient.sh("cat .config/systemd/user/simpletuner-live.service");
    assert!(
        unit.contains("mount --foreground --allow-root \"/run/a b\"\n"),
        "{unit}"
    );
}

#[test]
fn a_socket_that_nobody_answers_is_found() {
    let patient = Patient::healthy();
    patient.sh("printf 'docker: true\\ndocker_socket: ~/docker.sock\\n' > .simpletuner/live.yaml; simpletuner-live mount");
    patient.check("sockets").is("ok", "docker.sock");
    patient.breaks("rm docker.sock", "sockets", "is gone");
    // A file is where the socket is to be, and where its folder is to be.
    for place in ["a file", "a file/docker.sock"] {
        patient.sh(&format!("touch 'a file'; printf 'docker: true\\ndocker_socket: ~/{place}\\n' > .simpletuner/live.yaml
            simpletuner-live reload"));
        let after = patient.mends(
            "sockets",
            "container engines are not answered",
            str::to_owned,
        );
        assert_eq!(after.status(), "ok", "{}", after.0);
    }
    patient.sh("simpletuner-live umount; echo 'docker: false' > .simpletuner/live.yaml; simpletuner-live mount");
    patient.sh("printf 'docker: true\\ndocker_socket: ~/docker.sock\\n' > .simpletuner/live.yaml");
    patient.breaks("true", "sockets", "the mount has not taken it over");
    patient.sh("simpletuner-live umount");
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
    patient.sh("mv .simpletuner/audit.key kept");
    patient.check("audit").is("failed", "audit.key");

    patient.sh("echo \"$(date -u +%FT%TZ) error: the disk is full\" > .simpletuner/live.log; chmod 600 .simpletuner/live.log");
    let found = patient.check("log");
    found.is("warning", "1 error of the last day");
    let fix = found.finding("1 error")["fix"].as_str().unwrap().to_owned();
    assert!(patient.sh(&fix).contains("the disk is full"));
}

#[test]
fn what_else_is_at_the_mount_point_is_named_and_taken_away() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    patient.sh("mkdir -m 700 .simpletuner/live; mount -t tmpfs none .simpletuner/live");
    let after = patient.mends("mount", "is a tmpfs mount", str::to_owned);
    assert_eq!(after.status(), "ok", "{}", after.0);
    patient.sh("simpletuner-live umount");
    // Another user's, in a folder of that user's.
    patient.sh("chmod 755 . .simpletuner; chown nobody .simpletuner/live; mkdir his; chown nobody his; install -m 755 \"$(readlink -f bin/simpletuner-live)\" his
        HOME=$PWD/his setpriv --reuid nobody --clear-groups his/simpletuner-live mount $PWD/.simpletuner/live");
    let after = patient.mends("mount", "belongs to another user (nobody)", |fix| {
        fix.replace("&&", "&& chown root: .simpletuner/live &&")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
    patient.sh("simpletuner-live umount; rmdir .simpletuner/live; chmod 700 .simpletuner");
    // Where the views are to be.
    patient
        .sh("mkdir -m 700 .simpletuner/views; touch .simpletuner/views/x; simpletuner-live mount");
    patient.sh("echo '{\"v\": {\"secrets\": [\"A\"]}}' > .simpletuner/views.json; chmod 600 .simpletuner/views.json
        echo v | simpletuner-live set A");
    wait_until("the mount says so", || {
        patient
            .check("views")
            .says("the views are not as they are defined")
    });
    let found = patient.check("views");
    let fix = found.finding("the views are not as")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    patient.sh(&fix);
    wait_until("the views are mounted", || {
        patient.check("views").status() == "ok"
    });
    patient.sh("simpletuner-live umount");
}

#[test]
fn a_mount_elsewhere_is_checked_where_one_says_and_its_commands_have_its_path() {
    let patient = Patient::healthy();
    patient.sh("simpletuner-live mount 'an other'");
    let doctor = || {
        Report::of(ran(patient
            .command(BINARY)
            .args(["doctor", "--json", "an other"])))
    };
    let report = doctor();
    report.check("mount").is("ok", "an other answers");
    report.check("processes").is("ok", "keeper");
    patient.sh("echo 'ttl: 3' > .simpletuner/live.yaml");
    let place = format!("'{}'", patient.home.path("an other").display());
    let mends = |id: &str, words: &str, command: &str| {
        let fix = doctor().check(id).finding(words)["fix"].clone();
        assert_eq!(fix, format!("simpletuner-live {command} {place}"));
        patient.sh(fix.as_str().unwrap());
        assert!(!doctor().check(id).says(words));
    };
    mends("settings", "is newer than", "reload");
    patient.home.kill(&patient.home.path("an other"));
    mends("mount", "is dead", "mount");
    patient.sh("simpletuner-live umount 'an other'");
}

#[test]
fn a_write_that_failed_is_written_again() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    patient.sh("simpletuner-live mount; echo v > .simpletuner/live/secrets/A");
    // The secrets file becomes immutable while the writer has the file open.
    patient.sh(
        "exec 3> .simpletuner/live/secrets/A; echo w >&3; chattr +i .simpletuner/secrets.json; exec 3>&-; chattr -i .simpletuner/secrets.json",
    );
    let after = patient.mends("processes", "none has succeeded since", |fix| {
        assert_eq!(fix, "simpletuner-live set A");
        format!("echo w | {fix}")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
    // An immutable file, which root cannot write either.
    patient.breaks(
        "chattr +i .simpletuner/secrets.json",
        "files",
        "it is immutable",
    );
    patient.breaks(
        "chattr +i .simpletuner/secrets.json",
        "store",
        "no secret can be written",
    );
    patient.sh("simpletuner-live umount");
}
