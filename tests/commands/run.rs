//! `run` gives a command its secrets, and else what the caller gave.

use std::process::Command;

use crate::support::home::{BINARY, Home, is_root, ran};
use crate::support::user::User;

/// What a process has of its caller, without what differs from one process to the next.
const SHOW: &str = r#"grep -E '^(Sig[BIC]|Shd|Umask|NoNewPrivs|Seccomp:|Cap|Groups|Uid|Gid|CoreDumping|Threads)' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj /proc/self/coredump_filter; pwd
ls -l /proc/self/fd | sed -n 's/.* \([0-9]* -> .*\)/\1/p' | grep -v -e /proc/ -e 'pipe:'
cat /proc/self/environ | tr '\0' '\n' | grep -v -e ^GIVEN= -e ^_= -e ^SHLVL= | sort"#;

#[test]
fn the_command_has_what_the_caller_gave_and_its_secrets() {
    let users = if is_root() {
        &["root", "nobody"][..]
    } else {
        &[][..]
    };
    for user in users.iter().map(|name| User::new(name)) {
        user.write("show.sh", SHOW);
        user.sh("printf hunter2 | ../program set GIVEN");
        for caller in [
            "true",
            "exec 7< /etc/passwd 8> /dev/null",
            "ulimit -c 100",
            "ulimit -S -c 0",
            "ulimit -n 100; umask 027",
            "trap '' PIPE HUP INT CHLD USR1",
            "exec < /dev/null 2> /dev/null",
            "exec <&-",
            // Several times, because threads that end meanwhile open files.
            "exec <&- 2>&-",
            "exec <&- 2>&-",
            "exec <&- 2>&-",
            "exec <&- 2>&-",
            "export A='x\ny' B=",
        ] {
            let with = |run: &str| {
                let script = format!("{caller}; exec {run} sh show.sh");
                ran(user.command("bash").args(["-c", &script])).out
            };
            let (alone, given) = (with(""), with("../program run --env GIVEN --"));
            assert_eq!(alone, given, "{caller} as {}", user.name);
            assert!(alone.contains("Max open files"), "{alone}");
        }
        let pid = user.sh("echo $$; exec ../program run --env GIVEN -- sh -c 'echo $$ $GIVEN'");
        let (before, behind) = pid.split_once('\n').unwrap();
        assert_eq!(
            behind.trim(),
            format!("{before} hunter2"),
            "the command is another process"
        );
    }
}

#[test]
fn the_exit_code_is_that_of_the_command_or_says_why_it_did_not_run() {
    let home = Home::new();
    home.run_with("v", &["set", "A"]).done();
    home.write("plain", "no program");
    let code = |command: &[&str]| {
        home.run(&[&["run", "--env", "A", "--"], command].concat())
            .code
    };
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["there-is-no-such-program"]), 127);
    assert_eq!(code(&["./missing/program"]), 127);
    assert_eq!(code(&["./plain"]), 126);
    assert_eq!(code(&["/"]), 126);
    let killed = home.sh(&format!(
        "{BINARY} run --env A -- sh -c 'kill -TERM $$'; echo $?"
    ));
    assert_eq!(killed, "143\n");
    let wrong = home.run(&["run", "--", "true"]);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
}

#[test]
fn what_is_missing_is_named_and_the_command_does_not_run() {
    let home = Home::new();
    home.run_with("v", &["set", "THERE"]).done();
    for mounted in [false, true] {
        if mounted {
            home.run(&["mount"]).done();
        }
        let args = [
            "run", "-e", "GONE", "-e", "THERE", "-e", "LOST=X", "--", "touch", "ran",
        ];
        let ran = home.run(&args);
        assert_eq!(ran.code, 4, "{}", ran.err);
        assert!(
            ran.err
                .contains("error: no such secrets: GONE, LOST\nhint: "),
            "{}",
            ran.err
        );
        assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
        let misspelt = home.run(&["run", "-e", "THERES", "-e", "GONE", "--", "true"]);
        assert!(
            misspelt.err.contains("hint: did you mean THERE?"),
            "{}",
            misspelt.err
        );
        assert!(!home.path("ran").exists());
    }
    home.run(&["umount"]).done();
}

#[test]
fn a_value_of_several_lines_is_given_as_a_file_of_the_mount() {
    let home = Home::new();
    home.run_with("one\ntwo\n", &["set", "PEM"]).done();
    home.run_with("v", &["set", "a-b"]).done();
    home.write("nul", "a\0b");
    home.run(&["set", "NUL", "--file", "nul"]).done();
    let printenv =
        |args: &[&str], name: &str| home.run(&[args, &["--", "printenv", name]].concat());
    let refused = printenv(&["run", "--env", "PEM"], "PEM");
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("--no-files") && refused.err.contains("mount"),
        "{}",
        refused.err
    );
    assert_eq!(printenv(&["run", "--file", "PEM=F"], "F").code, 1);
    assert_eq!(
        printenv(&["run", "--no-files", "--env", "PEM"], "PEM").done(),
        "one\ntwo\n\n"
    );
    let nul = printenv(&["run", "--env", "NUL"], "NUL");
    assert_eq!(nul.code, 1);
    assert!(nul.err.contains("NUL character"), "{}", nul.err);
    home.run(&["mount"]).done();
    let path = home.live("secrets/PEM");
    assert_eq!(
        printenv(&["run", "--env", "PEM"], "PEM").done().trim(),
        path.to_str().unwrap()
    );
    let read = home.run(&["run", "--file", "PEM=F", "--", "sh", "-c", "cat $F"]);
    assert_eq!(read.done(), "one\ntwo\n");
    let all = home.run(&[
        "run",
        "--all",
        "--env",
        "a-b=AB",
        "--file",
        "NUL",
        "--",
        "sh",
        "-c",
        "echo $AB; cat $PEM",
    ]);
    assert_eq!((&*all.out, &*all.err), ("v\none\ntwo\n", ""));
    let unnamed = home.run(&["run", "--env", "a-b", "--", "true"]);
    assert_eq!(unnamed.code, 2);
    assert!(unnamed.err.contains("--env a-b=A_B"), "{}", unnamed.err);
    let twice = home.run(&["run", "--env", "a-b=X", "--env", "PEM=X", "--", "true"]);
    assert_eq!(twice.code, 2, "{}", twice.err);
    home.run(&["umount"]).done();
}

#[test]
fn a_value_is_in_no_argument() {
    let home = Home::new();
    home.run_with("hunter2", &["set", "A"]).done();
    let mut command: Command = home.command(BINARY);
    command.args([
        "run",
        "--env",
        "A",
        "--",
        "sh",
        "-c",
        "tr '\\0' ' ' < /proc/self/cmdline",
    ]);
    assert!(!ran(&mut command).done().contains("hunter2"));
}
