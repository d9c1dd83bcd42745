//! Programs as backends: what they may print, how they are bounded, and what goes wrong.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::support::home::{Home, has_ended};

/// A home with this setting, and the program `program` beside its settings file.
fn home(settings: &str, script: &str) -> Home {
    let home = Home::new();
    home.write(".simpletuner/live.yaml", settings);
    put(home.0.path(), script);
    home
}

pub fn put(home: &Path, script: &str) {
    let program = home.join(".simpletuner/program");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let new = home.join(".simpletuner/program.new");
    // Renamed into place: a child of another test may hold the new file open for writing meanwhile (ETXTBSY).
    std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::rename(new, program).unwrap();
}

const ONE: &str = "command: [{name: prog, run: [./program]}]\n";
const PER_KEY: &str =
    "command: [{name: prog, run: [./program, '{key}'], per_key: true, missing: not there}]\n";

pub fn mount(settings: &str, script: &str, variables: &[(&str, &str)]) -> Live {
    let home = support::scratch_home();
    put(home.path(), script);
    let settings_file = home.path().join(".simpletuner/live.yaml");
    std::fs::write(settings_file, settings).unwrap();
    Live::start_in(
        home,
        Setup {
            env: variables.to_vec(),
            ..Setup::default()
        },
    )
}

fn log(live: &Live) -> String {
    std::fs::read_to_string(live.home("daemon.log")).unwrap()
}

fn runs(live: &Live) -> usize {
    let runs = std::fs::read_to_string(live.home("runs"));
    runs.unwrap_or_default().lines().count()
}

#[test]
fn a_program_gives_the_secrets_of_its_json_object_to_all_readers_by_one_run() {
    let live = mount(
        ONE,
        "echo x >> ../runs; echo '{\"TOKEN\": \"v1\", \"N\": 12, \"NESTED\": {\"a\": 1}, \"bad/name\": \"x\"}'",
        &[],
    );
    let readers = "for i in $(seq 20); do cat secrets/TOKEN & done; wait";
    assert_eq!(done(&live, readers), "v1".repeat(20));
    assert_eq!(done(&live, "cat secrets/N; ls secrets"), "12N\nTOKEN\n");
    assert_eq!(runs(&live), 1);
    let report = live.json("providers/prog");
    assert_eq!(report["priority"], 5);
    assert_eq!(report["skipped_keys"], 2);
    assert_eq!(report["keys"], json!(["N", "TOKEN"]));
    assert_eq!(report["available"], true);
    let source = report["source"].as_str().unwrap();
    assert!(source.ends_with(".simpletuner/program"), "{source}");
    assert_eq!(done(&live, "jq -r .TOKEN bundle/secrets.json"), "v1\n");
    // Another value, after an invalidation.
    put(live.home.path(), "echo '{\"TOKEN\": \"v2\"}'");
    assert_eq!(done(&live, "echo > cache/clear; cat secrets/TOKEN"), "v2");
    let events = live.read("events");
    assert!(
        events.contains(r#""event":"rotated","key":"TOKEN","provider":"prog""#),
        "{events}"
    );
    // What fails serves the last document.
    put(live.home.path(), "echo oh no >&2; exit 7");
    assert_eq!(done(&live, "echo > cache/clear; cat secrets/TOKEN"), "v2");
    let report = live.json("providers/prog");
    assert_eq!(report["stale"], true);
    let said = report["last_error"].as_str().unwrap();
    assert!(
        said.contains("ended with exit code 7, and said: oh no"),
        "{said}"
    );
}

#[test]
fn each_way_to_print_no_document_is_an_error_that_says_what_to_do() {
    for (script, expected) in [
        ("exit 3", "ended with exit code 3, and said nothing"),
        (
            "echo 'not signed in' >&2; exit 1",
            "exit code 1, and said: not signed in",
        ),
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("", "it printed nothing; it must print one flat JSON object"),
        (
            "echo hunter2",
            "it is not JSON at line 1 column 1; it must print",
        ),
        (
            "echo '[\"hunter2\"]'",
            "it is not an object of names and texts",
        ),
        ("echo '{\"KEY\": \"hunter2\"'", "it ends too early"),
        ("printf '{\"KEY\": \"\\377\"}'", "not UTF-8"),
        (
            "head -c 2000000 /dev/zero",
            "printed more than 1 MiB, and was killed",
        ),
        (
            "sleep 1000",
            "was killed after 2 s (setting timeout of this command)",
        ),
        ("trap '' TERM INT; sleep 1000", "was killed after 2 s"),
    ] {
        let home = home(
            "command: [{name: prog, run: [./program], timeout: 2}]\n",
            script,
        );
        let said = home.run(&["get", "KEY"]).failed();
        assert!(
            said.contains("prog provider failed for KEY"),
            "{script}: {said}"
        );
        assert!(
            said.contains(expected) && !said.contains("hunter2"),
            "{script}: {said}"
        );
    }
    // An empty object, and nested values, have no key.
    for script in ["echo '{}'", "echo '{\"KEY\": {\"a\": \"b\"}}'"] {
        let ran = home(ONE, script).run(&["get", "KEY"]);
        assert_eq!(ran.code, 4, "{script}: {}", ran.err);
    }
    // A child that keeps the output open.
    let home = home(ONE, "sleep 1000 & echo '{\"KEY\": \"v\"}'");
    assert_eq!(home.run(&["get", "KEY"]).done(), "v");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_that_says_why() {
    let by = |run: &str, prepare: fn(&Home)| {
        let home = home(
            &format!("command: [{{name: prog, run: [{run}]}}]\n"),
            "echo '{}'",
        );
        prepare(&home);
        home.run(&["get", "KEY"]).failed()
    };
    let mode = |home: &Home, mode| {
        let program = home.path(".simpletuner/program");
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    assert!(
        by("no-such-program", |_| {}).contains("there is no program no-such-program in the PATH")
    );
    assert!(by("./nope", |_| {}).contains("nope does not exist"));
    let said = by("./program", |home| {
        let program = home.path(".simpletuner/program");
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o600)).unwrap();
    });
    assert!(said.contains("it is not executable"), "{said}");
    let said = by("./program", |home| {
        home.write(".simpletuner/program", "#!/no/such/shell\n");
    });
    assert!(said.contains("the interpreter in its first line"), "{said}");
    // Another user could have put it there.
    let home = home(ONE, "echo '{\"KEY\": \"v\"}'");
    mode(&home, 0o777);
    let said = home.run(&["get", "KEY"]).failed();
    assert!(said.contains("chmod go-w"), "{said}");
    mode(&home, 0o755);
    assert_eq!(home.run(&["get", "KEY"]).done(), "v");
}

#[test]
fn a_program_gets_only_the_common_variables_and_those_that_are_named() {
    let live = mount(
        "command: [{name: prog, run: [./program], env: [PROG_SESSION]}]\n",
        "env | cut -d= -f1 | sort > ../names; pwd > ../folder; \
         echo \"bad session $PROG_SESSION\" >&2; echo '{\"TOKEN\": \"hunter2\"}'; echo leaks hunter2 >&2",
        &[
            ("PROG_SESSION", "session-hunter3"),
            ("VAULT_TOKEN", "hunter4"),
            ("LC_ALL", "C.UTF-8"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
        ],
    );
    assert_eq!(done(&live, "cat secrets/TOKEN"), "hunter2");
    let names = std::fs::read_to_string(live.home("names")).unwrap();
    let names: BTreeSet<&str> = names.lines().collect();
    // The last three are the shell's own.
    let expected = ["HOME", "LC_ALL", "PATH", "PROG_SESSION", "XDG_RUNTIME_DIR"];
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let others: Vec<_> = names.iter().filter(|name| !own.contains(*name)).collect();
    assert_eq!(others, expected.iter().collect::<Vec<_>>());
    let folder = std::fs::read_to_string(live.home("folder")).unwrap();
    assert_eq!(folder.trim(), live.home(".simpletuner").to_str().unwrap());
    // Its words are in the log, and no value.
    let log = log(&live);
    assert!(
        log.contains("the prog provider's program says: bad session ***; leaks ***"),
        "{log}"
    );
    assert!(!log.contains("hunter"), "{log}");
    // A variable that the program gets is the program's, and no secret.
    let said = live.try_sh("cat secrets/PROG_SESSION");
    assert!(!said.status.success());
}

#[test]
fn the_end_of_a_mount_or_of_its_server_ends_the_program_that_runs() {
    let live = mount(
        "command: [{name: prog, run: [./program], timeout: 1000}]\n",
        "echo $$ >> ../pids; exec sleep 1000",
        &[],
    );
    let pids = || -> Vec<u32> {
        let pids = std::fs::read_to_string(live.home("pids")).unwrap_or_default();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    };
    let mut reader = live.command("cat").arg("secrets/KEY").spawn().unwrap();
    wait_until("the program runs", || pids().len() == 1);
    signal("KILL", live.server_pid());
    wait_until("it has ended with its server", || has_ended(pids()[0]));
    wait_until("the next server runs it anew", || pids().len() == 2);
    reader.kill().unwrap();
    reader.wait().unwrap();
    let pid = pids()[1];
    drop(live.stop());
    wait_until("it has ended with the mount", || has_ended(pid));
}

#[test]
fn a_program_for_one_key_gives_its_value_and_runs_once_at_a_time() {
    let live = mount(
        &format!("{PER_KEY}ttl: {{default: 300, missing: 300}}\n"),
        "echo \"$*\" >> ../runs\n\
         mkdir ../lock || { echo two at once >&2; exit 9; }\n\
         case $1 in\n\
           A) echo value of A;;\n\
           B) printf 'two\\nlines\\n';;\n\
           EMPTY) echo;;\n\
           NOTHING) ;;\n\
           BIG) head -c 70000 /dev/zero | tr '\\0' a;;\n\
           BINARY) printf '\\377';;\n\
           FAILS) echo broken; echo 'cannot decrypt: broken' >&2; rmdir ../lock; exit 2;;\n\
           *) echo \"$1 is not there\" >&2; rmdir ../lock; exit 1;;\n\
         esac\n\
         rmdir ../lock",
        &[],
    );
    let all = "for i in 1 2 3 4 5; do for k in A B EMPTY; do cat secrets/$k > /dev/null & done; done; wait";
    done(&live, all);
    assert_eq!(
        done(
            &live,
            "cat secrets/A; echo; cat secrets/B; wc -c < secrets/EMPTY"
        ),
        "value of A\ntwo\nlines\n0\n"
    );
    assert_eq!(runs(&live), 3);
    let at = done(&live, "stat -c %Y secrets/A");
    for key in ["NOPE", "NOTHING"] {
        let said = live.try_sh(&format!("cat secrets/{key} secrets/{key}"));
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.matches("No such file").count(), 2, "{said}");
    }
    assert_eq!(runs(&live), 5);
    for (key, expected) in [
        ("BIG", "its value is over 64 KiB"),
        ("BINARY", "its value is not UTF-8 text"),
        (
            "FAILS",
            "asked for FAILS, ended with exit code 2, and said: cannot decrypt: ***",
        ),
    ] {
        let said = live.try_sh(&format!("cat secrets/{key}"));
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("Input/output error"), "{said}");
        let report = live.json("providers/prog");
        let said = report["last_error"].as_str().unwrap();
        assert!(said.contains(expected), "{said}");
    }
    // A failure of one key holds up no other, and what looks like an option is never asked for.
    assert_eq!(done(&live, "cat secrets/A"), "value of A");
    let before = runs(&live);
    let said = live.try_sh("cat secrets/--x; cat secrets/-rf");
    assert!(!said.status.success());
    assert_eq!(runs(&live), before);
    // Not listed, but found.
    assert_eq!(done(&live, "ls secrets"), "");
    // An outage is bridged by the last values, and a value that stays has its time.
    done(&live, "echo > cache/clear");
    assert_eq!(done(&live, "cat secrets/A"), "value of A");
    assert_eq!(done(&live, "stat -c %Y secrets/A"), at);
    put(live.home.path(), "echo x >> ../runs; exit 1");
    let before = runs(&live);
    done(
        &live,
        "echo > cache/clear; for i in $(seq 20); do cat secrets/A > /dev/null; done",
    );
    assert_eq!(live.json("providers/prog")["stale"], true);
    assert!(
        runs(&live) - before <= 20,
        "a failing program is not run for each reader"
    );
    assert_eq!(done(&live, "cat secrets/A"), "value of A");
}

#[test]
fn a_priority_is_the_position_in_the_chain() {
    let live = mount(
        "command:\n  - {name: last, run: [echo, '{\"KEY\": \"last\", \"ENV\": \"last\"}']}\n  \
         - {name: first, run: [echo, '{\"KEY\": \"first\", \"ENV\": \"first\"}'], priority: 2}\n",
        "",
        &[("ENV", "environment")],
    );
    std::fs::write(
        live.home(".simpletuner/secrets.json"),
        r#"{"KEY": "file", "ENV": "file"}"#,
    )
    .unwrap();
    assert_eq!(
        done(&live, "cat secrets/KEY secrets/ENV"),
        "firstenvironment"
    );
    let all = live.sh("jq -sr 'sort_by(.priority) | map(.name) | join(\" \")' providers/*");
    assert_eq!(all, "environment first file aws vault last\n");
    // A write goes to the file, and says that an earlier provider has the key.
    let said = live.output_of(live.cli().args(["set", "KEY", "new"]));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("first"), "{said}");
    assert_eq!(done(&live, "cat secrets/KEY"), "first");
}

#[test]
fn a_wrong_setting_of_a_program_is_an_error_that_names_it() {
    for (command, expected) in [
        ("[{run: [a]}]", "command[0].name must be set"),
        ("[{name: a/b, run: [a]}]", "command[0].name is wrong"),
        ("[{name: .., run: [a]}]", "command[0].name is wrong"),
        (
            "[{name: aws, run: [a]}]",
            "command[0].name is the name of another provider",
        ),
        (
            "[{name: file, run: [a]}]",
            "command[0].name is the name of another provider",
        ),
        (
            "[{name: p, run: [a]}, {name: p, run: [b]}]",
            "command[1].name is the name of another provider",
        ),
        ("[{name: p}]", "command[0].run must be set"),
        ("[{name: p, run: []}]", "command[0].run must be set"),
        (
            "[{name: p, run: a b}]",
            "command[0].run must be a list of texts",
        ),
        (
            "[{name: p, run: [a, 1]}]",
            "command[0].run must be a list of texts",
        ),
        (
            "[{name: p, run: [a], per_key: true}]",
            "command[0].run must have {key}",
        ),
        (
            "[{name: p, run: ['{key}'], per_key: true}]",
            "{key} may stand in its arguments only",
        ),
        (
            "[{name: p, run: [a, '{key}']}]",
            "command[0].per_key must be true",
        ),
        (
            "[{name: p, run: [a], timeout: 0}]",
            "command[0].timeout must be a number of seconds above 0",
        ),
        (
            "[{name: p, run: [a], timeout: soon}]",
            "command[0].timeout must be a number of seconds",
        ),
        (
            "[{name: p, run: [a], env: [A=b]}]",
            "command[0].env must be a list of names",
        ),
        (
            "[{name: p, run: [a], priority: 0}]",
            "command[0].priority must be a position",
        ),
        (
            "[{name: p, run: [a], prioritty: 1}]",
            "did you mean \"command[].priority\"",
        ),
        (
            "pass",
            "command must be a list of names and values, not a text",
        ),
        (
            "[pass]",
            "command must be a list of names and values, not a text",
        ),
    ] {
        let said = home(&format!("command: {command}\n"), "")
            .run(&["get", "KEY"])
            .failed();
        assert!(said.contains(expected), "{command}: {said}");
    }
    // A list of one may be written without the list.
    let one = home("command: {name: p, run: [echo, '{\"KEY\": \"v\"}']}\n", "");
    assert_eq!(one.run(&["get", "KEY"]).done(), "v");
    let shown = one.run(&["settings"]).done();
    assert!(
        shown.contains("command[].run") && shown.contains("echo"),
        "{shown}"
    );
}
