//! A restore that is killed or fails at any step: each file is as it was or as it will be, each value can be read, and the next
//! command finishes it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use super::support::home::Home;
use super::{back_up, backup_of, full_home, key_pair, restore_args};

const FILES: [&str; 4] = ["secrets.json", "live.yaml", "views.json", "credential.key"];
const NEXT: &str = ".simpletuner/credential.key.new";
/// The calls that change what is on the disk, and how many of each are passed over between two kills.
const CALLS: [(&str, usize); 4] = [("rename", 1), ("renameat2", 3), ("unlink", 2), ("fsync", 2)];

/// What a restore may be killed at.
struct Event {
    call: &'static str,
    number: usize,
}

/// A backup, and what is in the files once it is restored.
struct Goal {
    arguments: Vec<String>,
    files: Vec<Vec<u8>>,
    a: &'static str,
}

impl Goal {
    fn of(home: &Home, a: &'static str) -> Self {
        back_up(home, &["--without-databases"]);
        let [backup, identity] = backup_of(home);
        let arguments = restore_args(&backup, &identity, &["--yes", "--force"]);
        Self {
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            files: read(home),
            a,
        }
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    /// Restores it, and kills that at the event. Returns whether the event came.
    fn kill_at(&self, home: &Home, event: &Event) -> bool {
        let Event { call, number } = event;
        let mut killed = home.killed_at(call, *number);
        let ended = killed.args(self.arguments()).output().unwrap();
        let is_killed = ended.status.signal() == Some(libc::SIGKILL);
        assert!(is_killed || ended.status.success(), "{ended:?}");
        is_killed
    }
}

fn read(home: &Home) -> Vec<Vec<u8>> {
    FILES
        .map(|name| fs::read(home.path(".simpletuner").join(name)).unwrap())
        .into()
}

/// A home with other secrets, another key, and other settings and views than that of the backup.
fn other_home() -> Home {
    let other = Home::new();
    other.run_with("mine", &["set", "A"]).done();
    other.write(".simpletuner/live.yaml", "ttl: 5\n");
    other
        .run(&["view", "create", "own", "--secret", "A"])
        .done();
    key_pair(&other);
    other
}

/// Reads a secret through the mount again and again, as long as the file `go` is there; each read that fails is a line in `failed`.
fn reader(home: &Home) -> Child {
    home.write("go", "");
    let script = "while [ -e go ]; do v=$(cat ~/.simpletuner/live/secrets/A 2>&1); \
                  case $v in mine|hunter2-alpha) : >> read;; *) echo \"$v\" >> failed;; esac; sleep 0.01; done";
    let mut reader = home.command("bash");
    reader.args(["-c", script]);
    reader.stdout(Stdio::null()).stderr(Stdio::null());
    reader.spawn().unwrap()
}

#[track_caller]
fn each_is_old_or_restored(home: &Home, before: &[Vec<u8>], restored: &[Vec<u8>], at: &str) {
    for (file, now) in read(home).iter().enumerate() {
        assert!(
            *now == before[file] || *now == restored[file],
            "{at}: {} is neither",
            FILES[file]
        );
    }
}

#[test]
fn a_restore_that_is_killed_at_each_step_leaves_every_value_readable_and_the_next_command_finishes()
{
    let (source, home) = (full_home(), other_home());
    let goals = [Goal::of(&source, "hunter2-alpha"), Goal::of(&home, "mine")];
    home.run(&["mount"]).done();
    let mut reader = reader(&home);
    let (mut killed, mut with_both_keys, mut rotated) = (0, 0, 0);
    let mut from = 1;
    for (call, stride) in CALLS {
        for number in (1..).step_by(stride) {
            let (was, goal) = (&goals[from], &goals[1 - from]);
            let before = read(&home);
            let at = format!("killed at {call} {number}");
            home.sh("rm -f ~/.simpletuner/*.before-restore-*");
            let event = Event { call, number };
            let is_killed = goal.kill_at(&home, &event);
            from = 1 - from;
            if !is_killed {
                assert!(read(&home) == goal.files);
                break;
            }
            killed += 1;
            each_is_old_or_restored(&home, &before, &goal.files, &at);
            let is_restored = read(&home)[0] == goal.files[0];
            let value = home.run(&["get", "--no-mount", "A"]);
            let a = if is_restored { goal.a } else { was.a };
            assert_eq!(value.out, a, "{at}: {}", value.err);
            // What was here is here, or beside.
            let kept = home.sh(
                "cd ~/.simpletuner; cat secrets.json secrets.json.before-restore-* credential.key \
                                credential.key.before-restore-* 2>/dev/null || true",
            );
            for file in [0, 3] {
                let before = String::from_utf8_lossy(&before[file]);
                assert!(kept.contains(&*before), "{at}");
            }
            if home.path(NEXT).exists() {
                with_both_keys += 1;
                assert!(
                    value.err.contains("the same restore, or"),
                    "{at}: {}",
                    value.err
                );
                // A rotation may take it up as well.
                if with_both_keys % 3 == 0 {
                    rotated += 1;
                    home.run(&["key", "rotate", "--yes"]).done();
                    let value = home.run(&["get", "--no-mount", "A"]);
                    assert_eq!(value.done(), a, "{at}");
                    home.sh("rm ~/.simpletuner/credential.key.old-*");
                }
            }
            let by_rotation = read(&home)[0].clone();
            home.run(&goal.arguments()).done();
            let mut now = read(&home);
            if is_restored && now[0] == by_rotation {
                now[0].clone_from(&goal.files[0]);
            }
            assert!(now == goal.files, "{at}");
            let value = home.run(&["get", "--no-mount", "A"]);
            assert_eq!(
                (value.out.as_str(), value.err.as_str()),
                (goal.a, ""),
                "{at}"
            );
            assert!(!home.path(NEXT).exists(), "{at}");
            let left = home.sh("ls -A ~/.simpletuner | grep '^[.]' || true");
            assert_eq!(left, "", "{at}");
        }
    }
    fs::remove_file(home.path("go")).unwrap();
    reader.wait().unwrap();
    let failed = fs::read_to_string(home.path("failed")).unwrap_or_default();
    assert_eq!(failed, "");
    assert!(home.path("read").exists());
    println!(
        "{killed} were killed, {with_both_keys} with both keys in place, {rotated} of them rotated"
    );
    assert!(killed >= 12 && with_both_keys >= 6 && rotated >= 2);
    home.run(&["umount"]).done();
}
