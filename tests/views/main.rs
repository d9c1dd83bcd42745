//! Views: folders of secrets for other users, in a second mount. What is in them, who may read, and that neither a change nor the end of a
//! process is noticed by readers.

mod audit;
mod definitions;
mod hostile;
mod lifecycle;
mod reading;
#[path = "../support/mod.rs"]
mod support;
mod survival;
mod users;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::home::{CommandOutput, is_root, ran, signal};
use support::{Live, Setup, log_with, scratch_home, wait_until};

/// The environment of a mount that behaves as on a kernel without the epoch, and of one on this kernel.
const MODES: [&[(&str, &str)]; 2] = [&[], &[("SIMPLETUNER_LIVE_NO_EPOCH", "1")]];

/// A mount whose views other users can reach, in the folder `views` of its home.
fn start() -> Live {
    start_with(Setup::default())
}

fn start_with(setup: Setup) -> Live {
    let home = scratch_home();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o711)).unwrap();
    for (path, content) in setup.files.iter().chain(&[("", "")]) {
        let path = home.path().join(".simpletuner").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !content.is_empty() {
            fs::write(path, content).unwrap();
        }
    }
    let settings = home.path().join(".simpletuner/live.yaml");
    let mut text = fs::read_to_string(&settings).unwrap_or_default();
    text.push_str("\nviews_dir: ../views\n");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, text).unwrap();
    Live::start_in(home, setup)
}

/// A path in the views' mount.
fn view(live: &Live, path: &str) -> PathBuf {
    live.home("views").join(path)
}

fn read(live: &Live, path: &str) -> String {
    let path = view(live, path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes a file of the live mount, and closes it, in a process of its own: this one has files of other tests' mounts open.
#[track_caller]
fn write(live: &Live, path: &str, content: &str) {
    let mut shell = live.command("sh");
    let output = live.output_of(shell.args(["-c", "printf %s \"$1\" > \"$0\"", path, content]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {said}");
}

fn define(live: &Live, name: &str, definition: &str) {
    write(live, &format!("views/{name}.json"), definition);
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<String> = names
        .map(|name| name.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// This crate's program in the home of the mount.
fn cli(live: &Live, args: &[&str]) -> CommandOutput {
    ran(live.cli().args(args))
}

/// A program as the user and group with this number.
fn as_user(id: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let id = id.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]);
    command
}

/// What a shell prints as this user; it must succeed.
#[track_caller]
fn sh_as(id: u32, script: &str) -> String {
    ran(as_user(id, "sh").args(["-c", script])).done()
}

#[track_caller]
fn denied_as(id: u32, script: &str) {
    ran(as_user(id, "sh").args(["-c", script])).denied();
}

/// A bind mount, which ends when it is dropped.
struct Bind(PathBuf);

impl Bind {
    fn new(from: &Path, to: PathBuf) -> Self {
        fs::create_dir_all(&to).unwrap();
        let bound = Command::new("mount")
            .arg("--bind")
            .arg(from)
            .arg(&to)
            .status();
        assert!(bound.unwrap().success());
        Self(to)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn kill_part(live: &Live, part: &str) {
    let pid = || live.json("status")[part].as_u64().unwrap() as u32;
    let before = pid();
    signal("KILL", before);
    wait_until("another process is there", || pid() != before);
}
