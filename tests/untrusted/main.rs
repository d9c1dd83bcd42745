//! What other users may have put on the disk, into a database or into a trail: it is not used, and the error says why. The
//! tests with other users need root.

#[path = "../support/mod.rs"]
mod support;

mod attackers;
mod disk;
mod words;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use support::home::{BINARY, Home, Ran, is_root, ran};

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
