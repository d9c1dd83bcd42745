//! The server's process as the keeper sees it: how it is started, whether it hangs, and how it ended.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::channel::Channel;
use super::environment::Environment;
use super::handover::{HandoverState, Hello, SharedFds, ToServer};
use super::poll::is_ready;
use crate::error::{Error, Result};
use crate::files::reserve;
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::process::{self, pidfd};
use crate::sync::{self, SMALL_STACK};

/// Signals that the kernel sends a process for a fault of its own.
const FAULTS: [i32; 7] = [
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// How long a process's other threads may take to exit after the first.
const THREADS_EXIT_TIMEOUT: Duration = Duration::from_millis(50);
/// How long init may take to wait for a process whose parent has ended.
const INIT_TIMEOUT: Duration = Duration::from_millis(10);
/// How long a killed process may take to end before the kernel counts as holding it.
const KILLED_TIMEOUT: Duration = Duration::from_secs(1);

/// The server's process.
pub(super) struct ServerProcess {
    pid: Pid,
    /// Readable once the process has ended with all its threads.
    pub(super) exit_fd: OwnedFd,
    pub(super) channel: Channel,
    pub(super) is_ready: bool,
    pub(super) heartbeat: Heartbeat,
    /// The reason that the server gave, or for which the keeper killed it.
    pub(super) reason: Option<String>,
    oom_kills_at_start: Option<u64>,
}

/// The result of wait(2).
enum ExitStatus {
    Exited(i32),
    /// By this signal.
    Killed(i32),
    Unknown(&'static str),
}

impl ExitStatus {
    /// From a status as wait(2) gives it.
    fn from_raw(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited(status >> 8 & 0xff),
            signal => Self::Killed(signal),
        }
    }
}

/// How a server ended.
pub(super) struct Exit {
    pub(super) reason: String,
    /// A request may be the cause: the server failed by itself, hung, or was killed for lack of memory.
    pub(super) is_crash: bool,
}

/// The last heartbeat, and for how many checks it and the request have stayed the same.
#[derive(Default)]
pub(super) struct Heartbeat {
    last_beat: u64,
    checks_without_beat: u64,
    last_request: u64,
    checks_at_request: u64,
}

impl Heartbeat {
    /// Checks it, once a second; returns why the server counts as hung, if it does. `timeout` is in checks.
    pub(super) fn check(&mut self, page: &HeartbeatPage, timeout: u64) -> Option<&'static str> {
        let (beat, request) = (page.get(Slot::Beats), page.get(Slot::Reading));
        self.checks_without_beat = if beat == self.last_beat {
            self.checks_without_beat + 1
        } else {
            0
        };
        self.checks_at_request = match request {
            0 => 0,
            request if request == self.last_request => self.checks_at_request + 1,
            _ => 0,
        };
        (self.last_beat, self.last_request) = (beat, request);
        match () {
            () if self.checks_without_beat > timeout => Some("it gave no sign of life"),
            () if self.checks_at_request > timeout => Some("it was at one request for too long"),
            () => None,
        }
    }
}

impl ServerProcess {
    /// Starts a server. It prepares, and then waits for `ToServer::Begin`.
    pub(super) fn start(state: &HandoverState, shared: &SharedFds) -> Result<Self> {
        Self::start_part("server", state, shared, None)
    }

    /// Lets it begin. A mount's first server waits for this once more, before it answers.
    pub(super) fn begin(&self, state: &HandoverState) {
        // This fails if the process has ended already; `exit_fd` then shows it.
        let begin = ToServer::Begin(state.restarts.clone());
        let _ = self.channel.send(&begin);
    }

    /// Starts a process that opens the program which is now at the mounted program's path, sends it, and becomes its
    /// server.
    pub(super) fn start_successor(state: &HandoverState, shared: &SharedFds) -> Result<Self> {
        Self::start_part("successor", state, shared, None)
    }

    /// Starts a server of the same program with these variables.
    pub(super) fn start_with(
        environment: Option<&Environment>,
        state: &HandoverState,
        shared: &SharedFds,
    ) -> Result<Self> {
        Self::start_part("server", state, shared, environment)
    }

    fn start_part(
        part: &str,
        state: &HandoverState,
        shared: &SharedFds,
        environment: Option<&Environment>,
    ) -> Result<Self> {
        reserve::with(|| {
            let (child, channel) = Channel::start(shared, state, part, environment)?;
            let pid = Pid::from_child(&child);
            // This fails if the process has ended already; `exit_fd` then shows it.
            let _ = channel.send_hello(&Hello::Serve(state.clone()), shared, None);
            Self::watch(pid, channel).map_err(|e| Error::io("the server's process", e))
        })
    }

    /// Attaches to a server that is serving already. `None`: it has ended, and another process got its exit status.
    pub(super) fn attach(pid: u32, channel: Channel) -> Option<Self> {
        let pid = Pid::from_raw(pid as i32)?;
        let mut server = Self::watch(pid, channel).ok()?;
        server.is_ready = true;
        Some(server)
    }

    fn watch(pid: Pid, channel: Channel) -> std::result::Result<Self, Errno> {
        Ok(Self {
            pid,
            exit_fd: rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
            channel,
            is_ready: false,
            heartbeat: Heartbeat::default(),
            reason: None,
            oom_kills_at_start: oom_kills(),
        })
    }

    pub(super) fn kill(&mut self, why: &str) {
        self.reason = Some(why.to_owned());
        let _ = rustix::process::pidfd_send_signal(&self.exit_fd, Signal::KILL);
    }

    /// Reaps a server that has ended, and returns how it ended.
    pub(super) fn reap(&mut self) -> Exit {
        let status = self.wait();
        let crash = |reason| Exit {
            reason,
            is_crash: true,
        };
        if let Some(reason) = self.reason.take() {
            return crash(reason);
        }
        match status {
            ExitStatus::Killed(libc::SIGKILL) if oom_kills() > self.oom_kills_at_start => {
                crash("SIGKILL (the kernel ran out of memory)".into())
            }
            ExitStatus::Killed(signal) => Exit {
                reason: signal_hook::low_level::signal_name(signal)
                    .map_or_else(|| format!("signal {signal}"), ToOwned::to_owned),
                is_crash: FAULTS.contains(&signal),
            },
            ExitStatus::Exited(code) => crash(format!("exit code {code}")),
            ExitStatus::Unknown(why) => Exit {
                reason: why.into(),
                is_crash: false,
            },
        }
    }

    fn wait(&self) -> ExitStatus {
        let until = Instant::now() + KILLED_TIMEOUT;
        let until_held = Instant::now() + THREADS_EXIT_TIMEOUT;
        let until_known = Instant::now() + INIT_TIMEOUT;
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return ExitStatus::from_raw(status.as_raw()),
                Ok(None)
                    if Instant::now() < until_held
                        || Instant::now() < until && !self.has_unkillable_thread() =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) => {
                    // `/proc` may show how the first thread ended.
                    let status = process::wait_status(self.raw_pid());
                    self.reap_in_background();
                    let unknown = ExitStatus::Unknown(
                        "it is ending, but the kernel holds one of its threads",
                    );
                    return status.map_or(unknown, ExitStatus::from_raw);
                }
                Err(Errno::INTR) => {}
                // The keeper that started it has ended, and init waits for it.
                Err(_) => match pidfd::exit_status(&self.exit_fd) {
                    Some(status) => return ExitStatus::from_raw(status),
                    None if Instant::now() < until_known => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    None => {
                        return ExitStatus::Unknown("it ended, and this kernel does not say how");
                    }
                },
            }
        }
    }

    pub(super) fn raw_pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Keeps the process from staying a zombie.
    fn reap_in_background(&self) {
        let pid = self.pid;
        let wait = move || rustix::process::waitpid(Some(pid), WaitOptions::empty());
        // Without a thread, the zombie stays for as long as the keeper lives.
        let _ = sync::spawn("reap", SMALL_STACK, wait);
    }

    /// Waits until the process has ended, apart from threads that the kernel holds; returns whether it has.
    pub(super) fn wait_for_exit(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.exit_fd, PollFlags::IN)];
            if is_ready(&mut fds, left.min(THREADS_EXIT_TIMEOUT)) || self.is_held_by_kernel() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Whether the process has ended, apart from threads that the kernel holds, because they read or write a disk that
    /// hangs. The first thread can be one of them: then the signal that kills it is still pending a moment later.
    pub(super) fn is_held_by_kernel(&self) -> bool {
        if process::has_ended(self.raw_pid()) {
            return true;
        }
        let is_being_killed = || process::is_being_killed(self.raw_pid());
        let mut fds = [PollFd::new(&self.exit_fd, PollFlags::IN)];
        // On a busy machine, its threads may only be waiting for a processor.
        is_being_killed()
            && (is_ready(&mut fds, KILLED_TIMEOUT)
                || is_being_killed() && self.has_unkillable_thread())
    }

    fn has_unkillable_thread(&self) -> bool {
        process::has_unkillable_thread(self.raw_pid())
    }
}

/// How many processes the kernel has killed for lack of memory (`oom_kill` in `/proc/vmstat`).
fn oom_kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::super::channel;
    use super::*;

    /// Holds a process that is killed in the middle of its exit, for a moment, as a busy machine may.
    const HOLD: &str = r#"
import ctypes, os, sys, time
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
SEIZE, CONT, TRACE_EXIT, WALL = 0x4206, 7, 0x40, 0x40000000
pid = int(sys.argv[1])
assert ptrace(SEIZE, pid, 0, TRACE_EXIT) == 0, os.strerror(ctypes.get_errno())
print("ready", flush=True)
os.waitpid(pid, WALL)
time.sleep(0.2)
assert ptrace(CONT, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.waitpid(pid, WALL)
"#;

    #[test]
    fn a_killed_server_that_is_slow_to_end_was_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let (_other, channel) = channel::pair().unwrap();
        let mut server = ServerProcess::attach(child.id(), Channel(channel)).unwrap();
        let pid = child.id().to_string();
        let mut hold = Command::new("python3");
        let hold = hold.args(["-c", HOLD, &pid]).stdout(Stdio::piped());
        let mut hold = hold.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(hold.stdout.as_mut().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        rustix::process::pidfd_send_signal(&server.exit_fd, Signal::KILL).unwrap();
        let reason = server.reap().reason;
        let _ = child.wait();
        assert_eq!(reason, "SIGKILL");
        assert!(hold.wait().unwrap().success());
    }
}
