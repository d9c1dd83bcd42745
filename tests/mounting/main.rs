//! Where and how one can mount: places that are refused, many commands at once, commands and daemons that are killed meanwhile,
//! what cannot be written, mount(8). Most of it needs root, to act as other users and to have mount namespaces.

#[path = "../support/mod.rs"]
mod support;

mod fstab;
mod moved;
mod places;
mod read_only;
mod starting;

use std::path::Path;
use std::process::Command;

use support::home::{BINARY, CommandOutput, Home, is_root, mounts_below, ran};
use support::user::User;

/// Root and an ordinary user, each with a home.
fn users() -> Vec<User> {
    match is_root() {
        true => vec![User::new("root"), User::new("nobody")],
        false => Vec::new(),
    }
}

/// A script of root's in a mount namespace of its own, in this home. `$BIN` is the program.
fn in_namespace(home: &Home, script: &str) -> CommandOutput {
    let mut command = home.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "bash", "-c"])
        .arg(format!("set -u; {script}"))
        .env("BIN", BINARY);
    ran(&mut command)
}

/// The processes of a mount in this home, found by their environment.
fn daemons_in(home: &Path) -> Vec<u32> {
    let script = format!(
        "grep -lzsx 'HOME={}' $(grep -lsx simpletuner-liv /proc/[0-9]*/comm | sed s/comm/environ/) /dev/null",
        home.display()
    );
    let found = Command::new("bash").args(["-c", &script]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let pids = found.lines().filter_map(|path| path.split('/').nth(2));
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// The one line that a command has said, without its label.
#[track_caller]
fn sentence(said: &str) -> &str {
    let lines: Vec<&str> = said.lines().collect();
    let [line] = lines[..] else {
        panic!("{said}");
    };
    line.strip_prefix("error: ")
        .unwrap_or_else(|| panic!("{said}"))
}

fn is_mounted_below(home: &Path) -> bool {
    !mounts_below(home).is_empty()
}
