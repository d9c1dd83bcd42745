//! `run --watch` starts its command anew when a secret changes, and passes signals on.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use crate::support::home::{BINARY, Home, exit_code, ran, signal};
use crate::support::wait_until;
use crate::terminal::Terminal;

/// A mount with the secret A.
fn mounted() -> Home {
    let home = Home::new();
    home.run_with("one", &["set", "A"]).done();
    home.run(&["mount"]).done();
    home
}

/// Without a terminal, as a service has none.
fn watched(home: &Home, script: &str) -> Child {
    let mut command = home.command("setsid");
    command.args([
        BINARY, "run", "--watch", "--jitter", "0", "--env", "A", "--", "sh", "-c", script,
    ]);
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn wait_for_log(home: &Home, lines: &str) {
    wait_until(&format!("the log has {lines:?}"), || {
        fs::read_to_string(home.path("log")).is_ok_and(|log| log == lines)
    });
}

#[test]
fn the_command_is_started_anew_when_a_secret_changes_and_ends_with_its_supervisor() {
    let home = mounted();
    // The first process of the group ends at once, the other one only when it is asked, too.
    let child = watched(
        &home,
        "echo $A >> log; trap 'echo end >> log; exit 3' TERM; while :; do sleep 0.1; done",
    );
    wait_for_log(&home, "one\n");
    // The same value again is no change.
    home.run_with("one", &["set", "A"]).done();
    home.run_with("two", &["set", "A"]).done();
    wait_for_log(&home, "one\nend\ntwo\n");
    // A secret that is gone keeps the command running.
    home.run(&["rm", "-f", "A"]).done();
    home.run_with("three", &["set", "A"]).done();
    wait_for_log(&home, "one\nend\ntwo\nend\nthree\n");
    signal("TERM", child.id());
    assert_eq!(exit_code(child), Some(3));
    wait_for_log(&home, "one\nend\ntwo\nend\nthree\nend\n");
    home.run(&["umount"]).done();
}

#[test]
fn a_command_that_goes_on_after_sighup_is_started_anew_by_a_later_change() {
    let home = mounted();
    let child = watched(
        &home,
        "trap 'echo read anew >> log' HUP; echo $A >> log; while :; do sleep 0.1; done",
    );
    wait_for_log(&home, "one\n");
    signal("HUP", child.id());
    wait_for_log(&home, "one\nread anew\n");
    home.run_with("two", &["set", "A"]).done();
    wait_for_log(&home, "one\nread anew\ntwo\n");
    signal("TERM", child.id());
    exit_code(child);
    home.run(&["umount"]).done();
}

#[test]
fn a_command_that_does_not_end_is_killed_with_its_children() {
    let home = mounted();
    let script = "trap '' TERM; sleep 60 & echo $! >> log; echo $A >> log; while [ -e log ]; do sleep 0.1; done";
    let child = watched(&home, script);
    wait_until("it has started", || {
        fs::read_to_string(home.path("log")).is_ok_and(|log| log.ends_with("one\n"))
    });
    let log = fs::read_to_string(home.path("log")).unwrap();
    let other: u32 = log.lines().next().unwrap().parse().unwrap();
    home.run_with("two", &["set", "A"]).done();
    wait_until("it has started anew", || {
        fs::read_to_string(home.path("log")).is_ok_and(|log| log.ends_with("two\n"))
    });
    assert!(crate::support::home::has_ended(other));
    signal("KILL", child.id());
    exit_code(child);
    home.run(&["umount"]).done();
}

/// Ends by this signal, as a process of its own would.
#[track_caller]
fn is_ended_by(mut child: Child, name: &str) {
    wait_until("the supervisor ends", || {
        child.try_wait().unwrap().is_some()
    });
    let status = child.wait().unwrap();
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        _ => 15,
    };
    assert_eq!(status.signal(), Some(number), "{name}: {status}");
}

#[test]
fn a_signal_while_the_command_is_ended_for_a_restart_ends_the_run() {
    for name in ["TERM", "HUP", "INT", "QUIT"] {
        let home = mounted();
        let script = "trap '' HUP INT QUIT; trap 'trap \"\" TERM; echo ending >> log; while [ ! -e go ]; do sleep 0.05; done; echo ended >> log; exit 0' TERM
            echo $A >> log; while :; do sleep 0.1; done";
        let child = watched(&home, script);
        wait_for_log(&home, "one\n");
        home.run_with("two", &["set", "A"]).done();
        wait_for_log(&home, "one\nending\n");
        signal(name, child.id());
        home.write("go", "");
        is_ended_by(child, name);
        wait_for_log(&home, "one\nending\nended\n");
        home.run(&["umount"]).done();
    }
}

#[test]
fn a_signal_between_the_end_of_the_command_and_the_next_one_ends_the_run() {
    for name in ["TERM", "HUP", "INT", "QUIT"] {
        let home = mounted();
        // The first process of the group ends at once, and another one later.
        let script = "trap '' TERM HUP INT QUIT; (while [ ! -e go ]; do sleep 0.05; done; echo released >> log) &
            trap - TERM; echo $$ > pid; echo $A >> log; wait";
        let child = watched(&home, script);
        wait_for_log(&home, "one\n");
        let first = fs::read_to_string(home.path("pid")).unwrap();
        home.run_with("two", &["set", "A"]).done();
        let first = first.trim().parse().unwrap();
        wait_until("the first process has ended", || {
            crate::support::home::has_ended(first)
        });
        signal(name, child.id());
        home.write("go", "");
        is_ended_by(child, name);
        wait_for_log(&home, "one\nreleased\n");
        home.run(&["umount"]).done();
    }
}

#[test]
fn a_signal_during_the_jitter_or_while_the_mount_hangs_reaches_the_command() {
    for hangs in [false, true] {
        let home = mounted();
        let mut command = home.command("setsid");
        let script = "trap 'exit 3' TERM; echo $A >> log; while :; do sleep 0.1; done";
        let args = [
            "run", "--watch", "--jitter", "86400", "--env", "A", "--", "sh", "-c", script,
        ];
        command.arg(BINARY).args(args).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for_log(&home, "one\n");
        home.run_with("two", &["set", "A"]).done();
        let status = fs::read(home.live("status")).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
        if hangs {
            pids.iter().for_each(|pid| signal("STOP", *pid));
        }
        signal("TERM", child.id());
        assert_eq!(exit_code(child), Some(3));
        pids.iter().for_each(|pid| signal("CONT", *pid));
        wait_for_log(&home, "one\n");
        home.run(&["umount"]).done();
    }
}

/// The child of a process that runs this program, once there is one.
fn child_of(home: &Home, parent: u32) -> u32 {
    let mut child = None;
    wait_until("it has a child", || {
        let mut pgrep = home.command("pgrep");
        // Not the one that strace makes to try what the kernel can.
        let found = ran(pgrep.args(["-x", "simpletuner-liv", "-P", &parent.to_string()])).out;
        child = found.trim().parse().ok();
        child.is_some()
    });
    child.unwrap()
}

#[test]
fn a_process_that_is_to_become_the_command_dies_by_a_signal_and_with_its_supervisor() {
    let home = mounted();
    for (name, gets_it) in [("HUP", "the process"), ("KILL", "the supervisor")] {
        let mut strace = home.command("setsid");
        // Only that process calls setpgid(2), before it executes the command.
        let inject = [
            "-e",
            "trace=setpgid",
            "-e",
            "inject=setpgid:delay_exit=10000000",
        ];
        let run = [
            "run",
            "--watch",
            "--env",
            "A",
            "--",
            "sh",
            "-c",
            "echo ran >> log",
        ];
        strace.args(["strace", "-f", "-qq", "-o", "/dev/null"]);
        strace.args(inject).arg(BINARY).args(run);
        let mut strace = strace.stderr(Stdio::null()).spawn().unwrap();
        let supervisor = child_of(&home, strace.id());
        let process = child_of(&home, supervisor);
        signal(
            name,
            if gets_it == "the process" {
                process
            } else {
                supervisor
            },
        );
        wait_until("all have ended", || strace.try_wait().unwrap().is_some());
        assert!(crate::support::home::has_ended(process));
        let status = strace.wait().unwrap();
        let number = if name == "HUP" { 1 } else { 9 };
        assert_eq!(status.signal(), Some(number), "{status}");
        assert!(!home.path("log").exists(), "{gets_it}: the command has run");
    }
    home.run(&["umount"]).done();
}

#[test]
fn a_command_that_ends_by_itself_ends_the_supervisor_with_its_exit_code() {
    let home = mounted();
    assert_eq!(exit_code(watched(&home, "exit 7")), Some(7));
    assert_eq!(exit_code(watched(&home, "kill -KILL $$")), None);
    let missing = home.run(&[
        "run",
        "--watch",
        "--env",
        "A",
        "--",
        "there-is-no-such-program",
    ]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    home.run(&["umount"]).done();
    let unmounted = home.run(&["run", "--watch", "--env", "A", "--", "true"]);
    assert_eq!(unmounted.code, 1);
    assert!(
        unmounted.err.contains("--watch needs a running mount"),
        "{}",
        unmounted.err
    );
}

#[test]
fn ctrl_c_at_a_terminal_reaches_the_command_once() {
    let home = mounted();
    let script = "live run --watch --env A -- sh -c 'trap \"echo got >> log\" INT; echo ready; read line; echo \"[$line]\"; exit 5'
        echo code=$?";
    let mut terminal = Terminal::run(&home, &format!("trap : INT\n{script}"));
    terminal.wait_for("ready");
    terminal.types("\x03");
    wait_for_log(&home, "got\n");
    terminal.types("typed\r");
    let shown = terminal.end();
    assert!(shown.contains("code=5"), "{shown}");
    wait_for_log(&home, "got\n");
    home.run(&["umount"]).done();
}
