//! What commands print: to a full disk and a closed pipe, as JSON, with patterns and several keys, at any width.

mod support;

use std::fs::File;
use std::process::Command;

use serde_json::{Value, json};
use support::home::{BINARY, CommandOutput, Home, ran};

fn run(home: &Home, args: &str) -> CommandOutput {
    home.run(&args.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn json_of(home: &Home, args: &str) -> Value {
    let ran = run(home, args);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err))
}

fn home_with(secrets: &[(&str, &str)]) -> Home {
    let home = Home::new();
    for (name, value) in secrets {
        home.run_with(value, &["set", name]).done();
    }
    home
}

/// Each command that prints something, without a mount and with one.
const PRINTING: [&str; 36] = [
    "--help",
    "-h",
    "--version",
    "help",
    "help get",
    "get --help",
    "cache stats -h",
    "get A",
    "get A B",
    "get A --json",
    "ls",
    "ls -l",
    "ls --json",
    "ls A*",
    "export",
    "export --format json A*",
    "settings",
    "settings --json",
    "settings --markdown",
    "completions bash",
    "completions zsh",
    "completions fish",
    "hardware ls",
    "hardware ls --json",
    "hardware estimate gpu-l40s --hours 1",
    "hardware estimate gpu-l40s --hours 1 --json",
    "audit verify",
    "audit verify --json",
    "audit tail",
    "audit tail --json",
    "audit prune --keep-days 9",
    "audit prune --keep-days 9 --json",
    "install-service --print",
    "doctor",
    "doctor --json",
    "rm NOT_THERE --json",
];
const OF_A_MOUNT: [&str; 10] = [
    "mount",
    "status",
    "status --json",
    "metrics",
    "top --once",
    "cache stats",
    "cache stats --json",
    "cache clear",
    "cache clear --json",
    "cache invalidate secret:",
];

#[test]
fn output_to_a_full_disk_or_a_closed_descriptor_is_an_error_and_to_a_closed_pipe_is_quiet() {
    let home = home_with(&[("A", "1"), ("B", "2")]);
    let check = |args: &str| {
        let words: Vec<&str> = args.split(' ').collect();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = home.command(BINARY);
        let output = command.args(&words).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
        assert!(
            said.contains("cannot write standard output"),
            "{args}: {said}"
        );
        assert!(said.contains("No space left"), "{args}: {said}");

        let mut command = home.command("bash");
        command.args(["-c", "exec \"$@\" >&-", "bash", BINARY]);
        let output = command.args(&words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
        assert!(
            said.contains("cannot write standard output"),
            "{args}: {said}"
        );

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = home.command(BINARY);
        let output = command.args(&words).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if args != "rm NOT_THERE --json" {
            assert_eq!(output.status.code(), Some(0), "{args}: {said}");
        }
        assert!(!said.contains("standard output"), "{args}: {said}");
    };
    PRINTING.iter().for_each(|args| check(args));
    home.run(&["mount"]).done();
    OF_A_MOUNT.iter().for_each(|args| check(args));
    for args in ["get A", "get A B", "ls", "ls -l", "hardware ls"] {
        check(args);
    }
}

#[test]
fn ls_lists_the_names_that_match_patterns() {
    let home = home_with(&[
        ("HF_TOKEN", "1"),
        ("HF_OTHER", "22"),
        ("WANDB_API_KEY", "3"),
    ]);
    for mounted in [false, true] {
        if mounted {
            // A variable that is not listed by itself overrides the file.
            let mut mount = home.command(BINARY);
            ran(mount.env("WANDB_API_KEY", "12345").arg("mount")).done();
            let listed = &json_of(&home, "ls --json WANDB_API_KEY")[0];
            assert_eq!(
                (&listed["provider"], &listed["size"]),
                (&json!("environment"), &json!(5))
            );
            let report = home.sh("cat .simpletuner/live/providers/environment");
            assert!(report.contains("\"WANDB_API_KEY\""), "{report}");
        }
        assert_eq!(run(&home, "ls HF_*").done(), "HF_OTHER\nHF_TOKEN\n");
        assert_eq!(
            run(&home, "ls *_?OKEN W*").done(),
            "HF_TOKEN\nWANDB_API_KEY\n"
        );
        assert_eq!(run(&home, "list HF_TOKEN").done(), "HF_TOKEN\n");
        let long = run(&home, "ls -l HF_O*").done();
        assert!(
            long.lines()
                .nth(1)
                .unwrap()
                .starts_with("HF_OTHER  file      2 "),
            "{long}"
        );
        let all = json_of(&home, "ls --json");
        assert_eq!(all.as_array().unwrap().len(), 3);
        assert_eq!(all, json_of(&home, "ls -l --json"));
        let first = &all[0];
        assert_eq!(first["name"], "HF_OTHER");
        assert_eq!(
            (&first["provider"], &first["size"]),
            (&json!("file"), &json!(2))
        );
        assert!(first["changed_at"].as_str().unwrap().ends_with('Z'));

        let none = run(&home, "ls hf_* W*");
        assert_eq!((none.code, none.out.as_str()), (4, "WANDB_API_KEY\n"));
        assert!(
            none.err.contains("no secret matches \"hf_*\""),
            "{}",
            none.err
        );
        let none = run(&home, "ls -l X*");
        assert_eq!((none.code, none.out.as_str()), (4, ""));
        let none = run(&home, "ls --json X*");
        assert_eq!((none.code, none.out.as_str()), (4, "[]\n"));
        let missing = run(&home, "ls HF_TOKE");
        assert_eq!(missing.code, 4);
        assert!(
            missing.err.contains("no such secret: HF_TOKE"),
            "{}",
            missing.err
        );
    }
}

#[test]
fn several_values_are_printed_for_a_shell_or_as_json() {
    let pem = "-----BEGIN-----\nit's \"$x\" `y` \\z\n-----END-----\n";
    let home = home_with(&[
        ("B", "two words"),
        ("A", "1"),
        ("PEM", pem),
        ("a.b-c", "dotted"),
    ]);
    for mounted in [false, true] {
        if mounted {
            home.run(&["mount"]).done();
        }
        assert_eq!(run(&home, "get A B").done(), "A=1\nB='two words'\n");
        let evaluated = home.sh(&format!(
            "eval \"$({BINARY} get A B PEM)\"; printf '%s|' \"$A\" \"$B\" \"$PEM\""
        ));
        assert_eq!(evaluated, format!("1|two words|{pem}|"));
        assert_eq!(json_of(&home, "get A --json"), json!({"A": "1"}));
        let all = json!({"A": "1", "B": "two words", "PEM": pem, "a.b-c": "dotted"});
        assert_eq!(json_of(&home, "show PEM a.b-c B A --json"), all);

        let ran = run(&home, "get A NOT_THERE NEITHER");
        assert_eq!((ran.code, ran.out.as_str()), (4, ""));
        assert!(
            ran.err.contains("no such secrets: NOT_THERE, NEITHER\n"),
            "{}",
            ran.err
        );
        let ran = run(&home, "get A a.b-c");
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err.contains("a.b-c cannot be printed as KEY=value"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("--json"), "{}", ran.err);
    }
}

#[test]
fn rm_of_several_removes_all_it_can_and_says_of_each_what_came_of_it() {
    for mounted in [false, true] {
        let home = home_with(&[("A", "1"), ("B", "2"), ("C", "3"), ("D", "4"), ("E", "5")]);
        if mounted {
            home.run(&["mount"]).done();
        }
        let ran = run(&home, "rm A NOT_THERE B");
        assert_eq!((ran.code, ran.out.as_str()), (4, ""));
        for words in ["A is removed", "no such secret: NOT_THERE", "B is removed"] {
            assert!(ran.err.contains(words), "{}", ran.err);
        }
        let deleted = run(&home, "delete C");
        assert_eq!((deleted.code, deleted.out.as_str()), (0, ""));
        let results = json_of(&home, "rm D NOT_THERE --json");
        assert_eq!(
            results[0],
            json!({"name": "D", "removed": true, "error": null})
        );
        assert_eq!(results[1]["removed"], false);
        assert_eq!(results[1]["error"], "no such secret: NOT_THERE");
        assert_eq!(run(&home, "ls").done(), "E\n");
    }
    // The exit code of the worst: HF_TOKEN is there, but not in the file.
    let home = Home::new();
    let mut command = home.command(BINARY);
    command
        .env("HF_TOKEN", "1")
        .args(["rm", "HF_TOKEN", "NOT_THERE"]);
    let ran = ran(&mut command);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(ran.err.matches("error: ").count(), 2, "{}", ran.err);
}

#[test]
fn counts_have_a_noun_and_json_has_the_bare_number() {
    let home = home_with(&[("A", "1"), ("B", "2")]);
    assert_eq!(
        run(&home, "audit prune --keep-days 1").done(),
        "0 rows removed\n"
    );
    assert_eq!(
        json_of(&home, "audit prune --keep-days 1 --json"),
        json!({"removed": 0})
    );
    home.run(&["mount"]).done();
    let read = || home.sh("cat .simpletuner/live/secrets/[AB]");
    read();
    assert_eq!(
        run(&home, "cache invalidate secret:A").done(),
        "1 entry dropped\n"
    );
    read();
    assert_eq!(
        run(&home, "cache clear secrets").done(),
        "2 entries dropped\n"
    );
    read();
    assert_eq!(
        json_of(&home, "cache invalidate secret: --json"),
        json!({"dropped": 2})
    );
    read();
    assert_eq!(
        json_of(&home, "cache stats secrets --json")["secrets"]["size"],
        2
    );
    let dropped = json_of(&home, "cache clear --json");
    assert!(dropped["dropped"].as_u64().unwrap() >= 2, "{dropped}");
    assert_eq!(
        run(&home, "cache clear secrets").done(),
        "0 entries dropped\n"
    );
    let wrong = run(&home, "cache stats secret").failed();
    assert!(
        wrong.contains("there is no cache \"secret\"") && wrong.contains("secrets"),
        "{wrong}"
    );
}

#[test]
fn settings_shows_those_that_are_named() {
    let home = Home::new();
    let shown = run(&home, "settings ttl encrypt").done();
    let names: Vec<&str> = shown
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names[0], "NAME");
    assert!(
        names.contains(&"ttl.default") && names.contains(&"encrypt"),
        "{shown}"
    );
    assert!(
        names[1..]
            .iter()
            .all(|name| name.starts_with("ttl.") || *name == "encrypt")
    );
    let one = json_of(&home, "settings --json timeout.total");
    assert_eq!(one[0]["name"], "timeout.total");
    assert_eq!(one.as_array().unwrap().len(), 1);
    let wrong = run(&home, "settings tt").failed();
    assert!(wrong.contains("there is no setting \"tt\""), "{wrong}");
}

#[test]
fn help_is_as_wide_as_the_terminal_but_no_wider_than_a_reader_likes() {
    let home = Home::new();
    for columns in [40, 72, 200] {
        let help = |args: &str| {
            let mut script = Command::new("script");
            let at_terminal = format!("stty cols {columns} rows 24; {BINARY} {args}");
            script
                .args(["-qec", &at_terminal, "/dev/null"])
                .env("SHELL", "/bin/sh");
            script.env("HOME", home.0.path());
            ran(&mut script).done().replace('\r', "")
        };
        let visible = |line: &str| {
            let mut parts = line.split("\u{1b}[");
            let first = parts.next().unwrap().chars().count();
            let rest = parts.map(|part| part.split_once('m').unwrap().1.chars().count());
            first + rest.sum::<usize>()
        };
        for args in ["--help", "get --help", "audit verify --help", "mount -h"] {
            let help = help(args);
            // clap wraps no usage.
            let lines = help.lines().filter(|line| !line.contains("Usage:"));
            let widest = lines.map(visible).max().unwrap();
            assert!(widest <= columns.min(100), "{columns}: {widest}\n{help}");
            assert!(widest > columns.min(100) / 2, "{columns}: {widest}\n{help}");
        }
        let aliases = help("--help");
        for alias in ["list", "show", "delete", "unmount"] {
            assert!(aliases.contains(alias), "{alias}\n{aliases}");
        }
    }
}
