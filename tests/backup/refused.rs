//! Archives that are damaged, of a newer form, of another key, or made by an attacker: nothing of them is used.

use std::fs;

use super::support::home::{Home, is_root};
use super::{back_up, backup_of, full_home, key_pair, restore_args};

/// Restores in a new home, which stays empty. Returns what was said.
#[track_caller]
fn refused(home: &Home, backup: &str) -> String {
    let other = Home::new();
    let (backup, identity) = (
        home.path(backup).display().to_string(),
        home.path("identity").display().to_string(),
    );
    let said = other
        .run(&restore_args(&backup, &identity, &["--yes", "--force"]))
        .failed();
    let left = other.sh("ls -A");
    assert_eq!(left, "", "{said}");
    said
}

#[test]
fn a_damaged_or_truncated_backup_is_refused_wherever_it_is_damaged() {
    let home = full_home();
    back_up(&home, &[]);
    let whole = fs::read(home.path("b.age")).unwrap();
    for length in [
        0,
        1,
        20,
        150,
        250,
        whole.len() / 2,
        whole.len() - 17,
        whole.len() - 1,
    ] {
        fs::write(home.path("cut.age"), &whole[..length]).unwrap();
        let said = refused(&home, "cut.age");
        assert!(said.contains("cannot be used"), "{length}: {said}");
    }
    for at in [5, 30, 120, whole.len() / 3, whole.len() - 5] {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        fs::write(home.path("changed.age"), changed).unwrap();
        refused(&home, "changed.age");
    }
    fs::write(home.path("more.age"), [&whole[..], b"more"].concat()).unwrap();
    refused(&home, "more.age");
    home.sh(
        "cp ~/.simpletuner/secrets.json plain.age; age -a -R recipient -o armored.age plain.age",
    );
    assert!(refused(&home, "plain.age").contains("not encrypted in the age format"));
    assert!(refused(&home, "armored.age").contains("armored"));
    home.sh("age-keygen -o other 2>/dev/null; age -R recipient -o empty.age /dev/null");
    refused(&home, "empty.age");
    let said = home
        .run(&restore_args("b.age", "other", &["--yes"]))
        .failed();
    assert!(said.contains("none of these keys opens it"), "{said}");
    let said = home.run(&["restore", "b.age"]).failed();
    assert!(said.contains("-i FILE"), "{said}");
}

#[test]
fn a_newer_form_another_key_and_values_that_it_does_not_decrypt_are_refused() {
    let home = full_home();
    back_up(&home, &[]);
    // Archives as somebody with the public key could make them, from the files of a real one.
    home.sh(
        "mkdir x; cd x; age -d -i ../identity ../b.age | tar -x; cat > ../make.py <<'E'
import json, subprocess, sys, tarfile
name, change = sys.argv[1:]
manifest = json.load(open('backup.json'))
data = {f['name']: open(f['name'], 'rb').read() for f in manifest['files']}
extra, kinds = [], {}
exec(change)
for f in manifest['files']:
    f['size'] = f.get('said', len(data[f['name']])); f.pop('said', None)
with tarfile.open('../a.tar', 'w', format=tarfile.GNU_FORMAT) as tar:
    import io
    def add(name, content, **more):
        info = tarfile.TarInfo(name); info.size = len(content)
        for key, value in more.items(): setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))
    add('backup.json', json.dumps(manifest).encode())
    for f in manifest['files']: add(f['name'], data[f['name']])
    for name_, content, more in extra: add(name_, content, **more)
subprocess.check_call(['age', '-R', '../recipient', '-o', '../' + name, '../a.tar'])
E",
    );
    let make = |name: &str, change: &str| {
        home.write("x/change", change);
        home.sh(&format!(
            "cd x; rm -f ../{name}; python3 ../make.py {name} \"$(cat change)\""
        ));
        refused(&home, name)
    };
    // The script itself makes a good one.
    home.sh("cd x; python3 ../make.py good.age ''");
    let good = home.run(&restore_args("good.age", "identity", &["--dry-run"]));
    assert!(good.err.contains("here already"), "{}", good.err);

    let said = make(
        "newer.age",
        "manifest['form'] = 2; manifest['version'] = '9.9.9'",
    );
    assert!(said.contains("install version 9.9.9 or later"), "{said}");
    let said = make("key.age", "data['credential.key'] = b'another key'");
    assert!(said.contains("the key in it is not the one"), "{said}");
    let said = make(
        "value.age",
        "d = json.loads(data['secrets.json']); d['A'] = d['A'][:60] + 'AAAA' + d['A'][64:]; \
        data['secrets.json'] = json.dumps(d).encode()",
    );
    assert!(said.contains("its key does not decrypt A"), "{said}");
    make("store.age", "data['secrets.json'] = b'['");
    make("views.age", "data['views.json'] = b'[]'");
    make(
        "previous.age",
        "data['secrets.json.previous'] = b'nonsense'",
    );
    make("settings.age", "data['live.yaml'] = b'no_such_setting: 1'");
    make(
        "jobs.age",
        "data['cloud/jobs.db'] = b'SQLite format 3\\0' + b'x' * 9000",
    );
    for name in [
        "../outside",
        "/tmp/outside",
        "a/../../outside",
        "./a",
        "backup.json",
    ] {
        let change = format!(
            "f = manifest['files'][0]; data['{name}'] = data[f['name']]; f['name'] = '{name}'"
        );
        let said = make("name.age", &change);
        assert!(said.contains("outside of its folder"), "{said}");
        let said = make(
            "unlisted.age",
            &format!("extra.append(('{name}', b'x', {{}}))"),
        );
        assert!(
            said.contains("not in its list") || said.contains("another size"),
            "{said}"
        );
    }
    for kind in [
        "SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "DIRTYPE", "FIFOTYPE", "CONTTYPE",
    ] {
        let change = format!(
            "extra.append(('a', b'', {{'type': tarfile.{kind}, 'linkname': '/etc/passwd'}}))"
        );
        let said = make("kind.age", &change);
        assert!(
            said.contains("no regular file") || said.contains("not in its list"),
            "{kind}: {said}"
        );
    }
    make(
        "twice.age",
        "extra.append(('live.yaml', data['live.yaml'], {}))",
    );
    make(
        "missing.age",
        "manifest['files'][0]['name'] = 'gone'; data['gone'] = b'x'; manifest['files'][0]['said'] = 2",
    );
    let said = make(
        "giant.age",
        "f = manifest['files'][0]; f['said'] = 10 ** 12",
    );
    assert!(said.contains("too large"), "{said}");
    make("long.age", "extra.append(('x' * 5000, b'x', {}))");
    make(
        "role.age",
        "manifest['files'][0]['role'] = manifest['files'][1]['role']",
    );
}

#[test]
fn without_its_key_a_backup_needs_that_very_key() {
    let home = full_home();
    back_up(&home, &["--without-key"]);
    let [backup, identity] = backup_of(&home);
    let said = refused(&home, "b.age");
    assert!(
        said.contains("the backup has no key") && said.contains("credential.key"),
        "{said}"
    );
    let other = Home::new();
    other.run_with("x", &["set", "X"]).done();
    let args = restore_args(&backup, &identity, &["--yes", "--force"]);
    let said = other.run(&args).failed();
    assert!(said.contains("encrypted with another one"), "{said}");
    assert_eq!(other.run(&["get", "X"]).done(), "x");
    let third = Home::new();
    let key = home.path(".simpletuner/credential.key");
    third.sh(&format!(
        "mkdir -m 700 ~/.simpletuner; cp -p {} ~/.simpletuner/",
        key.display()
    ));
    third.run(&args).done();
    assert_eq!(third.run(&["get", "A"]).done(), "hunter2-alpha");
}

#[test]
fn what_is_wrong_here_is_said_before_a_passphrase_is_asked_for() {
    let home = Home::new();
    key_pair(&home);
    let said = home.run(&["backup", "b.age"]).failed();
    assert!(said.contains("there is nothing to back up"), "{said}");
    home.run_with("x", &["set", "X"]).done();
    for (args, expected) in [
        (&["-r", "nonsense"][..], "begins with age1"),
        (&["-r", "AGE-SECRET-KEY-1QQ"], "this is a private key"),
        (&["-R", "/dev/null"], "has no key"),
        (&["--passphrase-file", "/dev/null"], "is empty"),
        (&["--passphrase-file", "nowhere"], "No such file"),
    ] {
        let said = home.run(&[&["backup", "b.age"], args].concat()).failed();
        assert!(said.contains(expected), "{said}");
        assert!(
            !said.contains("nonsense") && !said.contains("SECRET-KEY-1QQ"),
            "{said}"
        );
    }
    home.sh("umask 077; printf 'the next key' > ~/.simpletuner/credential.key.new");
    let said = home.run(&["backup", "b.age", "-R", "recipient"]).failed();
    assert!(said.contains("key rotate"), "{said}");
    fs::remove_file(home.path(".simpletuner/credential.key.new")).unwrap();
    fs::remove_file(home.path(".simpletuner/credential.key")).unwrap();
    let said = home.run(&["backup", "b.age", "-R", "recipient"]).failed();
    assert!(said.contains("credential.key"), "{said}");
    assert!(!home.path("b.age").exists() && !home.path(".simpletuner/credential.key").exists());
}

#[test]
fn a_restore_of_another_key_leaves_no_secrets_without_theirs() {
    // The backup has a key, and no secrets.
    let home = Home::new();
    key_pair(&home);
    home.run_with("hunter2-alpha", &["set", "A"]).done();
    home.sh("rm ~/.simpletuner/secrets.json*");
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    other.run_with("hunter2-beta", &["set", "B"]).done();
    let args = restore_args(&backup, &identity, &["--yes", "--force"]);
    let refused = other.run(&args);
    assert_eq!(refused.code, 1);
    let said = refused.err;
    assert!(
        said.contains("secrets.json would lose its key; nothing has changed")
            && said.contains("--only settings,views,database,trails"),
        "{said}"
    );
    assert_eq!(other.run(&["get", "B"]).done(), "hunter2-beta");
    // What it says works, and a key that decrypts nothing is replaced.
    let only = ["--only", "settings,views,database,trails"];
    other.run(&[&args[..], &only].concat()).done();
    other.sh(": > ~/.simpletuner/credential.key");
    other.run(&args).done();
    let key = |home: &Home| fs::read(home.path(".simpletuner/credential.key")).unwrap();
    assert_eq!(key(&home), key(&other));
}

#[test]
fn a_key_file_that_cannot_be_replaced_is_said_before_anything_changes() {
    if !is_root() {
        return;
    }
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    other.run_with("mine", &["set", "MINE"]).done();
    other.sh(
        "cp -p ~/.simpletuner/credential.key key; mount --bind key ~/.simpletuner/credential.key",
    );
    let before = other.sh("ls -A ~/.simpletuner | grep -v -e audit -e lock");
    let args = restore_args(&backup, &identity, &["--yes", "--force"]);
    let refused = other.run(&args);
    assert_eq!(refused.code, 1);
    let said = refused.err;
    assert!(said.contains("mounted as a single file"), "{said}");
    let after = other.sh("ls -A ~/.simpletuner | grep -v -e audit -e lock");
    assert_eq!(after, before);
    assert_eq!(other.run(&["get", "MINE"]).done(), "mine");
    other.sh("umount ~/.simpletuner/credential.key");
    other.run(&args).done();
    assert_eq!(other.run(&["get", "A"]).done(), "hunter2-alpha");
}

#[test]
fn a_restore_of_another_key_leaves_no_other_secrets_file_without_its_own() {
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    other.write("other.yaml", "file_path: ~/other.json\n");
    other.sh("mkdir other");
    other
        .run_with("hunter2-beta", &["--config", "other.yaml", "set", "B"])
        .done();
    other
        .run(&["mount", "--config", "other.yaml", "other"])
        .done();
    let args = restore_args(&backup, &identity, &["--yes", "--force"]);
    let refused = other.run(&args);
    assert_eq!(refused.code, 1);
    let said = refused.err;
    assert!(said.contains("other.json would lose its key"), "{said}");
    let get = ["--config", "other.yaml", "get", "B"];
    assert_eq!(other.run(&get).done(), "hunter2-beta");
    // Nor one that the settings name, which the restore replaces.
    let third = Home::new();
    third.write(".simpletuner/live.yaml", "file_path: ~/own.json\n");
    third.run_with("hunter2-beta", &["set", "B"]).done();
    let refused = third.run(&args);
    assert_eq!(refused.code, 1);
    let said = refused.err;
    assert!(said.contains("own.json would lose its key"), "{said}");
    assert_eq!(third.run(&["get", "B"]).done(), "hunter2-beta");
}
