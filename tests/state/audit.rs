//! The audit trails, written by the mount and the commands, and verified by SimpleTuner's own algorithm.

use super::audit_rows::*;
use super::*;
use simpletuner_live::audit::{Actor, AuditEvent, AuditOptions, AuditTrail};

#[test]
fn changes_in_the_mount_are_recorded_in_simpletuners_trail_and_simpletuner_can_verify_it() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo hunter2 > secrets/A; mv secrets/A secrets/B; rm secrets/B; echo hunter2 > secrets/.s; mv secrets/.s secrets/C");
    live.sh("jq '. + {D: \"hunter2\"} | del(.C)' bundle/secrets.json > bundle/.n; mv bundle/.n bundle/secrets.json");
    live.python(
        "import json
d = json.load(open('bundle/secrets.json')); d['E'] = 'hunter2'; d.pop('C', None)
json.dump(d, open('bundle/secrets.json', 'w'))",
    );
    live.sh("jq '.webhook_secret = \"hunter3\" | del(.cost_limit_amount)' config/replicate.json > config/.n; mv config/.n config/replicate.json");
    live.sh("mv config/replicate.json config/other.json; rm config/other.json");
    let home = live.stop();
    let rows = rows(home.path(), "audit.db");
    assert_eq!(
        actions(&rows),
        [
            "Provider replicate configured",
            "Secret A set",
            "Secret A renamed to B",
            "Secret B deleted",
            "Secret C set",
            "Secret D set",
            "Secret E set",
            "Secret C deleted",
            "Provider replicate configured",
            "Configuration of provider replicate renamed to other",
            "Configuration of provider other deleted",
        ]
    );
    let user = me(home.path());
    for row in &rows[1..] {
        assert_eq!(row["actor_id"], Value::Null);
        assert_eq!(row["actor_username"], format!("unix:{user}"));
        assert_eq!(row["details"]["user"], user);
        assert!(row["details"]["pid"].as_u64().unwrap() > 1);
    }
    let event = |at: usize, field: &str| rows[at][field].as_str().unwrap().to_owned();
    assert_eq!(event(1, "event_type"), "credential.created");
    assert_eq!(event(3, "event_type"), "credential.deleted");
    assert_eq!(event(8, "event_type"), "provider.configured");
    assert_eq!(rows[1]["details"]["program"], "bash");
    assert_eq!(rows[2]["details"]["program"], "mv");
    assert_eq!(rows[8]["target_id"], "replicate");
    assert_eq!(rows[8]["details"]["keys"], json!(["webhook_secret"]));
    assert_eq!(rows[8]["details"]["removed"], json!(["cost_limit_amount"]));
    // And the row about the other trail.
    assert_eq!(checked_by_simpletuner(home.path(), "audit.db"), "12");
    let log = fs::read_to_string(home.path().join("daemon.log")).unwrap();
    assert!(!log.contains("hunter"), "{log}");
    for file in fs::read_dir(home.path().join(".simpletuner"))
        .unwrap()
        .flatten()
    {
        if file.file_name().to_string_lossy().contains("audit") {
            let bytes = fs::read(file.path()).unwrap();
            assert!(
                !bytes.windows(6).any(|window| window == b"hunter"),
                "{file:?}"
            );
        }
    }
}

#[test]
fn reads_by_one_process_within_a_second_become_one_row_and_unmounting_loses_none() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A; echo w > secrets/B");
    let pid = live.python(
        "import os, threading
def read():
    for _ in range(20): open('secrets/A').read()
threads = [threading.Thread(target=read) for _ in range(3)]
for t in threads: t.start()
for t in threads: t.join()
open('secrets/B').read(); open('bundle/secrets.env').read()
print(os.getpid())",
    );
    live.sh("cat secrets/B; cat secrets/B; cat bundle/secrets.json > /dev/null");
    live.sh("exec 3<> secrets/A; read -r x <&3; [ $x = v ]");
    let home = live.stop();
    let pid: u64 = pid.trim().parse().unwrap();
    let by_python = |row: &&Value| row["details"]["pid"] == pid;
    let of_a = reads(home.path(), "A");
    let of_python: Vec<_> = of_a.iter().filter(by_python).cloned().collect();
    assert_eq!((of_python.len(), count(&of_python)), (1, 60), "{of_a:#?}");
    let row = &of_python[0];
    assert_eq!(row["event_type"], "credential.used");
    assert_eq!(row["actor_username"], format!("unix:{}", me(home.path())));
    assert_eq!(row["details"]["file"], "secrets/A");
    assert_eq!(row["details"]["program"], "python3");
    assert_eq!(row["details"]["uid"], rustix::process::geteuid().as_raw());
    assert_eq!(
        count(&of_a),
        61,
        "a file that is opened for reading and writing counts as read"
    );
    let of_b = reads(home.path(), "B");
    assert_eq!((of_b.len(), count(&of_b)), (3, 3));
    let of_all = reads(home.path(), "*");
    let files: Vec<_> = of_all.iter().map(|row| &row["details"]["file"]).collect();
    assert_eq!(files, ["bundle/secrets.env", "bundle/secrets.json"]);
    assert_eq!(checked_by_simpletuner(home.path(), READS), "8");
}

#[test]
fn reads_are_recorded_only_if_the_setting_is_on() {
    let _alone = alone();
    let home = home_of_simpletuner();
    fs::write(
        home.path().join(".simpletuner/live.yaml"),
        "audit_reads: false",
    )
    .unwrap();
    let live = mounted(home);
    live.sh("echo v > secrets/A; cat secrets/A bundle/secrets.json");
    let home = live.stop();
    assert!(!home.path().join(".simpletuner/live-audit.db").exists());
    assert_eq!(
        actions(&rows(home.path(), "audit.db")).last().unwrap(),
        "Secret A set"
    );
}

#[test]
fn an_upgrade_loses_no_row() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A");
    let reader = live
        .command("python3")
        .args([
            "-c",
            "import os
n = 0
while not os.path.exists('../stop'):
    open('secrets/A').read(); n += 1
    if n == 100: open('../begun', 'w').close()
print(os.getpid(), n)",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the reader has begun", || {
        live.home(".simpletuner/begun").exists()
    });
    for _ in 0..3 {
        let server = live.server_pid();
        ran(live.cli().arg("upgrade")).done();
        assert_ne!(live.server_pid(), server);
        live.sh("echo w > secrets/B");
    }
    fs::write(live.home(".simpletuner/stop"), "").unwrap();
    let output = reader.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let (pid, read) = output.trim().split_once(' ').unwrap();
    let home = live.stop();
    let mut of_reader = reads(home.path(), "A");
    let pid: u64 = pid.parse().unwrap();
    of_reader.retain(|row| row["details"]["pid"] == pid);
    assert_eq!(count(&of_reader).to_string(), read);
    let sets = actions(&rows(home.path(), "audit.db"));
    assert_eq!(
        sets.iter()
            .filter(|action| *action == "Secret B set")
            .count(),
        3
    );
    checked_by_simpletuner(home.path(), READS);
}

#[test]
fn two_programs_that_write_500_rows_at_once_make_one_chain() {
    let home = home_of_simpletuner();
    let theirs = "a = audit()
for n in range(250): append(a, 'config.changed', f'Change {n}', n, json.dumps({'n': n}))";
    let mut other = python_in(home.path(), theirs).spawn().unwrap();
    let options = AuditOptions {
        state_dir: home.path().join(".simpletuner"),
        key: None,
        reads: true,
        keep_days: None,
        anchor_interval: std::time::Duration::from_secs(60),
    };
    let trail = AuditTrail::new(&options);
    let key = options.signing_key_source().key_or_create().unwrap();
    for n in 0..250 {
        let name = simpletuner_live::secret::SecretName::new(&format!("K{n}")).unwrap();
        trail.record(Actor::this_process(), AuditEvent::SecretSet(name));
        // One row per transaction, as if the program recorded now and then.
        assert!(trail.flush(std::time::Duration::from_secs(60)));
        // The other program appends meanwhile.
        let verified = options.change_chain().verify(&key).unwrap();
        assert!(verified.broken.is_none(), "{verified:?}");
    }
    assert!(other.wait().unwrap().success());
    assert_eq!(checked_by_simpletuner(home.path(), "audit.db"), "501");
    let rows = rows(home.path(), "audit.db");
    let ours = rows
        .iter()
        .filter(|row| row["event_type"] == "credential.created");
    assert_eq!(ours.count(), 250);
    let home = Home(home);
    let verified = home.run(&["audit", "verify"]).done();
    assert!(verified.contains("audit.db: 501 rows, whole"), "{verified}");
}

#[test]
fn tail_shows_both_trails_by_time_and_follows_them() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A; cat secrets/A; echo '{\"k\": 1}' > config/runpod.json");
    wait_until("every row is written", || {
        !reads(live.home.path(), "A").is_empty() && rows(live.home.path(), "audit.db").len() == 3
    });
    let shown = ran(live.cli().args(["audit", "tail"])).done();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 4, "{shown}");
    for (line, words) in lines.iter().zip([
        "admin (not signed)  Provider replicate configured",
        "Secret A set",
        "Secret A read, secrets/A",
        "Provider runpod configured, set: k",
    ]) {
        assert!(line.ends_with(words), "{shown}");
    }
    assert!(
        lines[2].contains(&format!("unix:{}  cat[", me(live.home.path()))),
        "{shown}"
    );
    assert_eq!(
        ran(live.cli().args(["audit", "tail", "-n", "2"]))
            .done()
            .lines()
            .count(),
        2
    );
    let mut following = live
        .cli()
        .args(["audit", "tail", "-f", "-n", "0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(following.stdout.take().unwrap());
    // Sets secrets until one is shown, because `tail` may start after the first.
    let setting = live
        .command("bash")
        .args([
            "-c",
            "for ((n = 0; ; n++)); do echo v > secrets/T$n; sleep 0.1; done",
        ])
        .spawn();
    let mut setting = setting.unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let row: Value = serde_json::from_str(&line).unwrap();
    assert!(row["target"].as_str().unwrap().starts_with('T'), "{line}");
    // `tail` exits when the reader of its output does.
    drop(output);
    wait_until("tail exits", || following.try_wait().unwrap().is_some());
    assert!(following.wait().unwrap().success());
    setting.kill().unwrap();
    setting.wait().unwrap();
}

#[test]
fn commands_without_a_mount_are_recorded_too() {
    let home = Home(support::scratch_home());
    home.run_with("v", &["set", "A"]).done();
    assert_eq!(home.run(&["get", "A"]).done(), "v");
    home.run(&["rm", "A"]).done();
    assert_eq!(home.run(&["get", "A"]).code, 4);
    let path = home.0.path();
    assert_eq!(
        actions(&rows(path, "audit.db")),
        ["Secret A set", "Secret A deleted"]
    );
    assert_eq!(count(&reads(path, "A")), 1);
    let verified = home.run(&["audit", "verify"]).done();
    assert_eq!(verified.matches("whole").count(), 2, "{verified}");
    assert_eq!(
        home.run(&["audit", "prune", "--keep-days", "1"]).done(),
        "0 rows removed\n"
    );
    assert_eq!(home.run(&["audit", "prune", "--keep-days", "0"]).code, 2);
}

#[test]
fn old_reads_are_removed_by_a_command_and_by_the_setting() {
    let _alone = alone();
    let home = home_of_simpletuner();
    let old = "a = audit(os.path.join(STATE, 'live-audit.db'))
real = now
now = lambda: '2020-01-02T03:04:05.678901+00:00'
for n in range(7): append(a, 'credential.used', f'Secret K{n} read')
now = real
append(a, 'credential.used', 'Secret YOUNG read')";
    simpletuner(home.path(), old);
    let mut home = Home(home);
    assert_eq!(
        home.run(&["audit", "prune", "--keep-days", "30"]).done(),
        "7 rows removed\n"
    );
    let verified = home.run(&["audit", "verify"]).done();
    assert!(
        verified.contains("2 rows (7 older ones were removed), whole"),
        "{verified}"
    );
    let (again, rest) = (
        home.path(".simpletuner/live-audit.db"),
        home.path(".simpletuner/live.yaml"),
    );
    fs::remove_file(again).unwrap();
    simpletuner(home.0.path(), old);
    fs::write(rest, "audit_keep_days: 30").unwrap();
    let live = mounted(std::mem::replace(&mut home.0, support::scratch_home()));
    live.sh("echo v > secrets/A; cat secrets/A");
    wait_until("the old rows are removed", || {
        let left = actions(&rows(live.home.path(), READS));
        left.first()
            .is_some_and(|first| first == "Secret YOUNG read")
    });
    let verified = ran(live.cli().args(["audit", "verify"])).done();
    assert!(
        verified.contains("(7 older ones were removed), whole"),
        "{verified}"
    );
}

#[test]
fn a_signing_key_that_others_can_read_causes_a_warning_with_the_command_that_fixes_it() {
    let home = home_of_simpletuner();
    let key = home.path().join(".simpletuner/audit.key");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&key, mode).unwrap();
    let before = fs::read(&key).unwrap();
    let home = Home(home);
    let set = home.run_with("v", &["set", "A"]);
    assert!(
        set.err.contains(&format!("chmod 600 {}", key.display())),
        "{}",
        set.err
    );
    set.done();
    assert_eq!(fs::read(&key).unwrap(), before);
    checked_by_simpletuner(home.0.path(), "audit.db");
}

#[test]
fn an_environment_variable_can_set_the_signing_key() {
    let home = Home(support::scratch_home());
    let mut set = home.command(support::home::BINARY);
    set.args(["set", "A", "v"])
        .env("SIMPLETUNER_AUDIT_KEY", "a key of the test");
    ran(&mut set).done();
    assert!(!home.path(".simpletuner/audit.key").exists());
    let mut check = python_in(home.0.path(), "print(verify(audit()))");
    check.env("SIMPLETUNER_AUDIT_KEY", "a key of the test");
    assert_eq!(ran(&mut check).done(), "1\n");
    let failed = home.run(&["audit", "verify"]);
    assert!(
        failed.err.contains("SIMPLETUNER_AUDIT_KEY"),
        "{}",
        failed.err
    );
    assert_eq!(failed.code, 1);
}

#[test]
fn a_hash_from_the_log_shows_a_trail_that_was_signed_anew() {
    let _alone = alone();
    let home = Home(home_of_simpletuner());
    let mount = || {
        home.run(&["mount"]).done();
        home.sh(&format!(
            "echo v > {0}; cat {0}",
            home.live("secrets/A").display()
        ));
        home.run(&["umount"]).done();
    };
    mount();
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    let logged = log
        .lines()
        .filter_map(|line| line.split_once("whose hash is "));
    let logged: Vec<&str> = logged.map(|(_, hash)| hash).collect();
    assert_eq!(logged.len(), 2, "{log}");
    let both = ["audit", "verify", "--hash", logged[0], "--hash", logged[1]];
    let said = home.run(&both).done();
    for hash in &logged {
        assert!(said.contains(&format!("has the hash {hash}")), "{said}");
    }
    // By one who has the key: each trail is whole, and they name each other.
    home.sh("rm .simpletuner/audit.db* .simpletuner/live-audit.db*");
    mount();
    home.run(&["audit", "verify"]).done();
    let said = home.run(&both);
    assert_eq!(said.code, 1, "{}", said.out);
    let why = format!("no row of either trail has the hash {}", logged[0]);
    assert!(said.err.contains(&why), "{}", said.err);
    assert_eq!(home.run(&["audit", "verify", "--hash", "6f3a"]).code, 2);
}
