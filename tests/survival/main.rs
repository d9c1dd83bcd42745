//! The mount survives its processes: programs that use it do not notice when one is killed, hangs or is upgraded.

mod faults;
mod kills;
mod reload;
mod service;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
mod writes;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::home::{Home, is_mounted, is_root, signal};
use support::{Live, Setup, alone, log_with, wait_until, waits_for_the_mount};

/// Kills the server, and returns once another one answers.
fn kill_server(live: &Live) {
    kill_part(live, "server_pid");
}

fn kill_keeper(live: &Live) {
    kill_part(live, "keeper_pid");
}

fn kill_part(live: &Live, part: &str) {
    let pid = |status: &Value| status[part].as_u64().unwrap() as u32;
    let before = pid(&live.json("status"));
    signal("KILL", before);
    wait_until("another process is there", || {
        is_another_one(pid(&live.json("status")), before)
    });
}

fn is_another_one(now: u32, before: u32) -> bool {
    now != before && Path::new(&format!("/proc/{now}")).exists()
}

/// A shell whose working folder is the mount.
fn spawn(live: &Live, script: &str) -> Child {
    begin(live.command("bash"), script)
}

/// A shell outside the mount, which finds the mount's path in LIVE. It can be started while no server answers.
fn spawn_outside(live: &Live, script: &str) -> Child {
    let mut command = live.command("bash");
    command
        .current_dir(live.home.path())
        .env("LIVE", live.path(""));
    begin(command, script)
}

fn begin(mut shell: Command, script: &str) -> Child {
    shell
        .args(["-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the program, which must succeed without a message, and returns what it printed.
#[track_caller]
fn done(mut child: Child) -> String {
    wait_until("the program ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}
