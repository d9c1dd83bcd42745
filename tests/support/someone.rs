//! A user of this machine with a home, and what is mounted in it. The tests must run as root, to act as that user.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;

use super::home::{BINARY, Home, Ran, is_mounted, ran, ready};

/// A home of a user, with a program that this user can run and only root can change.
pub struct Someone {
    pub home: Home,
    pub user: &'static str,
    pub mounts: RefCell<Vec<PathBuf>>,
}

impl Someone {
    pub fn new(user: &'static str) -> Self {
        let home = Home::new();
        // Another process makes the copy: a child that a test forks meanwhile would hold it open for writing (ETXTBSY).
        home.sh(&format!(
            "chmod 755 . && install -m 755 '{BINARY}' program && install -d -m 755 -o {user} home"
        ));
        Self {
            home,
            user,
            mounts: RefCell::default(),
        }
    }

    pub fn is_root(&self) -> bool {
        self.user == "root"
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path("home").join(path)
    }

    pub fn command(&self, user: &str, program: &Path) -> Command {
        let mut command = self.home.command("setpriv");
        command
            .args(["--reuid", user, "--regid", "daemon", "--clear-groups"])
            .arg(program)
            .current_dir(self.path(""))
            .env("HOME", self.path(""));
        command
    }

    /// This crate's program as this user.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = self.command(self.user, &self.home.path("program"));
        command.args(args);
        if args[0] == "mount" {
            let place = args.get(1).map_or(".simpletuner/live", |place| place);
            self.mounts.borrow_mut().push(self.path(place));
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.cli(args))
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        ran(self
            .command(self.user, Path::new("bash"))
            .args(["-c", script]))
        .done()
    }

    /// A shell of this user that has run `script`, and lives until its standard input is closed.
    pub fn hold(&self, script: &str) -> Child {
        let script = format!("{script}; echo; exec cat");
        ready(
            self.command(self.user, Path::new("bash"))
                .args(["-c", &script]),
        )
    }

    /// The keeper and the server of a mount. Root may not read another user's mount.
    pub fn pids(&self, place: &str) -> [u32; 2] {
        let status = self.sh(&format!("cat {place}/status"));
        let status: Value = serde_json::from_str(&status).unwrap();
        ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32)
    }

    /// Sets the secret K to `v`.
    pub fn run_set(&self, place: &str) {
        self.sh(&format!("printf v > {place}/secrets/K"));
    }

    /// The usual mount point, below the home.
    pub fn live(&self) -> &'static str {
        ".simpletuner/live"
    }
}

impl Drop for Someone {
    fn drop(&mut self) {
        let places = self.mounts.take();
        for place in places.iter().filter(|place| is_mounted(place)) {
            let _ = self.cli(&["umount", place.to_str().unwrap()]).output();
        }
    }
}
