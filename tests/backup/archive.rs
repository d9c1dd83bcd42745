//! What a backup is: a file that `age` and `tar` open, whole or not there, and nothing of it in plain text anywhere.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::home::{BINARY, Home, ran};
use super::{SECRETS, assert_private, back_up, backup_of, full_home, key_pair, restore_args};

#[test]
fn age_and_tar_alone_put_usable_files_in_their_places() {
    let home = full_home();
    back_up(&home, &[]);
    let other = Home::new();
    let [backup, identity] = backup_of(&home);
    let names = other.sh(&format!(
        "mkdir -m 700 ~/.simpletuner; cd ~/.simpletuner; age -d -i {identity} {backup} | tar -xv"
    ));
    for name in [
        "backup.json",
        "secrets.json",
        "secrets.json.previous",
        "credential.key",
        "live.yaml",
        "views.json",
        "cloud/jobs.db",
        "audit.key",
        "audit.db",
        "live-audit.db",
    ] {
        assert!(names.lines().any(|line| line == name), "{names}");
    }
    assert_private(&other.path(".simpletuner"));
    assert_eq!(
        other.run(&["get", "A", "B"]).done(),
        "A=hunter2-alpha\nB=hunter2-beta\n"
    );
    other.run(&["undo", "A", "--yes"]).done();
    assert_eq!(other.run(&["get", "A"]).done(), "hunter2-first");
    assert!(other.run(&["view", "ls"]).done().contains("trainer"));
    other.run(&["audit", "verify"]).done();
    other.run(&["mount"]).done();
    assert!(
        other
            .sh("cat ~/.simpletuner/live/config/replicate.json")
            .contains("hunter2-hook")
    );
    other.run(&["umount"]);
}

#[test]
fn a_passphrase_and_ssh_keys_open_it_too() {
    let home = full_home();
    home.sh("umask 077; echo 'correct horse' > pass; ssh-keygen -q -t ed25519 -N '' -f id");
    home.run(&["backup", "p.age", "--passphrase-file", "pass"])
        .done();
    let restored = home.run(&["restore", "p.age", "--passphrase-file", "pass", "--dry-run"]);
    assert!(restored.err.contains("here already"), "{}", restored.err);
    let key = home.sh("cat id.pub");
    home.run(&["backup", "s.age", "-r", key.trim(), "-R", "recipient"])
        .done();
    for identity in ["id", "identity"] {
        let listed = home.sh(&format!("age -d -i {identity} s.age | tar -t"));
        assert!(listed.contains("secrets.json"), "{listed}");
        home.run(&["restore", "s.age", "-i", identity, "--dry-run"])
            .done();
    }
    // From a pipe to a pipe.
    let piped = home.sh(&format!(
        "{BINARY} backup - -R recipient 2>/dev/null | {BINARY} restore - -i identity --dry-run 2>&1"
    ));
    assert!(piped.contains("here already"), "{piped}");
}

#[test]
fn nothing_of_it_is_in_plain_text_and_others_may_not_read_it() {
    let home = full_home();
    home.sh("umask 000; echo 'correct horse battery' > pass; chmod 600 pass");
    let made = home.run(&["backup", "p.age", "--passphrase-file", "pass"]);
    let mut said = made.err.clone();
    said.push_str(&made.done());
    said.push_str(&back_up(&home, &["--json"]));
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    let restored = other.run(&restore_args(&backup, &identity, &["--yes", "--json"]));
    said.push_str(&restored.err);
    said.push_str(&restored.done());
    let key = fs::read_to_string(home.path(".simpletuner/credential.key")).unwrap();
    let hidden = [
        &SECRETS[..],
        &["hunter2-first", "correct horse", key.trim()],
    ]
    .concat();
    for hidden in hidden {
        assert!(!said.contains(hidden), "{said}");
        for file in [
            "p.age",
            "b.age",
            ".simpletuner/audit.db",
            ".simpletuner/live-audit.db",
        ] {
            let content = fs::read(home.path(file)).unwrap();
            let is_there = content
                .windows(hidden.len())
                .any(|part| part == hidden.as_bytes());
            assert!(!is_there, "{file} has {hidden}");
        }
    }
    for file in ["p.age", "b.age"] {
        let mode = fs::metadata(home.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_private(&other.path(".simpletuner"));
    let left = home.sh("ls -A");
    assert!(
        !left
            .lines()
            .any(|name| name.starts_with(".p.") || name.starts_with(".b.")),
        "{left}"
    );
}

#[test]
fn a_file_that_is_there_is_replaced_only_with_force_and_a_failure_leaves_it_as_it_was() {
    let home = full_home();
    home.write("b.age", "mine");
    let said = home.run(&["backup", "b.age", "-R", "recipient"]).failed();
    assert!(
        said.contains("exists already") && said.contains("--force"),
        "{said}"
    );
    let said = home.run(&["backup", ".", "-R", "recipient"]).failed();
    assert!(said.contains("is a folder"), "{said}");
    let said = home
        .run(&["backup", "/dev/null", "--force", "-R", "recipient"])
        .failed();
    assert!(said.contains("no regular file"), "{said}");
    // A file size limit is a disk that is full.
    let full = ran(home.command("bash").args([
        "-c",
        &format!("trap '' XFSZ; ulimit -f 8; {BINARY} backup b.age --force -R recipient"),
    ]));
    assert!(full.failed().contains("error: "));
    assert_eq!(fs::read_to_string(home.path("b.age")).unwrap(), "mine");
    let left = home.sh("ls -A");
    assert!(!left.contains(".b.age"), "{left}");
    let failed = ran(home
        .command("bash")
        .args(["-c", &format!("{BINARY} backup - -R recipient > /dev/full")]));
    assert!(failed.failed().contains("No space left"));
    let closed = ran(home
        .command("bash")
        .args(["-c", &format!("{BINARY} backup - -R recipient >&-")]));
    assert!(closed.failed().contains("cannot write standard output"));
    std::os::unix::fs::symlink("target.age", home.path("link.age")).unwrap();
    home.run(&["backup", "target.age", "-R", "recipient"])
        .done();
    home.run(&["backup", "link.age", "--force", "-R", "recipient"])
        .done();
    assert!(
        fs::symlink_metadata(home.path("link.age"))
            .unwrap()
            .is_symlink()
    );
    home.run(&["mount"]).done();
    let inside = home.live("b.age").display().to_string();
    let said = home.run(&["backup", &inside, "-R", "recipient"]).failed();
    assert!(said.contains("lies in the mount itself"), "{said}");
    home.run(&["umount"]);
}

#[test]
fn it_says_what_it_has_and_which_key_it_needs() {
    let home = full_home();
    let json = |more: &[&str]| -> Value {
        let backup = ["backup", "j.age", "--force", "-R", "recipient", "--json"];
        serde_json::from_str(&home.run(&[&backup[..], more].concat()).done()).unwrap()
    };
    let whole = json(&[]);
    assert_eq!(whole["secrets"], 2);
    assert_eq!(whole["key"]["is_included"], true);
    let size = fs::metadata(home.path("j.age")).unwrap().len();
    assert_eq!(whole["size"], size);
    let part = json(&["--without-key", "--without-databases"]);
    assert_eq!(part["key"]["fingerprint"], whole["key"]["fingerprint"]);
    assert_eq!(part["key"]["is_included"], false);
    let names = home.sh("age -d -i identity j.age | tar -t");
    assert_eq!(
        names,
        "backup.json\nsecrets.json.previous\nsecrets.json\nviews.json\nlive.yaml\n"
    );
    let said = back_up(&home, &["--without-key"]);
    assert!(
        said.contains("without that key, nobody can read its secrets"),
        "{said}"
    );
    // A value that the key does not decrypt is named, and does not make the rest useless.
    home.sh("cd ~/.simpletuner; python3 -c 'import json; d = json.load(open(\"secrets.json\")); \
        d[\"LOST\"] = d[\"A\"][:60] + \"AAAA\" + d[\"A\"][64:]; json.dump(d, open(\"secrets.json\", \"w\"))'");
    let said = back_up(&home, &[]);
    assert!(said.contains("does not decrypt LOST"), "{said}");
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    let restored = other.run(&restore_args(&backup, &identity, &["--yes"]));
    assert!(
        restored.err.contains("did not decrypt LOST"),
        "{}",
        restored.err
    );
    restored.done();
    assert_eq!(other.run(&["get", "A"]).done(), "hunter2-alpha");
}

#[test]
fn with_the_key_in_a_variable_it_has_that_key_unless_it_is_left_out() {
    let home = Home::new();
    key_pair(&home);
    let with_key = |home: &Home, key: &str, args: &[&str]| {
        ran(home
            .command(BINARY)
            .env("SIMPLETUNER_CREDENTIAL_KEY", key)
            .args(args))
    };
    with_key(&home, "my own words", &["set", "A", "x"]).done();
    let made = with_key(
        &home,
        "my own words",
        &["backup", "b.age", "-R", "recipient"],
    );
    assert!(
        made.err
            .contains("the key is that of SIMPLETUNER_CREDENTIAL_KEY"),
        "{}",
        made.err
    );
    made.done();
    let [backup, identity] = backup_of(&home);
    let restore = restore_args(&backup, &identity, &["--yes", "--only", "secrets"]);
    let (other, third) = (Home::new(), Home::new());
    let said = with_key(&other, "other words", &restore).failed();
    assert!(
        said.contains("SIMPLETUNER_CREDENTIAL_KEY is not usable"),
        "{said}"
    );
    with_key(&other, "my own words", &restore).done();
    assert!(!other.path(".simpletuner/credential.key").exists());
    third.run(&restore).done();
    assert_eq!(third.run(&["get", "A"]).done(), "x");
    // White space at its ends would be lost in a file.
    with_key(&home, " spaces ", &["rm", "A"]).done();
    with_key(&home, " spaces ", &["set", "A", "x"]).done();
    let args = ["backup", "b.age", "--force", "-R", "recipient"];
    let made = with_key(&home, " spaces ", &args);
    assert!(made.err.contains("is not in it"), "{}", made.err);
    made.done();
}

#[test]
fn what_is_written_meanwhile_is_whole_in_each_backup() {
    let home = full_home();
    home.run(&["mount"]).done();
    let writer = "for n in $(seq 1000); do [ -e stop ] && break; \
         { printf '{\"A\": \"%s\", \"B\": \"%s\"}' $n $n > ~/.simpletuner/live/bundle/secrets.json; } || exit 1; done";
    let mut writer = home.command("bash").args(["-c", writer]).spawn().unwrap();
    for number in 0..8 {
        back_up(&home, &[]);
        let folder = home.path(&format!("by-hand-{number}/.simpletuner"));
        fs::create_dir_all(&folder).unwrap();
        let shown = folder.display();
        home.sh(&format!(
            "cd {shown}; age -d -i ~/identity ~/b.age | tar -x"
        ));
        let get = ran(home
            .command(BINARY)
            .env("HOME", folder.parent().unwrap())
            .args(["get", "A", "B"]))
        .done();
        let values: Vec<&str> = get.lines().map(|line| &line[2..]).collect();
        assert!(
            values[0] == values[1] || values == ["hunter2-alpha", "hunter2-beta"],
            "{get}"
        );
        ran(home
            .command(BINARY)
            .env("HOME", folder.parent().unwrap())
            .args(["audit", "verify"]))
        .done();
    }
    home.write("stop", "");
    assert!(writer.wait().unwrap().success());
    home.run(&["umount"]);
}

#[test]
fn at_a_terminal_it_asks_twice_shows_nothing_and_writes_nothing_there() {
    let home = full_home();
    let type_at = |script: &str, answers: &[&str]| {
        let mut command = Command::new("script");
        command
            .args(["-qec", script, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("HOME", home.0.path());
        command
            .current_dir(home.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let (mut keyboard, mut screen) =
            (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let mut shown = String::new();
        for answer in answers {
            let from = shown.len();
            while !shown[from..].contains("whole): ") {
                let mut byte = [0];
                assert_eq!(screen.read(&mut byte).unwrap(), 1, "it ended: {shown}");
                shown.push(char::from(byte[0]));
            }
            keyboard.write_all(answer.as_bytes()).unwrap();
        }
        let mut rest = Vec::new();
        screen.read_to_end(&mut rest).unwrap();
        shown.push_str(&String::from_utf8_lossy(&rest));
        (script.wait().unwrap().success(), shown)
    };
    let backup = format!("{BINARY} backup t.age");
    let (done, shown) = type_at(&backup, &["one horse\r", "two horses\r"]);
    assert!(!done && shown.contains("differ"), "{shown}");
    assert!(!home.path("t.age").exists());
    let (done, shown) = type_at(&backup, &["one horse\r", "one horse\r"]);
    assert!(done && !shown.contains("horse"), "{shown}");
    let (done, shown) = type_at(&format!("{BINARY} restore t.age"), &["one horse\r"]);
    assert!(
        done && shown.contains("here already") && !shown.contains("horse"),
        "{shown}"
    );
    let (done, shown) = type_at(&format!("{BINARY} backup -"), &[]);
    assert!(
        !done && shown.contains("not written to a terminal"),
        "{shown}"
    );
    let said = home.run(&["backup", "u.age"]).failed();
    assert!(said.contains("--passphrase-file"), "{said}");
}
