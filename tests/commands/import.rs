//! `import` sets all or nothing, `export` writes what it reads, `set --generate` makes new values.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::home::{BINARY, Home, ran};
use crate::terminal::Terminal;

#[test]
fn a_plan_is_shown_and_all_is_set_in_one_write() {
    for mounted in [false, true] {
        let home = Home::new();
        home.run_with("1", &["set", "SAME"]).done();
        home.run_with("1", &["set", "OTHER"]).done();
        if mounted {
            home.run(&["mount"]).done();
        }
        home.write("file.env", "SAME=1\nOTHER=hunter2\nNEW=hunter3\n");
        let planned = home.run(&["import", "file.env", "--dry-run", "--json"]);
        let planned: Value = serde_json::from_str(&planned.done()).unwrap();
        let expected = json!([
            { "name": "SAME", "change": "same", "line": 1 },
            { "name": "OTHER", "change": "changed", "line": 2 },
            { "name": "NEW", "change": "new", "line": 3 },
        ]);
        assert_eq!(planned, expected);
        let unasked = home.run(&["import", "file.env"]);
        assert_eq!(unasked.code, 1);
        assert!(unasked.err.contains("--yes"), "{}", unasked.err);
        assert_eq!(home.run(&["get", "NEW"]).code, 4);
        let done = home.run(&["import", "file.env", "--yes"]);
        assert_eq!(done.code, 0, "{}", done.err);
        for text in [&done.out, &done.err, &unasked.out, &unasked.err] {
            assert!(!text.contains("hunter"), "{text}");
        }
        let all = home.run(&["get", "--json", "SAME", "OTHER", "NEW"]).done();
        let all: Value = serde_json::from_str(&all).unwrap();
        assert_eq!(
            all,
            json!({ "SAME": "1", "OTHER": "hunter2", "NEW": "hunter3" })
        );
        let again = home.run(&["import", "file.env"]);
        assert_eq!(again.code, 0, "{}", again.err);
        assert!(again.err.contains("nothing is to be set"), "{}", again.err);
        // One write of the store has one time.
        let history = home.run(&["history", "--json"]).done();
        let history: Vec<Value> = serde_json::from_str(&history).unwrap();
        let times: Vec<&Value> = history
            .iter()
            .filter(|row| row["key"] != "SAME")
            .map(|row| &row["at"])
            .collect();
        assert_eq!(times[0], times[1], "{history:?}");
        if mounted {
            home.run(&["umount"]).done();
        }
    }
}

#[test]
fn what_a_variable_overrides_is_imported_and_said() {
    for mounted in [false, true] {
        let home = Home::new();
        home.write("file.env", "HF_TOKEN=same\n");
        if mounted {
            let mut mount = home.command(BINARY);
            ran(mount.env("HF_TOKEN", "same").arg("mount")).done();
        }
        let mut import = home.command(BINARY);
        let imported = ran(import
            .env("HF_TOKEN", "same")
            .args(["import", "file.env", "--yes"]));
        assert!(imported.out.contains("new"), "{}", imported.out);
        assert!(imported.err.contains("environment"), "{}", imported.err);
        if mounted {
            home.run(&["umount"]).done();
        }
        assert_eq!(home.run(&["get", "HF_TOKEN"]).done(), "same");
    }
}

#[test]
fn nothing_is_set_if_a_line_is_wrong_or_has_two_meanings() {
    let home = Home::new();
    for (text, reasons) in [
        (
            "A=1\nB='hunter2'\n",
            &[
                "line 2: B",
                "`simpletuner-live import --format docker - --yes`",
            ][..],
        ),
        (
            "A=1\nB=a\0b\n\nC=\0\n",
            &["line 2: there is a NUL character", "line 4: "],
        ),
        ("A=1\nA=2\n", &["line 2: A is on line 1 as well"]),
        ("A=1\n4913=2\n", &["line 2", "4913"]),
        (
            "{\"A\": \"1\", \"B\": 2}",
            &["B is a number", "put it in quotes"],
        ),
    ] {
        let refused = home.run_with(text, &["import", "-", "--yes"]);
        let refused = refused.failed();
        for reason in reasons {
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(home.run(&["ls"]).done(), "");
    }
}

#[test]
fn what_is_exported_is_imported_elsewhere_as_it_was() {
    let from = Home::new();
    let values = [
        ("PLAIN", "hf_x"),
        ("QUOTES", "it's \"$5\" `id` \\ #x ~"),
        ("BLANKS", "  a\tb  "),
        ("LINES", "a\n\nb"),
        ("UNICODE", "ä猫"),
        ("EMPTY", ""),
    ];
    for (name, value) in values {
        from.run_with(value, &["set", name, "--empty"]).done();
    }
    for format in ["env", "json", "yaml", "docker"] {
        let to = Home::new();
        let file = to.path("exported");
        let exported = from.run(&["export", "--format", format, "-o", file.to_str().unwrap()]);
        let is_whole = format != "docker";
        assert_eq!(exported.code, i32::from(!is_whole), "{}", exported.err);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let imported = to.run(&["import", "--format", format, "exported", "--yes"]);
        assert_eq!(imported.code, 0, "{}", imported.err);
        for (name, value) in values {
            match to.run(&["get", name]) {
                found if found.code == 0 => assert_eq!(found.out, value, "{format} {name}"),
                // A value of several lines.
                missing => assert_eq!((format, name, missing.code), ("docker", "LINES", 4)),
            }
        }
    }
    let file = from.path("file");
    fs::write(&file, "before").unwrap();
    let there = from.run(&["export", "-o", "file"]).failed();
    assert!(there.contains("--force"), "{there}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    from.run(&["export", "--force", "-o", "file", "PLAIN"])
        .done();
    assert_eq!(fs::read_to_string(&file).unwrap(), "PLAIN=hf_x\n");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(from.run(&["export", "NOPE", "PLAIN"]).code, 4);
}

#[test]
fn a_file_without_secrets_is_said_to_have_none() {
    let home = Home::new();
    for text in ["", "# nothing\n", "{}", "---\n"] {
        let said = home.run_with(text, &["import", "-"]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.err.contains("it has no secrets"), "{}", said.err);
    }
}

#[test]
fn an_export_replaces_no_device() {
    let home = Home::new();
    home.run_with("zebra", &["set", "A"]).done();
    // A FIFO stands for a device, which the test must not lose.
    home.sh("mkfifo pipe; ln -s pipe link");
    for file in ["pipe", "link", "."] {
        let refused = home.run(&["export", "--force", "-o", file]).failed();
        assert!(refused.contains(file), "{refused}");
    }
    assert_eq!(home.sh("stat -c %F pipe link"), "fifo\nsymbolic link\n");
    assert_eq!(home.run(&["export", "-o", "-"]).done(), "A=zebra\n");
    assert!(!home.path("-").exists());
}

#[test]
fn an_export_to_a_terminal_warns() {
    let home = Home::new();
    home.run_with("v", &["set", "A"]).done();
    let shown = Terminal::run(&home, "live export; live export | cat").end();
    assert_eq!(
        shown
            .matches("warning: the values are shown at this terminal")
            .count(),
        1,
        "{shown}"
    );
    assert_eq!(shown.matches("A=v").count(), 2, "{shown}");
}

#[test]
fn a_generated_value_is_random_and_not_shown() {
    let home = Home::new();
    let first = home.run(&["set", "A", "--generate"]);
    assert_eq!((first.code, &*first.out, &*first.err), (0, "", ""));
    let value = home.run(&["get", "A"]).done();
    assert!(
        value.len() == 32 && value.chars().all(|c| c.is_ascii_alphanumeric()),
        "{value}"
    );
    let unasked = home.run(&["set", "A", "--generate"]).failed();
    assert!(unasked.contains("--yes"), "{unasked}");
    assert_eq!(home.run(&["get", "A"]).done(), value);
    let args = [
        "set",
        "A",
        "--generate",
        "--yes",
        "--length",
        "5",
        "--alphabet",
        "chars:xy",
        "--print",
    ];
    let printed = home.run(&args);
    assert!(printed.err.contains("5 bits"), "{}", printed.err);
    let printed = printed.done();
    assert!(
        printed.len() == 5 && printed.chars().all(|c| "xy".contains(c)),
        "{printed}"
    );
    assert_eq!(home.run(&["get", "A"]).done(), printed);
    let mut terminal = Terminal::run(&home, "live set A --generate; echo code=$?");
    terminal.wait_for("[y/N] ");
    terminal.types("n\r");
    assert!(terminal.end().contains("code=1"));
    assert_eq!(home.run(&["get", "A"]).done(), printed);
}

#[test]
fn a_generated_value_that_cannot_be_printed_is_stored_and_said() {
    let home = Home::new();
    home.run_with("before", &["set", "A"]).done();
    let generate = |output: &str| {
        let mut bash = home.command("bash");
        let set = format!("{BINARY} set A --generate --yes --print");
        let script = format!("rm -f pipe; mkfifo pipe; exec 3<> pipe 4> pipe 3>&-; {set} {output}");
        ran(bash.args(["-c", &script]))
    };
    // Known before: nothing changes.
    let closed = generate(">&-").failed();
    assert!(closed.contains("nothing has changed"), "{closed}");
    assert_eq!(home.run(&["get", "A"]).done(), "before");
    for (output, reason) in [
        ("> /dev/full", "No space left on device"),
        // Its reader has exited.
        (">&4", "the reader of standard output has exited"),
    ] {
        let before = home.run(&["get", "A"]).done();
        let failed = generate(output).failed();
        assert!(
            failed.contains("A is stored, but not printed") && failed.contains(reason),
            "{failed}"
        );
        assert_ne!(home.run(&["get", "A"]).done(), before);
        home.run(&["undo", "A", "--yes"]).done();
        assert_eq!(home.run(&["get", "A"]).done(), before);
    }
}

#[test]
fn set_edit_import_and_the_mount_agree_on_what_a_value_can_hold() {
    let home = Home::new();
    home.run(&["mount"]).done();
    // A NUL is UTF-8 as any other character; only a variable cannot hold it.
    let value = "a\0b";
    let set = home.run_with(value, &["set", "SET"]);
    assert!(set.err.contains("NUL character"), "{}", set.err);
    assert!(!set.err.contains("--trim"), "{}", set.err);
    fs::write(home.live("secrets/WRITTEN"), value).unwrap();
    let json = r#"{"IMPORTED": "a\u0000b"}"#;
    let imported = home.run_with(json, &["import", "-", "--yes"]);
    assert!(imported.err.contains("NUL character"), "{}", imported.err);
    home.run_with("x", &["set", "EDITED"]).done();
    let mut edit = home.command(BINARY);
    let edited = ran(edit
        .args(["edit", "EDITED"])
        .env("EDITOR", "sh -c 'printf \"a\\0b\" > $1' x"));
    assert!(edited.err.contains("NUL character"), "{}", edited.err);
    for name in ["SET", "WRITTEN", "IMPORTED", "EDITED"] {
        assert_eq!(home.run(&["get", name]).out, value, "{name}");
    }
    // What is exported is imported as it was.
    for format in ["json", "yaml"] {
        let exported = home.run(&["export", "--format", format]).done();
        let again = home.run_with(&exported, &["import", "-", "--format", format]);
        assert!(again.err.contains("nothing is to be set"), "{}", again.err);
    }
    home.run(&["umount"]).done();
}

#[test]
fn set_says_when_a_value_has_blanks_or_a_carriage_return_at_its_ends() {
    let home = Home::new();
    for (value, word) in [
        ("x ", "white space"),
        (" x", "white space"),
        ("x\r\n", "Windows line ends"),
    ] {
        let set = home.run_with(value, &["set", "A"]);
        assert_eq!(set.code, 0);
        assert!(set.err.contains(word), "{}", set.err);
    }
}
