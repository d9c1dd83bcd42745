//! What other users may have put on the disk, into a database or into a trail: it is not used, and the error says why. The
//! tests with other users need root.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use support::home::{BINARY, Home, Ran, is_root, ran};
use support::wait_until;

/// The user `nobody` and another one, `daemon`.
const NOBODY: u32 = 65_534;
const ANOTHER: u32 = 1;

/// A home of root (0) or of `nobody`, with a copy of the program that they can reach.
struct User {
    home: Home,
    uid: u32,
}

impl User {
    fn new(uid: u32) -> Self {
        let home = Home::new();
        fs::set_permissions(home.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // Another process makes the copy: a child that a test forks meanwhile would hold it open for writing (ETXTBSY).
        home.sh(&format!(
            "install -m 755 '{BINARY}' program && install -d -m 700 -o {uid} -g {uid} home home/.simpletuner"
        ));
        Self { home, uid }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path(path)
    }

    /// A command as another user, without its program yet.
    fn command(&self, uid: u32) -> std::process::Command {
        let mut command = self.home.command("setpriv");
        let uid = uid.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        command.env("HOME", self.path("home"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(self.uid).arg(self.path("program")).args(args))
    }

    fn sh_as(&self, uid: u32, script: &str) -> Ran {
        ran(self.command(uid).args(["bash", "-c", script]))
    }

    fn sh(&self, script: &str) -> Ran {
        self.sh_as(self.uid, script)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
        chown(self.path(path), Some(self.uid), Some(self.uid)).unwrap();
    }

    /// A folder of this mode and owner.
    fn folder(&self, path: &str, mode: u32, uid: u32) -> PathBuf {
        let path = self.path(path);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(uid), Some(uid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    fn mount(&self) {
        self.run(&["mount"]).done();
    }

    fn umount(&self) {
        self.run(&["umount"]).done();
    }

    fn live(&self, path: &str) -> String {
        let live = self.path("home/.simpletuner/live").join(path);
        live.display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("home/.simpletuner/live.log")).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.run(&["umount"]);
    }
}

/// Root and an ordinary user, each with a home.
fn users() -> Vec<User> {
    match is_root() {
        true => vec![User::new(0), User::new(NOBODY)],
        false => Vec::new(),
    }
}

fn database(path: &Path, sql: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

const TABLE: &str = "CREATE TABLE provider_config (provider TEXT PRIMARY KEY, config TEXT NOT NULL, updated_at TEXT NOT NULL);";

#[test]
fn a_state_folder_that_another_user_made_gets_nothing() {
    for user in users() {
        let shared = user.folder("shared", 0o1777, 0);
        let state = shared.join("simpletuner");
        database(&state.join("cloud/jobs.db"), TABLE);
        fs::write(state.join("audit.key"), [7; 32]).unwrap();
        for database in ["audit.db", "live-audit.db"] {
            fs::write(state.join(database), "").unwrap();
        }
        user.home
            .sh("chmod -R 777 shared/simpletuner; chown -R daemon shared/simpletuner");
        let before = user
            .home
            .sh("sha256sum shared/simpletuner/*.* shared/simpletuner/cloud/*");
        let script = format!(
            "export SIMPLETUNER_STATE_DIR={0}; {1} mount && echo v > {2} && cat {2} && echo '{{\"webhook_secret\": \"zebra\"}}' |
             cp /dev/stdin {3}; echo rc=$?; {1} umount",
            state.display(), user.path("program").display(), user.live("secrets/A"), user.live("config/replicate.json"),
        );
        let ran = user.sh(&script);
        assert!(ran.out.contains("v\nrc=1\n"), "{} {}", ran.out, ran.err);
        assert!(ran.err.contains("Permission denied"), "{}", ran.err);
        let log = user.log();
        let mend = format!("sudo chown {} {}", user.uid, state.display());
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
            .home
            .sh("sha256sum shared/simpletuner/*.* shared/simpletuner/cloud/*");
        assert_eq!(before, after);
        assert_eq!(user.home.sh("ls -A shared/simpletuner").lines().count(), 4);
    }
}

#[test]
fn a_link_that_another_user_made_is_not_followed() {
    for user in users() {
        user.folder("shared", 0o1777, 0);
        user.write("home/private.db", "");
        fs::remove_file(user.path("home/private.db")).unwrap();
        database(&user.path("home/private.db"), TABLE);
        user.write("home/mine.json", r#"{"A": "mine"}"#);
        let private = user
            .home
            .sh("chown -R --reference=home home/private.db; sha256sum home/private.db");
        let state = user.folder("shared/state", 0o755, user.uid);
        fs::create_dir(state.join("cloud")).unwrap();
        for (link, target) in [
            ("shared/state/cloud/jobs.db", "home/private.db"),
            ("shared/state/audit.db", "home/private.db"),
            ("shared/s.json", "home/mine.json"),
        ] {
            symlink(user.path(target), user.path(link)).unwrap();
            lchown(user.path(link), Some(ANOTHER), None).unwrap();
        }
        user.write(
            "home/.simpletuner/live.yaml",
            &format!("file_path: {}\n", user.path("shared/s.json").display()),
        );
        let said = user.run(&["get", "A"]).failed();
        assert!(
            said.contains("a link that another user (uid 1) made"),
            "{said}"
        );
        let script = format!(
            "export SIMPLETUNER_STATE_DIR={}; {1} mount && echo '{{}}' | cp /dev/stdin {2}; {1} umount",
            state.display(),
            user.path("program").display(),
            user.live("config/x.json"),
        );
        let ran = user.sh(&script);
        assert!(ran.err.contains("Permission denied"), "{}", ran.err);
        assert_eq!(user.home.sh("sha256sum home/private.db"), private);
    }
}

#[test]
fn links_of_the_user_or_root_are_followed() {
    for user in users() {
        user.home.sh("install -d -o $(stat -c %u home) home/dotfiles home/elsewhere/cloud; chown -R --reference=home home");
        user.write("home/dotfiles/s.json", r#"{"A": "linked"}"#);
        user.write("home/dotfiles/live.yaml", "audit_keep_days: 9\n");
        user.write("home/dotfiles/key", "a key");
        for (link, target) in [
            ("secrets.json", "../dotfiles/s.json"),
            ("live.yaml", "../dotfiles/live.yaml"),
            ("credential.key", "../dotfiles/key"),
            ("live.log", "../dotfiles/log"),
            ("cloud", "../elsewhere/cloud"),
        ] {
            let link = user.path("home/.simpletuner").join(link);
            symlink(target, &link).unwrap();
            lchown(&link, Some(user.uid), Some(user.uid)).unwrap();
        }
        user.mount();
        let ran = user.sh(&format!(
            "cat {} && echo v > {} && echo '{{}}' | cp /dev/stdin {}",
            user.live("secrets/A"),
            user.live("secrets/B"),
            user.live("config/x.json")
        ));
        assert_eq!(ran.done(), "linked");
        user.umount();
        assert!(user.path("home/.simpletuner/secrets.json").is_symlink());
        let store = fs::read_to_string(user.path("home/dotfiles/s.json")).unwrap();
        assert!(store.contains("\"B\""), "{store}");
        assert!(user.path("home/elsewhere/cloud/jobs.db").exists());
        assert!(user.log().contains("is unmounted"));
        assert!(user.path("home/dotfiles/log").exists());
    }
}

#[test]
fn what_others_can_write_is_not_used() {
    for user in users() {
        let folder = user.path("home/.simpletuner");
        user.write("home/.vault-token", "hvs.token");
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let address = server.local_addr().unwrap();
        user.write(
            "home/.simpletuner/live.yaml",
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
        let is_private = user.uid == 0;
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o770)).unwrap();
        let said = user.run(&["ls"]).err;
        assert_eq!(said.contains("chmod go-w"), !is_private, "{said}");
    }
}

#[test]
fn a_lock_file_that_another_user_holds_delays_no_writer() {
    for user in users() {
        user.folder("shared", 0o1777, 0);
        user.write(
            "home/.simpletuner/live.yaml",
            &format!("file_path: {}\n", user.path("shared/s.json").display()),
        );
        let lock = user.path("shared/s.json.lock");
        let mut holder = user.command(ANOTHER);
        holder.args([
            "bash",
            "-c",
            "umask 0; exec flock shared/s.json.lock sleep 60",
        ]);
        let mut holder = holder.spawn().unwrap();
        wait_until("it is locked", || lock.exists());
        user.mount();
        let began = Instant::now();
        for name in ["A", "B", "C"] {
            let ran = user.sh(&format!(
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
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(
            user.log()
                .contains("s.json.lock belongs to another user (uid 1)")
        );
        holder.kill().unwrap();
        holder.wait().unwrap();
        user.umount();
    }
}

#[test]
fn an_endless_view_or_trigger_delays_neither_a_read_nor_a_save_nor_umount() {
    const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'p' || x, '{}', '' FROM n";
    let hostile = [
        (format!("CREATE VIEW provider_config AS {ENDLESS}"), "1"),
        (
            format!(
                "{TABLE} CREATE TRIGGER t AFTER INSERT ON provider_config BEGIN INSERT INTO provider_config {ENDLESS}; END"
            ),
            "0",
        ),
    ];
    for (schema, code) in hostile {
        let home = Home::new();
        database(&home.path(".simpletuner/cloud/jobs.db"), &schema);
        home.run(&["mount"]).done();
        let began = Instant::now();
        let save = format!(
            "echo '{{\"a\": 1}}' | cp /dev/stdin {} 2> said; echo -n $?",
            home.live("config/x.json").display()
        );
        assert_eq!(home.sh(&save), code);
        home.sh(&format!(
            "ls {0}/config > /dev/null; echo v > {0}/secrets/A; cat {0}/secrets/A",
            home.live("").display()
        ));
        home.run(&["umount"]).done();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
        assert_eq!(
            log.contains("must be a table, and is a view"),
            code == "1",
            "{log}"
        );
        assert!(!log.contains("has ended"), "{log}");
    }
}

/// A filesystem for this test, unmounted with the home.
fn tmpfs(home: &Home, folder: &str, options: &str) {
    home.sh(&format!(
        "mkdir {folder} && mount -t tmpfs -o {options} tmpfs {folder}"
    ));
}

#[test]
fn reads_that_cannot_be_written_at_the_end_are_counted_in_the_log() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    tmpfs(&home, "state", "size=400k,mode=755");
    let run = |args: &[&str]| {
        ran(home
            .command(BINARY)
            .args(args)
            .env("SIMPLETUNER_STATE_DIR", home.path("state")))
    };
    run(&["mount"]).done();
    let secret = home.live("secrets/A").display().to_string();
    home.sh(&format!("echo v > {secret}; cat {secret}"));
    wait_until("the first rows are written", || {
        home.path("state/live-audit.db").exists()
    });
    home.sh("dd if=/dev/zero of=state/fill bs=1k count=900 2> /dev/null || true");
    home.sh(&format!(
        "for i in $(seq 40); do (exec -a reader$i cat {secret}) > /dev/null; done"
    ));
    run(&["umount"]).done();
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    let lost = log.lines().find(|line| {
        line.contains("reads could not be written to the audit trail of reads, and are lost")
    });
    let lost: u64 = lost
        .unwrap()
        .split("error: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((35..=41).contains(&lost), "{log}");
}

#[test]
fn without_room_for_the_credential_key_a_write_is_enospc() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    tmpfs(&home, ".simpletuner", "size=1m,nr_inodes=12,mode=700");
    home.run(&["mount"]).done();
    // All that a write needs beside the key is there already.
    home.sh("cd .simpletuner; touch secrets.json.lock; chmod 600 secrets.json.lock; for i in $(seq 12); do touch fill$i || break; done 2> said || true; ls");
    let said = home
        .command("bash")
        .args([
            "-c",
            &format!(
                "printf w | cp /dev/stdin {}",
                home.live("secrets/A").display()
            ),
        ])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("No space left on device"),
        "{said:?}"
    );
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    assert!(
        log.contains("cannot create the credential key") && log.contains("No space left"),
        "{log}"
    );
    home.run(&["umount"]).done();
}

#[test]
fn a_home_that_is_not_utf8_is_refused_with_that_word() {
    let home = Home::new();
    let strange = home.path("").join(OsStr::from_bytes(b"h\xff"));
    fs::create_dir(&strange).unwrap();
    for args in [&["get", "A"][..], &["status"], &["mount"]] {
        let said = ran(home.command(BINARY).args(args).env("HOME", &strange)).failed();
        assert!(said.contains("HOME is not UTF-8 text"), "{said}");
    }
}

#[test]
fn invisible_characters_in_a_programs_name_are_shown_escaped() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh(&format!("echo v > {}", home.live("secrets/A").display()));
    home.sh("cp $(command -v cat) $'ev\\xe2\\x80\\xaeil\\xe2\\x80\\x8b'");
    home.sh(&format!(
        "./$'ev\\xe2\\x80\\xaeil\\xe2\\x80\\x8b' {}",
        home.live("secrets/A").display()
    ));
    home.run(&["umount"]).done();
    let shown = home.run(&["audit", "tail"]).done();
    assert!(shown.contains("ev\\u{202e}il\\u{200b}["), "{shown}");
    assert!(!shown.contains('\u{202e}'), "{shown}");
}

#[test]
fn every_name_that_a_client_reads_credentials_from_is_refused() {
    let home = Home::new();
    // aws-config's `environment/credentials.rs` and `ecs.rs`; Vault's own command line.
    for own in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "VAULT_TOKEN",
    ] {
        let ran = ran(home
            .command(BINARY)
            .args(["get", own])
            .env(own, "own-secret"));
        assert_eq!((ran.code, &*ran.out), (4, ""), "{}", ran.err);
    }
}

#[test]
fn a_token_that_goes_to_another_host_in_the_clear_is_warned_of_in_the_log_and_in_status() {
    let home = Home::new();
    home.write(
        ".simpletuner/live.yaml",
        "vault_url: http://vault.invalid:8200\nvault_token: hvs.x\nprefetch: true\n",
    );
    fs::set_permissions(
        home.path(".simpletuner/live.yaml"),
        PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    home.run(&["mount"]).done();
    for name in ["A", "B"] {
        assert!(home.run(&["get", name]).code != 0);
    }
    let status = home.run(&["status"]).done();
    assert!(
        status.contains("the token goes to vault.invalid over plain http"),
        "{status}"
    );
    home.run(&["umount"]).done();
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    assert_eq!(
        log.matches("the token for Vault goes to vault.invalid over plain http")
            .count(),
        1,
        "{log}"
    );
    assert!(!log.contains("hvs.x"));
}
