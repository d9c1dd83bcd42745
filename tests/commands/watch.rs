//! `run --watch` starts its command anew when a secret changes, and passes signals on.

use std::fs;
use std::process::{Child, Stdio};

use crate::support::home::{BINARY, Home, exit_code, signal};
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
