//! What an ordinary user meets, and mends as it is printed, through a sudo. Each case has a mount namespace of its own with a copy of
//! `/etc`, so that the machine stays as it is. Packages are not installed, because a test has no network: a stub does what apt does.

use super::*;
use support::home::is_root;

/// What `sudo` does here, where it may not be installed: it asks for no password.
const SUDO: &str = "#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    return setgid(0) || setuid(0) || setenv(\"HOME\", \"/root\", 1) || execvp(words[1], words + 1);
}";

/// The command that the check `$1` prints in the file `first`, or none.
const FIX: &str = r#"fix() { python3 -c 'import json, sys
fixes = [f["fix"] for c in json.load(open("first")) if c["id"] == sys.argv[1] for f in c["findings"] if f["fix"]]
print(fixes[0] if fixes else ":")' "$1"; }"#;

/// What was found, the command that was printed and run, and what was found then.
struct Mended {
    before: Found,
    fix: String,
    after: Found,
}

impl Mended {
    /// It was found, and is so no more.
    #[track_caller]
    fn was(&self, status: &str, words: &str) -> &Self {
        self.before.is(status, words);
        let after = &self.after;
        assert!(!after.says(words), "{}: {}", self.fix, after.0);
        self
    }
}

/// Runs the checks as this user after `script`, which root has run, and once more after the command that `id` prints. `$as` and
/// `$login` go before a program to run it as the user, and as at a new log-in.
#[track_caller]
fn as_user(who: &str, script: &str, id: &str) -> Mended {
    let home = Home::new();
    home.write("sudo.c", SUDO);
    let script = format!(
        "set -e; mount --make-rprivate /; chmod 755 .; mkdir -p etc suid home/.simpletuner
         cp -a /etc/. etc; mount --bind etc /etc; mount -t tmpfs -o mode=755 none suid
         [ {who} = root ] || {{ cc -o suid/sudo sudo.c; chmod 4755 suid/sudo; }}
         install -m 755 '{BINARY}' suid/simpletuner-live
         chmod 700 home/.simpletuner; chown -R {who}: home; HOME=$PWD; export PATH=$PWD/suid:$PATH
         as=\"env -C $PWD/home HOME=$PWD/home setpriv --reuid {who} --regid $(id -g {who}) --clear-groups\"
         again=$as
         {script}
         {FIX}
         $as $limit simpletuner-live doctor --json > first || [ $? = 1 ]
         fix {id} > fix
         case $(cat fix) in
         # These are for the shell in which they are typed.
         export*|unset*|ulimit*) $as $limit sh -c \"$(cat fix); exec simpletuner-live doctor --json\" > second || [ $? = 1 ];;
         *) $as sh -c \"$(cat fix)\" >&2
             $again simpletuner-live doctor --json > second || [ $? = 1 ];;
         esac
         chmod -R u+rwX home"
    );
    let mut command = home.command("unshare");
    ran(command.args(["-m", "bash", "-c", &script])).done();
    let of = |file: &str| {
        let text = std::fs::read_to_string(home.path(file)).unwrap();
        assert!(!text.contains(VALUE), "{text}");
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        Report { code: 0, checks }.check(id)
    };
    let fix = std::fs::read_to_string(home.path("fix")).unwrap();
    // Root in a container may have no sudo.
    assert!(who != "root" || !fix.contains("sudo "), "{fix}");
    Mended {
        before: of("first"),
        fix: fix.trim_end().to_owned(),
        after: of("second"),
    }
}

/// Another `/dev` with this in it.
fn dev_with(make: &str) -> String {
    format!(
        "mkdir dev; mount -t tmpfs -o mode=755 none dev; mkdir dev/shm; mount --rbind /dev/shm dev/shm
         mknod -m 666 dev/null c 1 3; mknod -m 666 dev/urandom c 1 9; {make}; mount --rbind dev /dev"
    )
}

#[test]
fn a_device_that_cannot_be_opened_is_mended_by_the_owner_of_the_machine() {
    if !is_root() {
        return;
    }
    let closed = as_user(
        "nobody",
        &dev_with("mknod -m 600 dev/fuse c 10 229"),
        "device",
    );
    closed.was("failed", "cannot be opened: Permission denied");
    assert_eq!(closed.fix, "sudo chmod 666 /dev/fuse");
    let nodev = "mkdir d; mount -t tmpfs -o nodev none d; mknod -m 666 d/fuse c 10 229; mount --bind d/fuse /dev/fuse";
    as_user("nobody", nodev, "device").was("failed", "mounted with nodev");
    // The kernel of a test has FUSE, so this says that it has not; the stub does what the module's load does.
    let no_module = format!(
        "echo nodev > none; {}; mount --bind none /proc/filesystems
         printf '#!/bin/sh\\n[ \"$*\" = fuse ] && umount /proc/filesystems && mknod -m 666 /dev/fuse c 10 229' > suid/modprobe
         chmod 755 suid/modprobe",
        dev_with(":")
    );
    for (who, fix) in [("nobody", "sudo modprobe fuse"), ("root", "modprobe fuse")] {
        let module = as_user(who, &no_module, "device");
        module.was("failed", "the kernel has not loaded the module");
        assert_eq!(module.fix, fix);
        assert_eq!(module.after.status(), "ok");
    }
}

#[test]
fn a_fusermount3_that_is_missing_or_has_no_rights_is_mended() {
    if !is_root() {
        return;
    }
    let apt = "export FUSERMOUNT_PATH=$PWD/suid/fusermount3
        printf '#!/bin/sh\\n[ \"$*\" = \"install fuse3\" ] && install -m 4755 \"$(command -v fusermount3)\" \"$FUSERMOUNT_PATH\"' > suid/apt
        chmod 755 suid/apt";
    let missing = as_user("nobody", apt, "fusermount");
    missing.was("failed", "which is not installed");
    assert_eq!(missing.fix, "sudo apt install fuse3");
    assert_eq!(missing.after.status(), "ok");
    let weak = "mkdir 'suid/a b'; export FUSERMOUNT_PATH=\"$PWD/suid/a b/fusermount3\"
        install -m 755 -o daemon \"$(command -v fusermount3)\" \"$FUSERMOUNT_PATH\"";
    let weak = as_user("nobody", weak, "fusermount");
    weak.was("failed", "is not set-user-id root");
    assert_eq!(weak.after.status(), "ok");
}

#[test]
fn a_line_of_fuse_conf_is_added_as_a_line_of_its_own() {
    if !is_root() {
        return;
    }
    let root_in = "echo 'allow_root: true' > home/.simpletuner/live.yaml";
    let no_end = format!("{root_in}; printf '# no end' > /etc/fuse.conf");
    let mended = as_user("nobody", &no_end, "allow_other");
    mended.was("failed", "root cannot be let in");
    assert_eq!(mended.after.status(), "ok");
    let view = "echo '{\"v\": {\"secrets\": [\"A\"]}}' > home/.simpletuner/views.json; chown nobody: home/.simpletuner/*";
    let views = format!("{view}; echo '#user_allow_other' > /etc/fuse.conf");
    let mended = as_user("nobody", &views, "allow_other");
    mended.was("warning", "only this user can read the views");
    assert_eq!(
        mended.fix,
        "echo user_allow_other | sudo tee -a /etc/fuse.conf"
    );
    assert_eq!(mended.after.status(), "ok");
    let hidden =
        format!("{root_in}; echo user_allow_other > /etc/fuse.conf; chmod 640 /etc/fuse.conf");
    let mended = as_user("nobody", &hidden, "allow_other");
    mended.was("warning", "may not be read");
    assert_eq!(mended.after.status(), "ok");
    // As fusermount3 reads it.
    let comment = format!("{root_in}; echo ' user_allow_other # for root' > /etc/fuse.conf");
    assert_eq!(
        as_user("nobody", &comment, "allow_other").before.status(),
        "ok"
    );
}

#[test]
fn limits_are_raised_for_the_next_login() {
    if !is_root() {
        return;
    }
    // A container may not be allowed to raise limits (CAP_SYS_RESOURCE). There the login keeps those of this process, which are enough.
    let login = "again=\"env -C $PWD/home su -s $PWD/suid/login nobody --\"
        printf '#!/bin/sh\\nHOME=%s/home exec \"$@\"\\n' \"$PWD\" > suid/login; chmod 755 suid/login";
    for (limit, id, words) in [
        (
            "--memlock=65536:65536",
            "memory",
            "only 64 KiB may be locked",
        ),
        (
            "--nofile=256:256",
            "descriptors",
            "may open 256 files at most",
        ),
        (
            "--nofile=20:20",
            "descriptors",
            "the limit of open files is 20",
        ),
    ] {
        let script = format!("{login}; limit='prlimit {limit}'");
        let mended = as_user("nobody", &script, id);
        let status = if limit.ends_with(":20") {
            "failed"
        } else {
            "warning"
        };
        mended.was(status, words);
        assert!(
            mended.fix.starts_with("echo \"$(id -un) - "),
            "{}",
            mended.fix
        );
        assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    }
}

#[test]
fn a_folder_that_cannot_be_entered_is_one_finding_and_is_opened() {
    if !is_root() {
        return;
    }
    let set = "echo hunter2 | $as simpletuner-live set A";
    for (script, fix) in [
        ("chmod 000 home/.simpletuner", "chmod u+rwx "),
        (
            "chown root: home/.simpletuner",
            "sudo chown \"$(id -un)\": ",
        ),
    ] {
        let mended = as_user("nobody", &format!("{set}; {script}"), "files");
        mended.was("failed", "this user may not use the folder");
        let findings = mended.before.0["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(mended.fix.starts_with(fix), "{}", mended.fix);
        assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    }
    // A folder of others is not taken from its owner.
    let far = format!(
        "mkdir -p -m 700 \"far/it's\"; chown nobody: \"far/it's\"
         echo \"file_path: \\\"$PWD/far/it's/s.json\\\"\" > home/.simpletuner/live.yaml; {set}; chmod 700 far"
    );
    let mended = as_user("nobody", &far, "files");
    mended.was("failed", "this user may not use the folder");
    assert!(
        mended.fix.starts_with("sudo setfacl -m \"u:$(id -un):x\" "),
        "{}",
        mended.fix
    );
    assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    let of_system = "echo 'file_path: /etc/s.json' > home/.simpletuner/live.yaml";
    let found = as_user("nobody", of_system, "files");
    found.before.is(
        "failed",
        "let the settings name a file in a folder of this user's",
    );
    assert_eq!(found.fix, ":", "never chown /etc");
}

#[test]
fn a_file_that_may_not_be_read_is_mended_by_each_check_that_needs_it() {
    if !is_root() {
        return;
    }
    let made = "echo hunter2 | $as simpletuner-live set A; echo '{}' > home/.simpletuner/views.json
        echo 'ttl: 3' > home/.simpletuner/live.yaml; $as mkdir .simpletuner/cloud
        $as sqlite3 .simpletuner/cloud/jobs.db 'create table a (b)'; chown -R nobody: home";
    for (file, id, words) in [
        (
            "views.json",
            "views",
            "views.json: it cannot be read: Permission denied",
        ),
        ("live.yaml", "settings", "Permission denied"),
        ("secrets.json", "store", "Permission denied"),
        (
            "credential.key",
            "key",
            "it cannot be read: Permission denied",
        ),
        (
            "secrets.json.previous",
            "store",
            "`undo` cannot set anything back",
        ),
        ("audit.key", "audit", "it cannot be read: Permission denied"),
        ("audit.db", "audit", "the database "),
        ("cloud/jobs.db", "simpletuner", "the database "),
    ] {
        let of_user = as_user(
            "nobody",
            &format!("{made}; chmod 000 home/.simpletuner/{file}"),
            id,
        );
        let status = if words.starts_with("`undo`") {
            "warning"
        } else {
            "failed"
        };
        let path = format!(".simpletuner/{file}");
        assert!(!of_user.before.says("os error"), "{}", of_user.before.0);
        of_user.was(status, words);
        assert!(
            of_user.fix.starts_with("chmod u+rw ") && of_user.fix.ends_with(&path),
            "{}",
            of_user.fix
        );
        // As `sudo simpletuner-live` may have left it.
        let of_root = format!("{made}; chown root: home/{path}; chmod 600 home/{path}");
        let of_root = as_user("nobody", &of_root, id);
        of_root.was(status, words);
        assert!(
            of_root.fix.starts_with("sudo chown \"$(id -un)\": "),
            "{}",
            of_root.fix
        );
    }
}

#[test]
fn users_and_groups_of_views_are_made() {
    if !is_root() {
        return;
    }
    let set = "echo hunter2 | $as simpletuner-live set A; chmod 755 home";
    for (who, kind, fix) in [
        ("root", "user", "useradd --system nosuch"),
        ("nobody", "user", "sudo useradd --system nosuch"),
        ("nobody", "group", "sudo groupadd --system nosuch"),
    ] {
        let view = format!(
            "{set}; echo '{{\"v\": {{\"secrets\": [\"A\"], \"{kind}\": \"nosuch\"}}}}' > home/.simpletuner/views.json
             chown {who}: home/.simpletuner/views.json"
        );
        let mended = as_user(who, &view, "views");
        mended.was(
            "failed",
            &format!("for the {kind} nosuch, who does not exist"),
        );
        assert_eq!(mended.fix, fix);
        assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    }
}

#[test]
fn a_home_that_is_anothers_or_not_there_is_named_with_the_way_to_ones_own() {
    if !is_root() {
        return;
    }
    for (who, script, words) in [
        (
            "root",
            "chown daemon: home",
            "who could not use the files that root would create there",
        ),
        (
            "nobody",
            "as=\"env -u HOME ${as/HOME=/X=}\"",
            "HOME is not set",
        ),
    ] {
        let mended = as_user(who, script, "settings");
        mended.was("failed", words);
        assert!(mended.fix.starts_with("export HOME="), "{}", mended.fix);
        assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    }
    for (script, id, words, fix) in [
        (
            "export SIMPLETUNER_STATE_DIR=$PWD/home/.simpletuner/live/x",
            "settings",
            "leads into the mount",
            "unset SIMPLETUNER_STATE_DIR",
        ),
        (
            "export VAULT_ADDR=http://h VAULT_ROLE_ID=x",
            "settings",
            "set both, or neither",
            "unset VAULT_ROLE_ID",
        ),
        (
            "export VAULT_ADDR=nonsense://",
            "vault",
            "must begin with https://",
            "unset VAULT_ADDR",
        ),
        (
            "export VAULT_ADDR=https://h VAULT_TOKEN=t VAULT_SKIP_VERIFY=1",
            "vault",
            "VAULT_SKIP_VERIFY is set",
            "unset VAULT_SKIP_VERIFY",
        ),
    ] {
        let mended = as_user("nobody", script, id);
        mended.before.finding(words);
        assert_eq!(mended.fix, fix);
        assert!(!mended.after.says(words), "{}", mended.after.0);
    }
    // Nothing can be made in such a home, and the command makes the one folder that is needed.
    let none = "as=\"env -C $PWD HOME=$PWD/none/home setpriv --reuid nobody --regid nogroup --clear-groups\"; again=$as";
    let mended = as_user("nobody", none, "store");
    mended.was("failed", "no secret can be written");
    assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
}

#[test]
fn a_limit_that_this_shell_may_raise_is_raised() {
    if !is_root() {
        return;
    }
    let mended = as_user("nobody", "limit='prlimit --nofile=20:4096'", "descriptors");
    mended.was("failed", "the limit of open files is 20");
    assert_eq!(mended.fix, "ulimit -Sn \"$(ulimit -Hn)\"");
    assert_eq!(mended.after.status(), "ok");
}

#[test]
fn a_service_is_written_anew_as_it_was_and_runs_without_a_login() {
    if !is_root() {
        return;
    }
    // Here is no service manager, so `systemctl` only links, and a stub does what logind notes.
    let offline = "export SYSTEMD_OFFLINE=1 XDG_RUNTIME_DIR=$PWD; mkdir -p /etc/systemd/system
        rm -f /etc/systemd/*/simpletuner-live.service";
    let linger = format!(
        "{offline}; $as simpletuner-live install-service; $as systemctl --user enable simpletuner-live.service
         mount -t tmpfs -o mode=777 none /var/lib/systemd
         printf '#!/bin/sh\\n[ \"$*\" = \"enable-linger nobody\" ] && mkdir /var/lib/systemd/linger && touch /var/lib/systemd/linger/nobody' > suid/loginctl
         chmod 755 suid/loginctl"
    );
    let mended = as_user("nobody", &linger, "service");
    mended.was("warning", "runs only while nobody is logged in");
    assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    let gone = format!(
        "{offline}; simpletuner-live install-service --system --user daemon --allow-root '/run/a b/live'
         systemctl enable simpletuner-live.service
         sed 's:=[^ ]*simpletuner-live :=/gone/simpletuner-live :' -i /etc/systemd/system/simpletuner-live.service"
    );
    for who in ["root", "nobody"] {
        let mended = as_user(who, &gone, "service");
        mended.was(
            "failed",
            "starts /gone/simpletuner-live, which is not there",
        );
        let words =
            "install-service --system --user daemon --allow-root '/run/a b/live' --force && ";
        assert!(mended.fix.contains(words), "{}", mended.fix);
        assert_eq!(mended.after.status(), "ok", "{}", mended.after.0);
    }
}
