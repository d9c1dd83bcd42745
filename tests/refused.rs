//! What cannot be written is told at the open, with the errno of the reason, the reason in the log, and the last failed write
//! in `status`. bash's `echo` does not look at what close(2) returns, so bash writes here.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::home::is_root;
use support::user::{LIVE, User};
use support::{Live, Setup, alone, wait_until};

/// What bash says of each way to write K, L (which does not exist) and the bundle.
const WAYS: [&str; 5] = [
    "echo hidden > secrets/K",
    "echo hidden >> secrets/K",
    "echo hidden > secrets/L",
    "echo hidden 1<> secrets/K",
    "echo '{}' > bundle/secrets.json",
];

fn log(live: &Live) -> String {
    fs::read_to_string(live.home("daemon.log")).unwrap()
}

/// What the log says of the writes of this file that failed.
fn reasons(live: &Live, name: &str) -> Vec<String> {
    let with_name = format!(": {name}: ");
    let log = log(live);
    let reasons = log.lines().filter_map(|line| line.split_once(&with_name));
    reasons.map(|(_, reason)| reason.to_owned()).collect()
}

/// Each way to write fails with an error that bash prints, and changes nothing. `status` names the last.
#[track_caller]
fn is_refused(live: &Live, store: &Path, says: &str) {
    let before = fs::read(store).ok();
    for way in WAYS {
        let output = live.try_sh(way);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{way}: {said}");
        assert!(!output.status.success(), "{way}");
    }
    assert_eq!(fs::read(store).ok(), before);
    let failed = &live.json("status")["failed_write"];
    assert_eq!(failed["file"], "bundle/secrets.json", "{failed}");
    assert!(failed["at"].is_string() && failed["reason"].is_string());
    assert_eq!(live.json("providers/file")["failed_write"], *failed);
    for name in ["K", "L", "secrets.json"] {
        wait_until("the log has the reason", || !reasons(live, name).is_empty());
        let mut reasons = reasons(live, name);
        let all = reasons.len();
        reasons.sort();
        reasons.dedup();
        assert_eq!(reasons.len(), all, "logged twice: {}", log(live));
    }
    let said = live.cli().arg("status").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("failed write file"), "{said}");
    assert!(said.contains("bundle/secrets.json"), "{said}");
    assert!(!log(live).contains("hidden"), "{}", log(live));
}

/// The store can be written again, and nothing of the failure is left.
#[track_caller]
fn is_written(live: &Live) {
    live.sh("echo new > secrets/K; [ $(cat secrets/K) = new ]");
    assert_eq!(live.json("status")["failed_write"], Value::Null);
    let report = live.json("providers/file");
    assert_eq!(report["failed_write"], Value::Null, "{report}");
    assert_eq!(report["last_error"], Value::Null, "{report}");
    assert_eq!(report["last_error_at"], Value::Null, "{report}");
}

fn store_of(live: &Live) -> PathBuf {
    live.home(".simpletuner/secrets.json")
}

#[test]
fn bash_prints_that_the_store_is_malformed() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "old");
    let good = fs::read(store_of(&live)).unwrap();
    fs::write(store_of(&live), "{\"K\": \"ha").unwrap();
    is_refused(&live, &store_of(&live), "Input/output error");
    let reason = live.json("status")["failed_write"]["reason"].to_string();
    assert!(reason.contains("malformed"), "{reason}");
    fs::write(store_of(&live), good).unwrap();
    is_written(&live);
}

/// A small filesystem in memory, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let small = Self(at);
        small.run(&["mount", "-t", "tmpfs", "-o", options, "tmpfs"]);
        fs::set_permissions(&small.0, PermissionsExt::from_mode(0o700)).unwrap();
        small
    }

    fn run(&self, command: &[&str]) {
        let mut run = Command::new(command[0]);
        assert!(
            run.args(&command[1..])
                .arg(&self.0)
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A mount whose store lies on this filesystem.
fn over(home: tempfile::TempDir, store: &Path) -> Live {
    fs::create_dir_all(home.path().join(".simpletuner")).unwrap();
    let settings = format!("file_path: {}\n", store.display());
    fs::write(home.path().join(".simpletuner/live.yaml"), settings).unwrap();
    Live::start_in(home, Setup::default())
}

#[test]
fn bash_prints_that_the_filesystem_is_read_only() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = support::scratch_home();
    let small = Small::mount(home.path().join("small"), "size=1m");
    let store = small.0.join("secrets.json");
    fs::write(&store, "{\"K\": \"old\"}").unwrap();
    small.run(&["mount", "-o", "remount,ro"]);
    let live = over(home, &store);
    is_refused(&live, &store, "Read-only file system");
    let reason = live.json("status")["failed_write"]["reason"].to_string();
    assert!(reason.contains("secrets.json"), "{reason}");
    small.run(&["mount", "-o", "remount,rw"]);
    is_written(&live);
}

#[test]
fn bash_prints_that_the_disk_is_full() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = support::scratch_home();
    let small = Small::mount(home.path().join("small"), "size=256k");
    let store = small.0.join("secrets.json");
    let large = "x".repeat(60_000);
    fs::write(&store, json!({"K": "old", "LARGE": large}).to_string()).unwrap();
    let live = over(home, &store);
    live.write("secrets/K", "old");
    let fill = format!(
        "head -c 1m /dev/zero > {} 2> /dev/null; :",
        small.0.join("filler").display()
    );
    live.sh(&fill);
    is_refused(&live, &store, "No space left on device");
    fs::remove_file(small.0.join("filler")).unwrap();
    is_written(&live);
}

#[test]
fn bash_prints_that_the_disk_has_no_room_for_the_earlier_values() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = support::scratch_home();
    let small = Small::mount(home.path().join("small"), "size=1m");
    let store = small.0.join("secrets.json");
    let live = over(home, &store);
    live.write("secrets/K", "old");
    // Large values before, small ones now: there is room for a copy of the file, and none for both.
    for n in 0..6 {
        live.write(&format!("secrets/LARGE{n}"), &"x".repeat(40_000));
        live.write(&format!("secrets/LARGE{n}"), "small");
    }
    let kept = fs::metadata(small.0.join("secrets.json.previous")).unwrap();
    assert!(kept.len() > 300_000 && fs::metadata(&store).unwrap().len() < 10_000);
    live.sh(&format!(
        "cd {}; head -c $(($(df --output=avail -B1 . | tail -1) - 100000)) /dev/zero > filler",
        small.0.display()
    ));
    is_refused(&live, &store, "No space left on device");
    fs::remove_file(small.0.join("filler")).unwrap();
    is_written(&live);
}

#[test]
fn bash_prints_that_the_key_cannot_be_used() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "old");
    let key = live.home(".simpletuner/credential.key");
    let good = fs::read(&key).unwrap();
    fs::write(&key, "").unwrap();
    is_refused(&live, &store_of(&live), "Key was rejected by service");
    // A new key would not decrypt what the store has.
    fs::remove_file(&key).unwrap();
    is_refused(&live, &store_of(&live), "Key was rejected by service");
    assert!(!key.exists());
    fs::write(&key, good).unwrap();
    is_written(&live);
}

/// An ordinary user, who may write everything, sees that nothing can be written while this file has another mode.
fn is_refused_with_mode(mode: &str, file: &str, good: &str) {
    if !is_root() {
        return;
    }
    let nobody = User::new("nobody");
    nobody.run(&["mount"]).done();
    nobody.sh(&format!("echo old > {LIVE}/secrets/K; chmod {mode} {file}"));
    for name in ["K", "L"] {
        let said = nobody.try_sh(&format!("echo new > {LIVE}/secrets/{name}"));
        assert!(said.err.contains("Permission denied"), "{}", said.err);
        assert_ne!(said.code, 0);
    }
    let status: Value = serde_json::from_str(&nobody.sh(&format!("cat {LIVE}/status"))).unwrap();
    assert_eq!(status["failed_write"]["file"], "secrets/L");
    nobody.sh(&format!(
        "chmod {good} {file}; echo new > {LIVE}/secrets/K; [ $(cat {LIVE}/secrets/K) = new ]"
    ));
    nobody.run(&["umount"]).done();
}

#[test]
fn bash_prints_that_an_ordinary_users_folder_may_not_be_written() {
    is_refused_with_mode("500", ".simpletuner", "700");
}

#[test]
fn bash_prints_that_the_earlier_values_cannot_be_read() {
    is_refused_with_mode("0", ".simpletuner/secrets.json.previous", "600");
}

#[test]
fn a_key_more_than_the_file_may_have_is_refused_at_the_open() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        files: vec![
            (".simpletuner/secrets.json", "{\"K\": \"1\", \"K2\": \"2\"}"),
            (".simpletuner/live.yaml", "max_keys: 2\n"),
        ],
        ..Setup::default()
    });
    let output = live.try_sh("echo new > secrets/L");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("No space left"), "{said}");
    let reason = live.json("status")["failed_write"]["reason"].to_string();
    assert!(reason.contains("max_keys"), "{reason}");
    is_written(&live);
}

/// Only its content shows that a document is wrong, so the close says it, and `status` does.
#[test]
fn status_names_a_write_that_only_the_close_refused() {
    let _alone = alone();
    let live = Live::start();
    let output = live.try_sh("echo '{\"K\": hidden-value' > bundle/secrets.json");
    // bash does not see it.
    assert!(output.status.success());
    let failed = live.json("status")["failed_write"].clone();
    assert_eq!(failed["file"], "bundle/secrets.json", "{failed}");
    assert!(!failed.to_string().contains("hidden"), "{failed}");
    let output = live.try_sh("head -c 70000 /dev/zero > secrets/K");
    assert!(!output.status.success());
    let failed = live.json("status")["failed_write"].clone();
    assert_eq!(failed["file"], "secrets/K", "{failed}");
    let large = log(&live);
    let large = large.lines().filter(|line| line.contains("65536"));
    assert_eq!(large.count(), 1, "{}", log(&live));
    is_written(&live);
}

#[test]
fn what_would_be_wrong_at_any_time_is_no_write_that_failed() {
    let _alone = alone();
    let live = Live::start();
    for script in [
        "rm -f status",
        "rm -f bundle/secrets.json",
        "mv -T events status",
    ] {
        let output = live.try_sh(script);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("not permitted"), "{script}: {said}");
        assert_eq!(live.json("status")["failed_write"], Value::Null, "{script}");
    }
}

#[test]
fn scratch_files_prices_and_control_files_need_no_disk() {
    let _alone = alone();
    let live = Live::start();
    fs::write(store_of(&live), "{").unwrap();
    live.sh("echo x > secrets/.scratch; echo > cache/clear
         echo '{\"name\": \"X\", \"cost_per_second\": 1}' > hardware/x.json; cat hardware/x.json");
    let output = live.try_sh("mv secrets/.scratch secrets/K");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Input/output error"), "{said}");
    assert_eq!(live.json("status")["failed_write"]["file"], "secrets/K");
}

#[test]
fn bash_prints_that_simpletuners_database_cannot_be_written() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = support::scratch_home();
    let small = Small::mount(home.path().join(".simpletuner/cloud"), "size=1m");
    let live = Live::start_in(home, Setup::default());
    live.sh("echo '{\"a\": 1}' > config/replicate.json");
    let home = live.stop();
    small.run(&["mount", "-o", "remount,ro"]);
    let live = Live::start_in(home, Setup::default());
    for name in ["replicate", "new"] {
        let output = live.try_sh(&format!("echo '{{\"a\": 2}}' > config/{name}.json"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("Read-only file system"), "{said}");
        assert_eq!(
            live.json("status")["failed_write"]["file"],
            format!("config/{name}.json")
        );
    }
    assert_eq!(live.json("providers/file")["failed_write"], Value::Null);
    small.run(&["mount", "-o", "remount,rw"]);
    live.sh("echo '{\"a\": 2}' > config/new.json; grep -q 2 config/new.json");
    assert_eq!(live.json("status")["failed_write"], Value::Null);
    drop(live);
}
