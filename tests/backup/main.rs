//! `backup` and `restore`, with the real `age` and `tar`, over real mounts.

mod archive;
mod damage;
mod databases;
mod interrupted;
mod refused;
mod restoring;
#[path = "../support/mod.rs"]
mod support;
mod trails;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::home::Home;

/// What the test home holds that must be seen nowhere but in its files.
const SECRETS: [&str; 3] = ["hunter2-alpha", "hunter2-beta", "hunter2-hook"];

/// A home with secrets, settings, a view, SimpleTuner's database and trails, and a key pair of age.
fn full_home() -> Home {
    let home = Home::new();
    home.run_with("hunter2-first", &["set", "A"]).done();
    home.run_with("hunter2-alpha", &["set", "A"]).done();
    home.run_with("hunter2-beta", &["set", "B"]).done();
    // The first row of the trail of reads.
    home.run(&["get", "A"]).done();
    home.write(".simpletuner/live.yaml", "ttl: 60  # a minute\n");
    home.run(&["view", "create", "trainer", "--secret", "A"])
        .done();
    home.sh("mkdir ~/.simpletuner/cloud; python3 -c '
import os, sqlite3
db = sqlite3.connect(os.path.expanduser(\"~/.simpletuner/cloud/jobs.db\"))
db.execute(\"PRAGMA journal_mode=WAL\")
db.execute(\"CREATE TABLE provider_config (provider TEXT PRIMARY KEY, config TEXT NOT NULL, updated_at TEXT NOT NULL)\")
db.execute(\"INSERT INTO provider_config VALUES (?, ?, ?)\", (\"replicate\", \"{\\\"webhook_secret\\\": \\\"hunter2-hook\\\"}\", \"2026-01-02T03:04:05+00:00\"))
db.commit()'");
    key_pair(&home);
    home
}

/// `identity` and `recipient` of age.
fn key_pair(home: &Home) {
    home.sh("umask 077; age-keygen -o identity 2>/dev/null; age-keygen -y identity > recipient");
}

/// Backs up for the home's own key.
fn back_up(home: &Home, more: &[&str]) -> String {
    let backup = ["backup", "b.age", "--force", "-R", "recipient"];
    let made = home.run(&[&backup[..], more].concat());
    let said = made.err.clone();
    made.done();
    said
}

/// The arguments that restore a home's backup in another one.
fn restore_args<'a>(backup: &'a str, identity: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", backup, "-i", identity], more].concat()
}

/// Where a home's backup and its key are.
fn backup_of(home: &Home) -> [String; 2] {
    ["b.age", "identity"].map(|name| home.path(name).display().to_string())
}

/// The state of each file of a backup.
fn states(plan: &str) -> Vec<(String, String)> {
    let plan: Value = serde_json::from_str(plan).unwrap();
    let files = plan["files"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    files
        .map(|file| (text(&file["what"]), text(&file["state"])))
        .collect()
}

/// All files below a folder are this user's alone.
fn assert_private(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        if found.is_file() {
            let mode = found.permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} has {mode:o}", entry.path().display());
        }
    }
}
