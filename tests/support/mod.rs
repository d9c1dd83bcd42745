//! A real daemon with a real mount in a scratch home, and shells to use it with. Dropping it unmounts and removes all of it.

#![allow(dead_code)]

pub mod home;
pub mod orphans;
pub mod stuck;
pub mod user;

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Nothing here takes this long unless it hangs, even where the machine does the work of forty.
const WAIT_TIMEOUT: Duration = Duration::from_secs(180);

/// A mounted scratch home.
pub struct Live {
    pub home: tempfile::TempDir,
    dir: PathBuf,
    daemon: Child,
}

/// A scratch home in memory, where a sync to the disk costs nothing.
pub fn scratch_home() -> tempfile::TempDir {
    let home = tempfile::tempdir_in("/dev/shm").unwrap();
    orphans::clean_up_after(home.path());
    home
}

/// What can be set before the mount.
#[derive(Default)]
pub struct Setup<'a> {
    pub env: Vec<(&'a str, &'a str)>,
    pub files: Vec<(&'a str, &'a str)>,
    pub args: Vec<&'a str>,
}

impl Live {
    /// A mount of an empty home.
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// A mount of a home with files in it (by their path in the home), with variables and flags for the daemon.
    pub fn start_with(setup: Setup) -> Self {
        let home = scratch_home();
        for (path, content) in &setup.files {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Self::start_in(home, setup)
    }

    pub fn start_in(home: tempfile::TempDir, setup: Setup) -> Self {
        let daemon = daemon_command(home.path(), &setup).spawn().unwrap();
        let dir = home.path().join(".simpletuner/live");
        let mut live = Self { home, dir, daemon };
        wait_until("the mount answers", || {
            assert!(
                live.daemon.try_wait().unwrap().is_none(),
                "the daemon ended"
            );
            std::fs::read(live.path("status")).is_ok()
        });
        live
    }

    /// A path in the mount.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// A path in the home.
    pub fn home(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, content: &str) {
        std::fs::write(self.path(path), content).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// What a bash script prints that runs in the mount; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(
            output.status.success(),
            "{script}\n{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A bash script in the mount, whatever comes of it.
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("bash").args(["-c", script]).output().unwrap()
    }

    /// What a Python program prints that runs in the mount; it must succeed.
    pub fn python(&self, program: &str) -> String {
        let output = self
            .command("python3")
            .args(["-c", program])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}\n{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A file of the mount that holds JSON.
    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    /// A program that runs in the mount.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.dir)
            .env("HOME", self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// This crate's program in the scratch home.
    pub fn cli(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_simpletuner-live"));
        command.current_dir(self.home.path());
        command
    }

    /// What came of a program that uses the mount, and ends in time.
    #[track_caller]
    pub fn output_of(&self, command: &mut Command) -> Output {
        self.output_within(WAIT_TIMEOUT + WAIT_TIMEOUT / 2, command)
    }

    /// The output of a program that uses the mount. If it does not end in time, both processes of the mount are killed, so
    /// that the kernel releases the program.
    #[track_caller]
    pub fn output_within(&self, timeout: Duration, command: &mut Command) -> Output {
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut program = command
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let status = loop {
            match program.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if begun.elapsed() > timeout => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut waiting = String::new();
        if status.is_none() {
            waiting = stuck::processes_of(self.home.path());
            signal_group(Signal::KILL, &self.daemon);
            let _ = program.kill();
            let _ = program.wait();
        }
        let [stdout, stderr] = [&mut out, &mut err].map(|file| {
            let mut said = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut said).unwrap();
            said
        });
        let said = String::from_utf8_lossy(&stderr);
        let status = status.unwrap_or_else(|| panic!("it hangs: {said}\n{waiting}"));
        Output {
            status,
            stdout,
            stderr,
        }
    }

    /// The process that answers.
    pub fn server_pid(&self) -> u32 {
        self.json("status")["server_pid"].as_u64().unwrap() as u32
    }

    /// The process that sees to it that one answers.
    pub fn keeper_pid(&self) -> u32 {
        self.json("status")["keeper_pid"].as_u64().unwrap() as u32
    }

    /// Unmounts by SIGTERM, and gives the home, to look at or to mount again.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.end();
        std::mem::replace(&mut self.home, scratch_home())
    }

    fn end(&mut self) {
        // Where a test stopped one of its processes and then failed, it could not end.
        signal_group(Signal::CONT, &self.daemon);
        if self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process(Pid::from_child(&self.daemon), Signal::TERM);
        }
        let begun = Instant::now();
        while self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            if begun.elapsed() > WAIT_TIMEOUT {
                // Whatever either of its processes is at, neither comes back.
                signal_group(Signal::KILL, &self.daemon);
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.daemon.wait();
        // A test that killed the daemon leaves a dead mount.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.dir)
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

/// By a system call, as `home::signal` has it.
fn signal_group(signal: Signal, leader: &Child) {
    let leader = Pid::from_child(leader);
    let _ = kill_process_group(leader, signal);
}

/// The daemon of a home, in the foreground, with its processes in a group of their own.
pub fn daemon_command(home: &Path, setup: &Setup) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simpletuner-live"));
    command
        .args(["mount", "--foreground"])
        .args(&setup.args)
        .stdin(Stdio::null());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.envs(setup.env.iter().copied());
    command.stdout(Stdio::null());
    command.stderr(std::fs::File::create(home.join("daemon.log")).unwrap());
    command
}

/// Waits until the log in this file has these words, and returns it. A thread of the daemon writes it.
pub fn log_with(file: &Path, words: &str) -> String {
    let mut log = String::new();
    let begun = Instant::now();
    while !log.contains(words) {
        assert!(
            begun.elapsed() < WAIT_TIMEOUT,
            "the log lacks {words:?}: {log}"
        );
        std::thread::sleep(Duration::from_millis(5));
        log = std::fs::read_to_string(file).unwrap();
    }
    log
}

/// Tests that check when a write takes effect run one at a time: a child that another test forks meanwhile has their
/// files open until it begins its program, and so nobody would have closed them.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether the process sleeps until the mount answers it.
pub fn waits_for_the_mount(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/wchan"))
        .is_ok_and(|place| place.contains("request_wait"))
}

/// Waits for a condition, however long it takes on this machine.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < WAIT_TIMEOUT,
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
