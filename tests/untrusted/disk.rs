//! Folders, files and links that another user made, or could have made.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::time::{Duration, Instant};

use super::support::wait_until;
use super::*;

#[test]
fn a_state_folder_that_another_user_made_gets_nothing() {
    for user in users() {
        let shared = user.folder_beside("shared", 0o1777, 0);
        let state = shared.join("simpletuner");
        database(&state.join("cloud/jobs.db"), TABLE);
        fs::write(state.join("audit.key"), [7; 32]).unwrap();
        for database in ["audit.db", "live-audit.db"] {
            fs::write(state.join(database), "").unwrap();
        }
        user.scratch
            .sh("chmod -R 777 shared/simpletuner; chown -R daemon shared/simpletuner");
        let before = user
            .scratch
            .sh("sha256sum shared/simpletuner/*.* shared/simpletuner/cloud/*");
        let script = format!(
            "export SIMPLETUNER_STATE_DIR={0}; {1} mount && echo v > {2} && cat {2} && echo '{{\"webhook_secret\": \"zebra\"}}' |
             cp /dev/stdin {3}; echo rc=$?; {1} umount",
            state.display(), user.scratch.path("program").display(), user.live("secrets/A"), user.live("config/replicate.json"),
        );
        let ran = user.try_sh(&script);
        assert!(ran.out.contains("v\nrc=1\n"), "{} {}", ran.out, ran.err);
        assert!(ran.err.contains("Permission denied"), "{}", ran.err);
        let log = user.log();
        let mend = format!("sudo chown {} {}", user.uid(), state.display());
        assert_eq!(
            log.matches("the audit trail cannot be written").count(),
            1,
            "{log}"
        );
        assert!(
            log.lines()
                .any(|line| line.contains("jobs.db") && line.contains(&mend)),
            "{log}"
        );
        assert!(!log.contains("zebra"));
        let after = user
            .scratch
            .sh("sha256sum shared/simpletuner/*.* shared/simpletuner/cloud/*");
        assert_eq!(before, after);
        assert_eq!(
            user.scratch.sh("ls -A shared/simpletuner").lines().count(),
            4
        );
    }
}

#[test]
fn a_link_that_another_user_made_is_not_followed() {
    for user in users() {
        user.folder_beside("shared", 0o1777, 0);
        user.write("private.db", "");
        fs::remove_file(user.path("private.db")).unwrap();
        database(&user.path("private.db"), TABLE);
        user.write("mine.json", r#"{"A": "mine"}"#);
        let private = user
            .scratch
            .sh("chown -R --reference=home home/private.db; sha256sum home/private.db");
        let state = user.folder_beside("shared/state", 0o755, user.uid());
        fs::create_dir(state.join("cloud")).unwrap();
        for (link, target) in [
            ("shared/state/cloud/jobs.db", "home/private.db"),
            ("shared/state/audit.db", "home/private.db"),
            ("shared/s.json", "home/mine.json"),
        ] {
            symlink(user.scratch.path(target), user.scratch.path(link)).unwrap();
            lchown(user.scratch.path(link), Some(ANOTHER), None).unwrap();
        }
        user.write(
            ".simpletuner/live.yaml",
            &format!(
                "file_path: {}\n",
                user.scratch.path("shared/s.json").display()
            ),
        );
        let said = user.run(&["get", "A"]).failed();
        assert!(
            said.contains("a link that another user (uid 1) made"),
            "{said}"
        );
        let script = format!(
            "export SIMPLETUNER_STATE_DIR={}; {1} mount && echo '{{}}' | cp /dev/stdin {2}; {1} umount",
            state.display(),
            user.scratch.path("program").display(),
            user.live("config/x.json"),
        );
        let ran = user.try_sh(&script);
        assert!(ran.err.contains("Permission denied"), "{}", ran.err);
        assert_eq!(user.scratch.sh("sha256sum home/private.db"), private);
    }
}

#[test]
fn links_of_the_user_or_root_are_followed() {
    for user in users() {
        user.scratch.sh("install -d -o $(stat -c %u home) home/dotfiles home/elsewhere/cloud; chown -R --reference=home home");
        user.write("dotfiles/s.json", r#"{"A": "linked"}"#);
        user.write("dotfiles/live.yaml", "audit_keep_days: 9\n");
        user.write("dotfiles/key", "a key");
        for (link, target) in [
            ("secrets.json", "../dotfiles/s.json"),
            ("live.yaml", "../dotfiles/live.yaml"),
            ("credential.key", "../dotfiles/key"),
            ("live.log", "../dotfiles/log"),
            ("cloud", "../elsewhere/cloud"),
        ] {
            let link = user.path(".simpletuner").join(link);
            symlink(target, &link).unwrap();
            lchown(&link, Some(user.uid()), Some(user.uid())).unwrap();
        }
        user.run(&["mount"]).done();
        let ran = user.try_sh(&format!(
            "cat {} && echo v > {} && echo '{{}}' | cp /dev/stdin {}",
            user.live("secrets/A"),
            user.live("secrets/B"),
            user.live("config/x.json")
        ));
        assert_eq!(ran.done(), "linked");
        user.run(&["umount"]).done();
        assert!(user.path(".simpletuner/secrets.json").is_symlink());
        let store = fs::read_to_string(user.path("dotfiles/s.json")).unwrap();
        assert!(store.contains("\"B\""), "{store}");
        assert!(user.path("elsewhere/cloud/jobs.db").exists());
        assert!(user.log().contains("is unmounted"));
        assert!(user.path("dotfiles/log").exists());
    }
}

#[test]
fn what_others_can_write_is_not_used() {
    for user in users() {
        let folder = user.path(".simpletuner");
        user.write(".vault-token", "hvs.token");
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let address = server.local_addr().unwrap();
        user.write(
            ".simpletuner/live.yaml",
            &format!("vault_url: http://{address}\n"),
        );
        for (what, mode) in [
            (&folder, 0o777),
            (&folder, 0o703),
            (&folder.join("live.yaml"), 0o666),
        ] {
            let before = fs::metadata(what).unwrap().permissions();
            fs::set_permissions(what, PermissionsExt::from_mode(mode)).unwrap();
            let said = user.run(&["get", "A"]).failed();
            let mend = format!("chmod go-w {}", what.display());
            assert!(said.contains(&mend) && said.lines().count() <= 2, "{said}");
            fs::set_permissions(what, before).unwrap();
        }
        assert!(server.accept().is_err(), "Vault was asked");
        // The group of a user alone may write: the umask 002 of many distributions.
        let is_private = user.uid() == 0;
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o770)).unwrap();
        let said = user.run(&["ls"]).err;
        assert_eq!(said.contains("chmod go-w"), !is_private, "{said}");
    }
}

#[test]
fn a_lock_file_that_another_user_holds_delays_no_writer() {
    for user in users() {
        user.folder_beside("shared", 0o1777, 0);
        user.write(
            ".simpletuner/live.yaml",
            &format!(
                "file_path: {}\n",
                user.scratch.path("shared/s.json").display()
            ),
        );
        let lock = user.scratch.path("shared/s.json.lock");
        let mut holder = user.command_as("daemon", "bash");
        holder.args(["-c", "umask 0; exec flock ../shared/s.json.lock sleep 60"]);
        let mut holder = holder.spawn().unwrap();
        wait_until("it is locked", || lock.exists());
        user.run(&["mount"]).done();
        let began = Instant::now();
        for name in ["A", "B", "C"] {
            let ran = user.try_sh(&format!(
                "echo v | cp /dev/stdin {}",
                user.live(&format!("secrets/{name}"))
            ));
            assert!(
                ran.code != 0 && ran.err.contains("Permission denied"),
                "{}",
                ran.err
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(50),
            "{:?}",
            began.elapsed()
        );
        assert!(
            user.log()
                .contains("s.json.lock belongs to another user (uid 1)")
        );
        holder.kill().unwrap();
        holder.wait().unwrap();
        user.run(&["umount"]).done();
    }
}

#[test]
fn in_a_user_namespace_without_root_the_systems_folders_are_trusted() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    // Root's files belong to an unmapped user there. A sticky folder could hold anybody's, so this is not below /dev/shm.
    let script = format!(
        "mount -t tmpfs -o mode=755 tmpfs /mnt; install -m 755 '{BINARY}' /mnt/p; install -d -m 700 -o daemon -g daemon /mnt/h
         export HOME=/mnt/h; cd /; as='setpriv --reuid daemon --regid daemon --clear-groups unshare --user --map-current-user'
         $as /mnt/p set --no-mount A v && $as /mnt/p get --no-mount A
         install -d -m 1777 /mnt/s; touch /mnt/s/x.json; echo file_path: /mnt/s/x.json > /mnt/h/.simpletuner/live.yaml
         $as /mnt/p get --no-mount A"
    );
    let mut command = home.command("unshare");
    let ran = ran(command.args(["-m", "bash", "-c", &script]));
    assert_eq!(ran.out.trim(), "v", "{}", ran.err);
    assert!(
        ran.err.contains("x.json belongs to another user"),
        "{}",
        ran.err
    );
}
