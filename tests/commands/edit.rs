//! `edit` with real editors at a terminal. No value stays in a file, whatever becomes of the edit.

use std::fs;

use crate::support::home::{BINARY, Home, has_ended, ran, signal};
use crate::support::wait_until;
use crate::terminal::Terminal;

fn home_with(value: &str) -> Home {
    let home = Home::new();
    home.run_with(value, &["set", "KEY"]).done();
    home
}

/// The folders of edits that have this secret's name in them.
fn folders(name: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir("/dev/shm").unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| {
            path.to_string_lossy().contains("simpletuner-live-edit-") && path.join(name).exists()
        })
        .collect()
}

#[track_caller]
fn check_nothing_is_left(home: &Home, words: &[&str]) {
    for word in words {
        let found = ran(home.command("grep").args([
            "-ral",
            word,
            ".",
            "/var/tmp",
            "--exclude=input",
            "--exclude=script.sh",
        ]));
        assert_eq!(found.out, "", "{word} is in a file");
    }
}

#[test]
fn vim_nano_and_ed_change_a_value_and_leave_no_copy() {
    for (editor, keys) in [
        ("vim", &[":%s/koala77/zebra88/\r", ":wq\r"][..]),
        ("nano", &["\x1bOF\x0b\x0bzebra88", "\x0f\r", "\x18"]),
        ("ed", &["s/koala77/zebra88/\n", "w\n", "q\n"]),
    ] {
        let home = home_with("koala77");
        // What some people have, and what would write the value to their home.
        home.write(
            ".vimrc",
            "set undofile undodir=~ backup backupdir=~ directory=~ viminfo='100,<50,s10\n",
        );
        for mounted in [false, true] {
            if mounted {
                home.run_with("koala77", &["set", "KEY"]).done();
                home.run(&["mount"]).done();
            }
            let script = format!("EDITOR={editor} {BINARY} edit KEY; echo code=$?");
            let mut terminal = Terminal::run(&home, &script);
            terminal.wait_for(if editor == "ed" { "8" } else { "koala77" });
            for key in keys {
                terminal.types(key);
            }
            let shown = terminal.end();
            assert!(shown.contains("code=0"), "{editor}: {shown}");
            assert_eq!(home.run(&["get", "KEY"]).done(), "zebra88", "{editor}");
        }
        home.run(&["umount"]).done();
        check_nothing_is_left(&home, &["koala77", "zebra88"]);
    }
}

#[test]
fn nothing_changes_if_the_text_is_the_same_or_the_editor_fails() {
    let home = home_with("koala77");
    let edit = |editor: &str| {
        let mut command = home.command(BINARY);
        ran(command.args(["edit", "KEY"]).env("EDITOR", editor))
    };
    let same = edit("true");
    assert_eq!(same.code, 0);
    assert!(same.err.contains("the text is the same"), "{}", same.err);
    for (editor, reason) in [
        ("false", "exit code 1"),
        ("sh -c 'echo other > $1; exit 3' x", "exit code 3"),
        (
            "sh -c 'echo other > $1; kill -KILL $$' x",
            "KEY stays as it is",
        ),
        ("there-is-no-such-editor", "was not found"),
        ("truncate -s 0", "the text is empty"),
        ("truncate -s 70000", "too large"),
        ("sh -c 'printf \"\\377\" > $1' x", "not UTF-8"),
    ] {
        let failed = edit(editor).failed();
        assert!(failed.contains(reason), "{editor}: {failed}");
    }
    let meanwhile = format!("sh -c 'printf other | {BINARY} set KEY; echo mine > $1' x");
    let refused = edit(&meanwhile).failed();
    assert!(refused.contains("changed while you edited it"), "{refused}");
    assert_eq!(home.run(&["get", "KEY"]).done(), "other");
    let missing = {
        let mut command = home.command(BINARY);
        ran(command.args(["edit", "KEYS"]).env("EDITOR", "true"))
    };
    assert_eq!(missing.code, 4, "{}", missing.err);
}

#[test]
fn the_file_is_private_and_on_no_disk() {
    let home = home_with("one\ntwo");
    let editor = "sh -c 'stat -c %a $(dirname $1) $1; stat -f -c %T $1; tail -c 1 $1; ulimit -c' x";
    let mut command = home.command(BINARY);
    let shown = ran(command
        .args(["edit", "KEY"])
        .env("VISUAL", editor)
        .env("EDITOR", "false"))
    .done();
    assert_eq!(shown, "700\n600\ntmpfs\no0\n");
}

#[test]
fn an_edit_that_is_killed_leaves_nothing() {
    let home = home_with("koala77");
    // The name is this test's, so that no other's folder is taken for it.
    home.run_with("koala77", &["set", "KILLED_EDIT"]).done();
    home.write(
        "script",
        "echo $$ > editor; mv editor started; while :; do sleep 0.1; done",
    );
    let mut command = home.command(BINARY);
    let mut edit = command
        .args(["edit", "KILLED_EDIT"])
        .env("EDITOR", "sh script")
        .spawn()
        .unwrap();
    wait_until("the editor runs", || home.path("started").exists());
    let editor = std::fs::read_to_string(home.path("started")).unwrap();
    assert_eq!(folders("KILLED_EDIT").len(), 1);
    signal("KILL", edit.id());
    edit.wait().unwrap();
    wait_until("the folder is gone", || folders("KILLED_EDIT").is_empty());
    let editor = editor.trim().parse().unwrap();
    wait_until("the editor has ended", || has_ended(editor));
}
