//! A scratch home in which this crate's program is run as at a shell, and what is mounted in it. All is unmounted when
//! it is dropped.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Setup, daemon_command, scratch_home, wait_until};

pub const BINARY: &str = env!("CARGO_BIN_EXE_simpletuner-live");

/// The outcome of a program.
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// What it printed; it must have succeeded.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// What it said on standard error; it must have failed, and printed nothing.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (1, ""), "{}", self.err);
        self.err
    }

    /// What it said on standard error; it must have succeeded.
    #[track_caller]
    pub fn warned(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.err
    }

    /// A tool of the system must have been refused, whatever its exit code for that is.
    #[track_caller]
    pub fn denied(self) {
        assert!(self.code > 0 && self.out.is_empty(), "{}", self.out);
        assert!(self.err.contains("Permission denied"), "{}", self.err);
    }
}

/// Whether `umount` names a use in these words, or says that the machine was too busy for the whole search.
pub fn named_or_cut_off(said: &str, words: &str) -> bool {
    said.contains(words) || said.contains("the search for what uses the mount ended early")
}

/// A scratch home. What is mounted below it is unmounted when it is dropped.
pub struct Home(pub TempDir);

impl Home {
    pub fn new() -> Self {
        Self(scratch_home())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn live(&self, path: &str) -> PathBuf {
        self.path(".simpletuner/live").join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.0.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// The program, without its arguments, killed as it makes its Nth of these system calls (separated by commas).
    pub fn killed_at(&self, calls: &str, number: usize) -> Command {
        let mut strace = self.command("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null"]);
        strace.args(["-e", &format!("trace={calls}")]);
        strace.args([
            "-e",
            &format!("inject={calls}:signal=SIGKILL:when={number}"),
        ]);
        strace.arg(BINARY);
        strace
    }

    pub fn run(&self, args: &[&str]) -> CommandOutput {
        ran(self.command(BINARY).args(args))
    }

    pub fn run_with(&self, input: &str, args: &[&str]) -> CommandOutput {
        self.write("input", input);
        let input = File::open(self.path("input")).unwrap();
        ran(self.command(BINARY).args(args).stdin(input))
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        ran(self.command("bash").args(["-c", script])).done()
    }

    /// A daemon in the foreground, once it answers.
    pub fn foreground(&self) -> Child {
        let mut daemon = daemon_command(self.0.path(), &Setup::default())
            .spawn()
            .unwrap();
        wait_until("the mount answers", || {
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
            fs::read(self.live("status")).is_ok()
        });
        daemon
    }

    /// The process that answers at a mount point.
    pub fn server(&self, mount_point: &Path) -> u32 {
        let status = fs::read(mount_point.join("status")).unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        status["server_pid"].as_u64().unwrap() as u32
    }

    /// Kills both processes of a mount at once, which leaves it dead.
    pub fn kill(&self, mount_point: &Path) {
        let status = fs::read(mount_point.join("status")).unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
        // Each starts another in the place of one that ends: so neither may see the other's end.
        for pid in pids {
            signal("STOP", pid);
            wait_until("it is stopped", || state_of(pid) == Some('T'));
        }
        for pid in pids {
            signal("KILL", pid);
        }
        for pid in pids {
            wait_for_the_end(pid);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for mount_point in mounts_below(self.0.path()) {
            let mut umount = Command::new("umount");
            umount.arg("-l").arg(mount_point).stderr(Stdio::null());
            let _ = umount.status();
        }
    }
}

#[track_caller]
pub fn ran(command: &mut Command) -> CommandOutput {
    let output = command.output().unwrap();
    let ran = CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

/// All mount points at and below a folder, the last mounted first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    // Bytes: another test may have mounted on any name.
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let points = table.split(|byte| *byte == b'\n');
    let points = points.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(|point| std::ffi::OsString::from_vec(unescaped(point)).into())
        .filter(|point: &PathBuf| point.starts_with(dir))
        .collect();
    below.reverse();
    below
}

/// Undoes the kernel's escapes in the table of mounts: `\040` and so on.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

pub fn is_mounted(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|point| point == dir)
}

/// By a system call: a program that is started while the mount does not answer may wait for it, to close what it
/// inherited of it.
pub fn signal(signal: &str, pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match signal {
        "ABRT" => Signal::ABORT,
        "CHLD" => Signal::CHILD,
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        other => panic!("SIG{other}"),
    };
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Whether the process has ended. A zombie has.
pub fn has_ended(pid: u32) -> bool {
    matches!(state_of(pid), None | Some('Z' | 'X'))
}

/// The process's state (proc(5)); `None`: there is no such process.
fn state_of(pid: u32) -> Option<char> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let mut states = status
        .lines()
        .filter_map(|line| line.strip_prefix("State:"));
    states.next()?.trim_start().chars().next()
}

pub fn wait_for_the_end(pid: u32) {
    wait_until("the daemon has ended", || has_ended(pid));
}

pub fn exit_code(mut daemon: Child) -> Option<i32> {
    wait_until("the daemon ends", || daemon.try_wait().unwrap().is_some());
    daemon.wait().unwrap().code()
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

/// Starts a program that writes something when it is ready, and then lives until its standard input is closed.
pub fn ready(command: &mut Command) -> Child {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let out = child.stdout.as_mut().unwrap();
    out.read_exact(&mut [0]).unwrap();
    child
}
