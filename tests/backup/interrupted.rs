//! A restore that is killed at any moment: each file is as it was or as it will be, and the next run finishes it.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::support::home::{BINARY, Home};
use super::{back_up, backup_of, full_home, restore_args};

const FILES: [&str; 4] = ["secrets.json", "live.yaml", "views.json", "credential.key"];

fn read(home: &Home) -> Vec<Vec<u8>> {
    FILES
        .map(|name| fs::read(home.path(".simpletuner").join(name)).unwrap())
        .into()
}

/// A home with secrets, settings and views of its own. Gives its files.
fn begin_anew(home: &Home) -> Vec<Vec<u8>> {
    home.sh("rm -rf ~/.simpletuner");
    home.run_with("mine", &["set", "MINE"]).done();
    home.write(".simpletuner/live.yaml", "ttl: 5\n");
    home.run(&["view", "create", "own", "--secret", "MINE"])
        .done();
    read(home)
}

#[track_caller]
fn each_is_old_or_restored(home: &Home, before: &[Vec<u8>], restored: &[Vec<u8>]) {
    for (at, now) in read(home).iter().enumerate() {
        assert!(
            *now == before[at] || *now == restored[at],
            "{} is neither",
            FILES[at]
        );
    }
}

#[test]
fn a_restore_that_is_killed_at_any_moment_is_finished_by_the_next_one() {
    let home = full_home();
    back_up(&home, &["--without-databases"]);
    let [backup, identity] = backup_of(&home);
    let restored = read(&home);
    let other = Home::new();
    let args = restore_args(&backup, &identity, &["--yes", "--force"]);
    for round in 0..25 {
        let before = begin_anew(&other);
        let mut command = other.command(BINARY);
        let mut restore = command
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(4 * round));
        let _ = restore.kill();
        restore.wait().unwrap();
        each_is_old_or_restored(&other, &before, &restored);
        // What was here is here, or beside.
        let kept = other.sh("cd ~/.simpletuner; cat secrets.json secrets.json.before-restore-* credential.key credential.key.before-restore-* 2>/dev/null || true");
        for at in [0, 3] {
            assert!(
                kept.contains(&*String::from_utf8_lossy(&before[at])),
                "{kept}"
            );
        }
        other.run(&args).done();
        assert!(read(&other) == restored);
        assert_eq!(other.run(&["get", "A"]).done(), "hunter2-alpha");
        let left = other.sh("ls -A ~/.simpletuner");
        assert!(!left.lines().any(|name| name.ends_with(".tmp")), "{left}");
    }
}

#[test]
fn a_restore_stops_at_each_step_without_a_value_lost() {
    if !super::support::home::is_root() {
        return;
    }
    let home = full_home();
    back_up(&home, &["--without-databases"]);
    let [backup, identity] = backup_of(&home);
    let restored = read(&home);
    let other = Home::new();
    let args = restore_args(&backup, &identity, &["--yes", "--force"]).join(" ");
    for rename in 1..20 {
        let before = begin_anew(&other);
        let injected = format!(
            "strace -f -qq -o trace -e trace=rename,renameat,renameat2 -e inject=rename,renameat,renameat2:signal=KILL:when={rename} \
             {BINARY} {args} > /dev/null 2>&1; echo $?"
        );
        let code = other.sh(&injected);
        each_is_old_or_restored(&other, &before, &restored);
        other.sh(&format!("{BINARY} {args} > /dev/null 2>&1"));
        assert!(
            read(&other) == restored,
            "after the kill at rename {rename}"
        );
        if code.trim() == "0" {
            assert!(rename > 5, "it was never interrupted");
            return;
        }
    }
    panic!("it never came to its end");
}
