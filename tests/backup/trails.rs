//! The audit trails go with the key that signs them: what stays here can still be verified after a restore.

use std::fs;

use super::support::home::{Home, ran};
use super::{back_up, backup_of, full_home, restore_args};

const TRAILS: [&str; 3] = ["audit.key", "audit.db", "live-audit.db"];

/// A home that has trails and a key of its own.
fn home_with_trails() -> Home {
    let other = Home::new();
    other.run_with("mine", &["set", "MINE"]).done();
    other.run(&["get", "MINE"]).done();
    other
}

fn key(home: &Home) -> Vec<u8> {
    fs::read(home.path(".simpletuner/audit.key")).unwrap()
}

#[test]
fn a_trail_that_the_backup_does_not_replace_keeps_its_key() {
    // The backup has the key and no trail; then the trail of changes alone.
    for left_out in [&["audit.db", "live-audit.db"][..], &["live-audit.db"]] {
        let home = full_home();
        for trail in left_out {
            home.sh(&format!("rm ~/.simpletuner/{trail}*"));
        }
        back_up(&home, &[]);
        let [backup, identity] = backup_of(&home);
        let other = home_with_trails();
        let (before, rows) = (
            key(&other),
            other.run(&["audit", "tail", "-n", "50"]).done(),
        );
        let args = restore_args(&backup, &identity, &["--yes", "--force"]);
        for only in [&["--only", "trails"][..], &[]] {
            let restored = other.run(&[&args[..], only].concat());
            assert!(
                restored.err.contains("the audit trails are not restored")
                    && restored.err.contains("move those here away: ("),
                "{}",
                restored.err
            );
            restored.done();
            assert_eq!(key(&other), before);
            let after = other.run(&["audit", "tail", "-n", "50"]).done();
            assert!(after.starts_with(&rows), "{after}");
            let verified = other.run(&["audit", "verify"]).done();
            assert_eq!(verified.matches(", whole").count(), 2, "{verified}");
        }
        assert_eq!(other.run(&["get", "A"]).done(), "hunter2-alpha");
        // What it says works.
        let said = other.run(&[&args[..], &["--dry-run"]].concat()).err;
        let (_, command) = said.split_once("move those here away: ").unwrap();
        other.sh(command.lines().next().unwrap());
        other
            .run(&[&args[..], &["--only", "trails"]].concat())
            .done();
        assert_eq!(key(&other), key(&home));
        other.run(&["audit", "verify"]).done();
    }
}

#[test]
fn what_replaces_other_trails_comes_with_its_key_and_those_stay_verifiable_with_theirs() {
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = home_with_trails();
    let before = key(&other);
    other
        .run(&restore_args(&backup, &identity, &["--yes", "--force"]))
        .done();
    assert_eq!(key(&other), key(&home));
    assert_ne!(key(&other), before);
    let verified = other.run(&["audit", "verify"]).done();
    assert_eq!(verified.matches(", whole").count(), 4, "{verified}");
    for trail in TRAILS {
        let kept = other.sh(&format!("ls ~/.simpletuner/{trail}.before-restore-*"));
        assert_eq!(kept.lines().count(), 1, "{kept}");
        let is_shown = verified.contains(kept.trim());
        assert_eq!(is_shown, trail != "audit.key", "{verified}");
    }
    // One of them is changed.
    other.sh("cd ~/.simpletuner; python3 -c '
import glob, sqlite3
db = sqlite3.connect(glob.glob(\"audit.db.before-restore-*\")[0])
db.execute(\"UPDATE audit_log SET action = ?\", (\"nothing\",)); db.commit()'");
    let broken = other.run(&["audit", "verify"]);
    assert_eq!(broken.code, 1);
    assert!(
        broken.err.contains("audit.db.before-restore-") && broken.err.contains("is broken"),
        "{}",
        broken.err
    );
}

#[test]
fn a_trail_in_which_a_row_was_changed_is_another_one_and_comes_back() {
    let home = full_home();
    home.run_with("b", &["set", "B"]).done();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let changed = "UPDATE audit_log SET details = details || 'x' WHERE id = 1";
    home.sh(&format!("sqlite3 ~/.simpletuner/audit.db \"{changed}\""));
    assert_eq!(home.run(&["audit", "verify"]).code, 1);
    let args = restore_args(&backup, &identity, &["--yes", "--only", "trails"]);
    let refused = home.run(&args);
    assert!(
        refused.code == 1
            && refused
                .out
                .contains("row 1 of the one here is not what it was"),
        "{}{}",
        refused.out,
        refused.err
    );
    home.run(&[&args[..], &["--force"]].concat()).done();
    let verified = home.run(&["audit", "verify"]);
    assert!(
        verified.out.contains(".simpletuner/audit.db: ")
            && !verified.out.contains(".simpletuner/audit.db: 0 rows")
            && verified
                .out
                .lines()
                .any(|line| line.contains("audit.db: ") && line.contains("whole")),
        "{}{}",
        verified.out,
        verified.err
    );
}

#[test]
fn the_key_of_the_trails_is_there_before_they_are() {
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let new = Home::new();
    let args = restore_args(&backup, &identity, &["--yes"]);
    // The first rename puts the key in its place.
    let mut killed = new.killed_at("rename,renameat,renameat2", 2);
    assert_ne!(ran(killed.args(&args)).code, 0);
    assert_eq!(key(&new), key(&home));
    // A command that writes a row.
    new.run(&["get", "A"]);
    new.run(&args).done();
    let verified = new.run(&["audit", "verify"]).done();
    assert_eq!(verified.matches(", whole").count(), 2, "{verified}");
}
