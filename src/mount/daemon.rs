//! The processes of a mount, as a command finds them: by what the mount's `status` says, and where it does not answer, by
//! what `/proc` shows.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::setup::PROCESS_NAME;
use crate::process;
use crate::process::mountinfo::Mount;

/// A keeper or a server. Its descriptor names the same process even after the kernel has given its id to another one.
pub(super) struct Daemon {
    pub(super) pid: u32,
    process: OwnedFd,
}

/// What a daemon's arguments say about the mount that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedMount {
    This,
    /// `mount --foreground`: the settings name it.
    Unnamed,
    Another,
}

impl Daemon {
    fn open(pid: u32, mount: &Mount, accepts: impl Fn(NamedMount) -> bool) -> Option<Self> {
        let is_daemon = || {
            process::name_of(pid).as_deref() == Some(PROCESS_NAME)
                && process::user_of(pid) == mount.user
                && named_mount(pid, mount).is_some_and(&accepts)
        };
        // Most processes are another program's.
        if !is_daemon() {
            return None;
        }
        let process = Pid::from_raw(pid as i32)?;
        let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
        // Once more, now that the process cannot become another one.
        is_daemon().then_some(Self { pid, process })
    }

    pub(super) fn signal(&self, signal: Signal) {
        // This fails only if the process has ended.
        let _ = pidfd_send_signal(&self.process, signal);
    }

    pub(super) fn has_ended(&self) -> bool {
        process::has_ended(self.pid)
    }

    pub(super) fn is_stopped(&self) -> bool {
        process::is_stopped(self.pid)
    }
}

/// The mount that a process's arguments name; `None` if it is no daemon.
fn named_mount(pid: u32, mount: &Mount) -> Option<NamedMount> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let has = |wanted: &[u8]| {
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|argument| argument == wanted)
    };
    match () {
        () if !has(b"--foreground") => None,
        () if has(mount.point.as_os_str().as_bytes()) => Some(NamedMount::This),
        () if !has(b"--part") => Some(NamedMount::Unnamed),
        () => Some(NamedMount::Another),
    }
}

/// The mount's processes: those that its `status` named, and those whose arguments name its mount point. (They name
/// another one if it was moved since.)
pub(super) fn daemons_of(mount: &Mount, named: &[u32]) -> Vec<Daemon> {
    let is_of = |pid, by_arguments| by_arguments == NamedMount::This || named.contains(&pid);
    all(|pid| Daemon::open(pid, mount, |by_arguments| is_of(pid, by_arguments)))
}

/// The processes that may be this mount's and are stopped.
pub(super) fn stopped(mount: &Mount) -> Vec<Daemon> {
    all(|pid| {
        let daemon = Daemon::open(pid, mount, |named| named != NamedMount::Another)?;
        daemon.is_stopped().then_some(daemon)
    })
}

fn all(open: impl Fn(u32) -> Option<Daemon>) -> Vec<Daemon> {
    process::all_pids().filter_map(open).collect()
}

/// Continues those of the mount's processes that were stopped; returns whether there were any.
pub(super) fn continue_stopped(mount: &Mount) -> bool {
    let stopped = stopped(mount);
    for daemon in &stopped {
        tracing::warn!(
            "process {} of the mount at {} was stopped (by SIGSTOP, or by a debugger); it is continued now",
            daemon.pid,
            mount.point.display()
        );
        daemon.signal(Signal::CONT);
    }
    !stopped.is_empty()
}

/// Waits until all of them have ended; returns those that have not.
pub(super) fn wait_for_exit(mut daemons: Vec<Daemon>, until: Instant) -> Vec<Daemon> {
    loop {
        daemons.retain(|daemon| !daemon.has_ended());
        if daemons.is_empty() || Instant::now() >= until {
            return daemons;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
