//! What programs do with files: the idioms by which they save, copy, lock, edit and append, and what the
//! mount promises for each. Most of these programs are Python, whose calls are the kernel's; `prelude.py` is what they share.

mod binary;
mod closing;
mod copiers;
mod creation;
mod descriptors;
mod editors;
mod env_files;
mod idioms;
mod listing;
mod locks;
mod modes;
mod namespaces;
mod processes;
mod renames;
mod scratch;
mod signals;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod times;
mod unsupported;

use std::process::{Command, Output};

use support::home::{Home, is_root, mounts_below};
use support::{Live, Setup, log_with, wait_until};

const PRELUDE: &str = include_str!("prelude.py");

/// A command that is killed where it does not end by itself: a test that fails must not hang.
fn bounded(command: Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["-k", "5", "240"]).arg(command.get_program());
    bounded.args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        bounded.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    bounded.stdin(std::process::Stdio::null());
    bounded
}

/// A Python program with the prelude, in a folder of the mount.
fn python_in(live: &Live, dir: &str, program: &str) -> Command {
    let mut python = live.command("python3");
    python
        .current_dir(live.path(dir))
        .env("LIVE", live.path(""))
        .arg("-c")
        .arg(format!("{PRELUDE}\n{program}"));
    bounded(python)
}

/// Runs a Python program in a folder of the mount; it must end well, which is what its own assertions decide.
#[track_caller]
fn python(live: &Live, dir: &str, program: &str) -> String {
    succeeds_in(live, python_in(live, dir, program))
}

/// Runs a bash script in a folder of the mount, and gives what it printed; it must end well.
#[track_caller]
fn bash(live: &Live, dir: &str, script: &str) -> String {
    let mut bash = live.command("bash");
    bash.current_dir(live.path(dir))
        .env("LC_ALL", "C.UTF-8")
        .args(["-c", script]);
    succeeds_in(live, bounded(bash))
}

#[track_caller]
fn succeeds_in(live: &Live, mut command: Command) -> String {
    printed(&live.output_of(&mut command))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    printed(&command.output().unwrap())
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", describe(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How a program ended, and all it printed.
fn describe(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    format!("{}\n{out}{err}", output.status)
}

/// This crate's program in the home of a mount.
fn cli(live: &Live, args: &[&str]) -> Output {
    let mut cli = live.cli();
    cli.args(args);
    live.output_of(&mut bounded(cli))
}
