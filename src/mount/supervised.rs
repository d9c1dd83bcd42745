//! The server's process, as the keeper sees it: started, felt for its pulse, and how it ended.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::handover::{Brief, Channel, First, Held};
use crate::error::{Error, Result};
use crate::process;
use crate::process::heartbeat::{HeartbeatPage, Slot};

/// Signals that a process gets for what it does itself.
const FAULTS: [i32; 7] = [
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// How long the other threads of a process may take to end after the first.
const ENDS_WITHIN: Duration = Duration::from_millis(50);

/// The process that answers.
pub(super) struct Server {
    pub(super) pid: Pid,
    /// Readable when it has ended with all its threads.
    pub(super) end: OwnedFd,
    /// Readable when it is ending: one of its threads has ended. The kernel can hold another one for as long as a store
    /// hangs that it was reading or writing.
    pub(super) beginning_of_the_end: Option<OwnedFd>,
    pub(super) channel: Channel,
    pub(super) is_ready: bool,
    pub(super) pulse: Pulse,
    /// What it said, or why it was killed, before it ended.
    pub(super) reason: Option<String>,
    /// How many processes had been killed for want of memory when it began.
    killed_before: Option<u64>,
}

/// What came of waiting for a process.
enum Waited {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    Unknown(&'static str),
}

impl Waited {
    /// Of a status as wait(2) gives it.
    fn of(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited(status >> 8 & 0xff),
            signal => Self::Killed(signal),
        }
    }
}

/// How a server ended.
pub(super) struct End {
    pub(super) reason: String,
    /// What it was at may have been the cause: nobody else has ended it.
    pub(super) by_itself: bool,
}

/// What was felt last, and for how many beats nothing else was.
#[derive(Default)]
pub(super) struct Pulse {
    last: u64,
    silent: u64,
    request: u64,
    busy: u64,
}

impl Pulse {
    /// Feels it once a beat, and says why the server counts as hung, if it does; `patience` is in beats.
    pub(super) fn feel(
        &mut self,
        heartbeat: &HeartbeatPage,
        patience: u64,
    ) -> Option<&'static str> {
        let (pulse, request) = (heartbeat.get(Slot::Beats), heartbeat.get(Slot::Reading));
        self.silent = if pulse == self.last {
            self.silent + 1
        } else {
            0
        };
        self.busy = match request {
            0 => 0,
            request if request == self.request => self.busy + 1,
            _ => 0,
        };
        (self.last, self.request) = (pulse, request);
        match () {
            () if self.silent > patience => Some("it gave no sign of life"),
            () if self.busy > patience => Some("it was at one request for too long"),
            () => None,
        }
    }
}

impl Server {
    /// Starts one, which prepares itself and then waits for the word to begin.
    pub(super) fn start(brief: &Brief, held: &Held) -> Result<Self> {
        let (child, channel) = Channel::start(held, brief, "server")?;
        let pid = Pid::from_child(&child);
        // It may have ended already, which shows by its end.
        let _ = channel.send_held(&First::Serve(brief.clone()), held, None);
        Self::watched(pid, channel).map_err(|e| Error::io("the server's process", e))
    }

    /// One that serves already; `None` where it has ended and somebody else was told how.
    pub(super) fn adopted(pid: u32, channel: Channel, heartbeat: &HeartbeatPage) -> Option<Self> {
        let pid = Pid::from_raw(pid as i32)?;
        let mut server = Self::watched(pid, channel).ok()?;
        server.serves(heartbeat);
        Some(server)
    }

    /// It answers from now on.
    pub(super) fn serves(&mut self, heartbeat: &HeartbeatPage) {
        /// Of one thread, not of the process (`PIDFD_THREAD`, pidfd_open(2)): since Linux 6.9, as resending is.
        const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
        self.is_ready = true;
        let thread = i32::try_from(heartbeat.get(Slot::Thread)).ok();
        self.beginning_of_the_end = thread
            .and_then(Pid::from_raw)
            .and_then(|thread| rustix::process::pidfd_open(thread, THREAD).ok());
    }

    fn watched(pid: Pid, channel: Channel) -> std::result::Result<Self, Errno> {
        Ok(Self {
            pid,
            end: rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
            beginning_of_the_end: None,
            channel,
            is_ready: false,
            pulse: Pulse::default(),
            reason: None,
            killed_before: killed_for_memory(),
        })
    }

    pub(super) fn kill(&mut self, why: &str) {
        self.reason = Some(why.to_owned());
        let _ = rustix::process::pidfd_send_signal(&self.end, Signal::KILL);
    }

    /// How it ended, once it has.
    pub(super) fn how_it_ended(&mut self) -> End {
        let waited = self.wait();
        let by_itself = |reason| End {
            reason,
            by_itself: true,
        };
        if let Some(reason) = self.reason.take() {
            return by_itself(reason);
        }
        match waited {
            Waited::Killed(libc::SIGKILL) if killed_for_memory() > self.killed_before => {
                by_itself("SIGKILL (there was no memory left)".into())
            }
            Waited::Killed(signal) => End {
                reason: signal_hook::low_level::signal_name(signal)
                    .map_or_else(|| format!("signal {signal}"), ToOwned::to_owned),
                by_itself: FAULTS.contains(&signal),
            },
            Waited::Exited(code) => by_itself(format!("exit code {code}")),
            Waited::Unknown(why) => End {
                reason: why.into(),
                by_itself: false,
            },
        }
    }

    fn wait(&self) -> Waited {
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return Waited::of(status.as_raw()),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) => {
                    // The kernel holds a thread of it, or the machine is busy. How its first thread ended may be known.
                    let status = process::wait_status(self.number());
                    self.wait_elsewhere();
                    return status.map_or(Waited::Unknown("it is ending"), Waited::of);
                }
                Err(Errno::INTR) => {}
                Err(_) => return Waited::Unknown("it ended, and its parent had ended before"),
            }
        }
    }

    fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// So that it does not stay a zombie.
    fn wait_elsewhere(&self) {
        let pid = self.pid;
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        // Without a thread it stays one for as long as this lives.
        let _ = thread.spawn(move || rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    }

    /// Whether it has ended within this time, but for threads that the kernel holds.
    pub(super) fn has_ended(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut ends = [PollFd::new(&self.end, PollFlags::IN)];
            let polled = rustix::event::poll(&mut ends, Some(&timespec(left.min(ENDS_WITHIN))));
            if matches!(polled, Ok(1..)) || self.is_over() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Whether its first thread has ended. The kernel may still hold another one, which reads or writes a store that hangs.
    pub(super) fn is_over(&self) -> bool {
        process::has_ended(self.number())
    }
}

pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// How many processes the kernel has killed for want of memory (`oom_kill` in `/proc/vmstat`).
fn killed_for_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}
