//! A user of this machine with a scratch home, and what is mounted in it. The tests must run as root, to act as that user.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;

use super::home::{BINARY, CommandOutput, Home, is_mounted, ran, ready};

/// The usual mount point, below the home.
pub const LIVE: &str = ".simpletuner/live";

/// A user with the folder `home`, beside a program that they can run and only root can change.
pub struct User {
    /// The folder above the user's home.
    pub scratch: Home,
    pub name: &'static str,
    pub mounts: RefCell<Vec<PathBuf>>,
}

impl User {
    pub fn new(name: &'static str) -> Self {
        let scratch = Home::new();
        // Another process makes the copy: a child that a test forks meanwhile would hold it open for writing (ETXTBSY).
        scratch.sh(&format!(
            "chmod 755 . && install -m 755 '{BINARY}' program && install -d -m 755 -o {name} -g $(id -g {name}) home
             install -d -m 700 -o {name} -g $(id -g {name}) home/.simpletuner"
        ));
        Self {
            scratch,
            name,
            mounts: RefCell::default(),
        }
    }

    pub fn is_root(&self) -> bool {
        self.name == "root"
    }

    pub fn uid(&self) -> u32 {
        match self.name {
            "root" => 0,
            "daemon" => 1,
            "nobody" => 65_534,
            other => panic!("the number of {other} is not known here"),
        }
    }

    /// A path below the home.
    pub fn path(&self, path: &str) -> PathBuf {
        self.scratch.path("home").join(path)
    }

    /// A path in the usual mount.
    pub fn live(&self, path: &str) -> String {
        self.path(LIVE).join(path).display().to_string()
    }

    /// A program as any user, in this user's home.
    pub fn command_as(&self, user: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.scratch.command("setpriv");
        command
            .args([
                "--reuid",
                user,
                "--regid",
                &group_of(user),
                "--clear-groups",
            ])
            .arg(program)
            .current_dir(self.path(""))
            .env("HOME", self.path(""));
        command
    }

    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_as(self.name, program)
    }

    /// This crate's program as this user.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = self.command(self.scratch.path("program"));
        command.args(args);
        if args[0] == "mount" {
            let place = args.get(1).map_or(LIVE, |place| place);
            self.mounts.borrow_mut().push(self.path(place));
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> CommandOutput {
        ran(&mut self.cli(args))
    }

    pub fn try_sh(&self, script: &str) -> CommandOutput {
        ran(self.command("bash").args(["-c", script]))
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).done()
    }

    /// A shell of this user that has run `script`, and lives until its standard input is closed.
    pub fn hold(&self, script: &str) -> Child {
        let script = format!("{script}; echo; exec cat");
        ready(self.command("bash").args(["-c", &script]))
    }

    /// Writes a file of this user's.
    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
        chown(self.path(path), Some(self.uid()), Some(self.uid())).unwrap();
    }

    /// A folder of this mode and owner beside the home.
    pub fn folder_beside(&self, path: &str, mode: u32, uid: u32) -> PathBuf {
        let path = self.scratch.path(path);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(uid), Some(uid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    /// The keeper and the server of a mount. Root may not read another user's mount.
    pub fn pids(&self, place: &str) -> [u32; 2] {
        let status = self.sh(&format!("cat {place}/status"));
        let status: Value = serde_json::from_str(&status).unwrap();
        ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32)
    }

    /// Sets the secret K to `v`.
    pub fn set_secret(&self, place: &str) {
        self.sh(&format!("printf v > {place}/secrets/K"));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path(".simpletuner/live.log")).unwrap()
    }
}

fn group_of(user: &str) -> String {
    let group = ran(Command::new("id").args(["-g", user])).done();
    group.trim().to_owned()
}

impl Drop for User {
    fn drop(&mut self) {
        let places = self.mounts.take();
        for place in places
            .iter()
            .filter(|place: &&PathBuf| is_mounted(Path::new(place)))
        {
            let _ = self.cli(&["umount", place.to_str().unwrap()]).output();
        }
    }
}
