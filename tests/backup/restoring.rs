//! A restore: what it shows, what it replaces and keeps, and what a mount that runs shows then.

use std::fs;

use super::support::home::{Home, is_root};
use super::support::user::User;
use super::support::wait_until;
use super::{assert_private, back_up, backup_of, full_home, restore_args, states};

/// What a restore may replace, but for the databases.
fn content(home: &Home) -> Vec<Vec<u8>> {
    let names = [
        "secrets.json",
        "secrets.json.previous",
        "live.yaml",
        "views.json",
        "credential.key",
    ];
    let read = |name: &str| fs::read(home.path(".simpletuner").join(name)).unwrap();
    names.map(read).into()
}

#[test]
fn a_backup_of_one_home_is_restored_in_another_one() {
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    let args = restore_args(&backup, &identity, &[]);
    let plan = other
        .run(&[&args[..], &["--dry-run", "--json"]].concat())
        .done();
    assert!(
        states(&plan).iter().all(|(_, state)| state == "new"),
        "{plan}"
    );
    assert!(!other.path(".simpletuner").exists());
    let said = other.run(&args);
    assert!(
        said.code == 1 && said.err.contains("--yes does it without asking"),
        "{}",
        said.err
    );
    assert!(!other.path(".simpletuner").exists());
    other.run(&[&args[..], &["--yes"]].concat()).done();
    assert_eq!(
        other.run(&["get", "A", "B"]).done(),
        "A=hunter2-alpha\nB=hunter2-beta\n"
    );
    let same =
        |file: &str| fs::read(home.path(file)).unwrap() == fs::read(other.path(file)).unwrap();
    assert!(
        same(".simpletuner/live.yaml")
            && same(".simpletuner/views.json")
            && same(".simpletuner/credential.key")
    );
    assert_private(&other.path(".simpletuner"));
    other.run(&["audit", "verify"]).done();
    assert!(
        other
            .run(&["audit", "tail"])
            .done()
            .contains("Restored from the backup of")
    );
    let again = other.run(&[&args[..], &["--json"]].concat()).done();
    assert!(
        states(&again).iter().all(|(_, state)| state == "same"),
        "{again}"
    );
}

#[test]
fn what_differs_is_replaced_only_with_force_and_kept_and_the_mount_shows_it_at_once() {
    let home = full_home();
    home.run(&["mount"]).done();
    back_up(&home, &[]);
    home.sh("cd ~/.simpletuner/live; printf changed > secrets/A; rm secrets/B; printf new > secrets/C; rm views/trainer.json");
    home.sh("echo 'ttl: 61' > ~/.simpletuner/live.yaml; python3 -c '
import os, sqlite3
db = sqlite3.connect(os.path.expanduser(\"~/.simpletuner/cloud/jobs.db\")); db.execute(\"DELETE FROM provider_config\"); db.commit()'");
    let store = fs::read(home.path(".simpletuner/secrets.json")).unwrap();
    let before = content(&home);
    let args = restore_args("b.age", "identity", &["--yes"]);
    let refused = home.run(&args);
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .err
            .contains("differ from the backup, so nothing is restored"),
        "{}",
        refused.err
    );
    assert!(
        refused.out.contains("1 added, 1 changed, 1 removed"),
        "{}",
        refused.out
    );
    home.run(&[&args[..], &["--force", "--dry-run"]].concat())
        .done();
    assert!(before == content(&home));

    home.run(&[&args[..], &["--force"]].concat()).done();
    // At once: nothing is waited for.
    assert_eq!(
        home.sh("cd ~/.simpletuner/live/secrets; ls; cat A B"),
        "A\nB\nhunter2-alphahunter2-beta"
    );
    wait_until("the views follow", || {
        home.live("views/trainer.json").exists()
    });
    assert!(
        home.sh("cat ~/.simpletuner/live/config/replicate.json")
            .contains("hunter2-hook")
    );
    assert!(home.run(&["settings"]).done().contains("60"));
    let kept = home.sh("cd ~/.simpletuner; ls -d *.before-restore-* */*.before-restore-*");
    for name in [
        "secrets.json",
        "secrets.json.previous",
        "live.yaml",
        "views.json",
        "cloud/jobs.db",
    ] {
        assert!(
            kept.lines()
                .any(|line| line.starts_with(&format!("{name}.before-restore-"))),
            "{kept}"
        );
    }
    let name = kept
        .lines()
        .find(|line| line.starts_with("secrets.json.before"))
        .unwrap();
    assert_eq!(
        fs::read(home.path(".simpletuner").join(name)).unwrap(),
        store
    );
    let mode =
        home.sh("cd ~/.simpletuner; stat -c %a *.before-restore-* */*.before-restore-* | sort -u");
    assert_eq!(mode, "600\n");
    home.run(&["audit", "verify"]).done();
    let again = home.run(&args);
    assert!(
        again
            .err
            .contains("everything in the backup is here already"),
        "{}",
        again.err
    );
    home.run(&["umount"]);
}

#[test]
fn only_some_parts_are_restored_and_the_trails_are_never_set_back() {
    let home = full_home();
    back_up(&home, &[]);
    home.sh("echo 'ttl: 61' > ~/.simpletuner/live.yaml");
    home.run_with("changed", &["set", "A"]).done();
    let args = restore_args("b.age", "identity", &["--yes", "--force"]);
    home.run(&[&args[..], &["--only", "secrets"]].concat())
        .done();
    assert_eq!(home.run(&["get", "A"]).done(), "hunter2-alpha");
    assert_eq!(home.sh("cat ~/.simpletuner/live.yaml"), "ttl: 61\n");
    let rows = home.run(&["audit", "tail", "-n", "50"]).done();
    home.run(&args).done();
    assert_eq!(
        home.sh("cat ~/.simpletuner/live.yaml"),
        "ttl: 60  # a minute\n"
    );
    let after = home.run(&["audit", "tail", "-n", "50"]).done();
    assert!(after.starts_with(&rows), "{after}");
    home.run(&["audit", "verify"]).done();
    let said = home.run(&["restore", "b.age", "--only", "everything"]);
    assert_eq!(said.code, 2);
}

#[test]
fn another_key_here_is_replaced_with_the_secrets_and_kept() {
    let home = full_home();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    other.run_with("mine", &["set", "MINE"]).done();
    other.run(&["mount"]).done();
    let args = restore_args(&backup, &identity, &["--yes", "--only", "secrets"]);
    let refused = other.run(&args);
    assert!(
        refused.code == 1 && refused.out.contains("another key is here"),
        "{}",
        refused.out
    );
    assert_eq!(other.run(&["get", "MINE"]).done(), "mine");
    other.run(&[&args[..], &["--force"]].concat()).done();
    wait_until("the mount reads the secrets with their key", || {
        other.sh("cat ~/.simpletuner/live/secrets/A || true") == "hunter2-alpha"
    });
    // The way back is to put both where they were.
    other.sh(
        "cd ~/.simpletuner; for f in *.before-restore-*; do mv $f ${f%.before-restore-*}; done",
    );
    wait_until("the mount has its own again", || {
        other.sh("cat ~/.simpletuner/live/secrets/MINE || true") == "mine"
    });
    other.run(&["umount"]);
}

#[test]
fn an_adopted_home_is_one_again_and_a_store_elsewhere_goes_where_the_settings_have_it() {
    let home = full_home();
    home.run(&["adopt"]).done();
    back_up(&home, &[]);
    let [backup, identity] = backup_of(&home);
    let other = Home::new();
    let args = restore_args(&backup, &identity, &["--yes"]);
    other.run(&args).done();
    let link = fs::read_link(other.path(".simpletuner/secrets.json")).unwrap();
    assert_eq!(link.to_str(), Some("live/bundle/secrets.json"));
    assert_eq!(other.run(&["get", "A"]).done(), "hunter2-alpha");
    // Without its settings, the store is the one of the default settings.
    let third = Home::new();
    third
        .run(&[&args[..], &["--only", "secrets"]].concat())
        .done();
    assert_eq!(third.run(&["get", "A"]).done(), "hunter2-alpha");
    // A store in another place than the settings would have it is not overlooked.
    let fourth = Home::new();
    fourth.run_with("x", &["set", "X"]).done();
    let said = fourth.run(&[&args[..], &["--force"]].concat()).failed();
    assert!(said.contains("adopt"), "{said}");

    let far = Home::new();
    far.write(".simpletuner/live.yaml", "file_path: ~/far/away.yaml\n");
    far.sh("mkdir -m 700 ~/far");
    far.run_with("far", &["set", "FAR"]).done();
    super::key_pair(&far);
    back_up(&far, &[]);
    assert!(
        far.sh("age -d -i identity b.age | tar -t")
            .contains("elsewhere/secrets.yaml")
    );
    let [backup, identity] = backup_of(&far);
    let fifth = Home::new();
    let restored = fifth.run(&restore_args(&backup, &identity, &["--yes"]));
    assert!(
        restored.err.contains("is put outside of"),
        "{}",
        restored.err
    );
    restored.done();
    assert_eq!(fifth.run(&["get", "FAR"]).done(), "far");
    assert!(fifth.path("far/away.yaml").exists());
}

#[test]
fn a_malformed_settings_file_here_does_not_prevent_a_restore() {
    let home = full_home();
    back_up(&home, &[]);
    home.sh("echo 'nonsense: [' > ~/.simpletuner/live.yaml");
    let args = restore_args("b.age", "identity", &["--yes", "--force"]);
    let said = home
        .run(&[&args[..], &["--only", "secrets"]].concat())
        .failed();
    assert!(said.contains("live.yaml"), "{said}");
    home.run(&args).done();
    assert_eq!(home.run(&["get", "A"]).done(), "hunter2-alpha");
}

#[test]
fn an_ordinary_user_restores_what_another_one_has_backed_up() {
    if !is_root() {
        return;
    }
    let home = full_home();
    back_up(&home, &[]);
    let user = User::new("nobody");
    for name in ["b.age", "identity"] {
        fs::copy(home.path(name), user.path(name)).unwrap();
        std::os::unix::fs::chown(user.path(name), Some(user.uid()), Some(user.uid())).unwrap();
    }
    let args = restore_args("b.age", "identity", &["--yes"]);
    user.run(&args).done();
    assert_eq!(user.run(&["get", "A"]).done(), "hunter2-alpha");
    let owners = user.sh("find .simpletuner -printf '%u %m\\n' | sort -u");
    assert!(
        owners.lines().all(|line| line.starts_with("nobody ")),
        "{owners}"
    );
    user.run(&["audit", "verify"]).done();
    user.sh("cat identity > /dev/null");
    let recipient = fs::read_to_string(home.path("recipient")).unwrap();
    user.run(&["backup", "own.age", "-r", recipient.trim()])
        .done();
    let again = user.run(&restore_args("own.age", "identity", &[]));
    assert!(again.err.contains("here already"), "{}", again.err);
}
