//! A command that is started anew when its variables change. Passes signals on, and ends when the command does.
//!
//! With a controlling terminal the command stays in this process's group, so that the terminal's own signals (Ctrl-C, Ctrl-Z, a
//! new size) reach it once, from the kernel; those are not passed on. Without one it has a group of its own, and all that this
//! process is sent reaches the whole group.

use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, getpid, kill_process, kill_process_group, test_kill_process_group,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use super::Launch;

/// How long a command may take to end after SIGTERM, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is waited for what was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether the rest of a group has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The signals that are passed on.
const PASSED_ON: [i32; 7] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
/// Those of them that ask the command to end.
const END: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
/// Set in the byte of a signal that the terminal has sent.
const FROM_TERMINAL: u8 = 0x80;
/// `SI_KERNEL` of the kernel's `siginfo.h`.
const SI_KERNEL: i32 = 0x80;

/// How the command ended.
pub(crate) enum End {
    Exited(u8),
    Killed(i32),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (_, Some(signal)) => Self::Killed(signal),
            // An exit code has eight bits.
            (code, None) => Self::Exited(code.unwrap_or_default() as u8),
        }
    }
}

/// Launches with changed variables, and a pipe that becomes readable when there is one.
pub(crate) struct Restarts {
    pub(crate) launches: Receiver<Launch>,
    pub(crate) notified: OwnedFd,
}

/// Runs the command until it ends by itself, or because this process was asked to end.
///
/// # Errors
/// The command cannot be started.
pub(crate) fn supervise(first: Launch, restarts: &Restarts) -> io::Result<End> {
    let (signals, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // It stays open for as long as there are handlers, which is until the end.
    SENDER.store(sender.into_raw_fd(), Ordering::Relaxed);
    SUPERVISOR.store(Pid::as_raw(Some(getpid())), Ordering::Relaxed);
    for signal in PASSED_ON.into_iter().chain([SIGCHLD]) {
        if signal == SIGCHLD || !is_ignored(signal) {
            handle_signal(signal)?;
        }
    }
    let mut command = Running::start(first)?;
    let (mut ending, mut next) = (Ending::No, None);
    loop {
        let timeout = next.as_ref().and_then(|_| ending.remaining());
        wait(&[&signals, &restarts.notified], timeout)?;
        for byte in bytes_of(&signals) {
            ending.note(command.pass_on(byte));
        }
        if let Some(status) = command.child.try_wait()? {
            return Ok(End::of(status));
        }
        bytes_of(&restarts.notified);
        next = restarts.launches.try_iter().last().or(next);
        if ending.is_pending() {
            continue;
        }
        let Some(launch) = next.take() else {
            continue;
        };
        let ended = command.stop(&signals)?;
        // From now on the terminal reaches no command.
        IS_RUNNING.store(false, Ordering::SeqCst);
        if let Some(signal) = ended.or_else(|| asks_to_end(&bytes_of(&signals))) {
            return Ok(End::Killed(signal));
        }
        command = Running::start(launch)?;
    }
}

/// Whether the command was asked to end, so that it must not be started anew.
enum Ending {
    No,
    /// By a signal after which many programs go on (SIGHUP reads settings anew, SIGINT ends one step): until then it may end.
    Perhaps(Instant),
    /// By SIGTERM.
    Yes,
}

impl Ending {
    /// The command got this signal.
    fn note(&mut self, signal: i32) {
        match (signal, &self) {
            (SIGTERM, _) => *self = Self::Yes,
            (_, Self::Yes) => {}
            (signal, _) if END.contains(&signal) => {
                *self = Self::Perhaps(Instant::now() + STOP_TIMEOUT);
            }
            _ => {}
        }
    }

    fn is_pending(&self) -> bool {
        match self {
            Self::No => false,
            Self::Perhaps(until) => Instant::now() < *until,
            Self::Yes => true,
        }
    }

    /// For how long it is pending. `None`: until the command has ended.
    fn remaining(&self) -> Option<Duration> {
        match self {
            Self::No => Some(Duration::ZERO),
            Self::Perhaps(until) => Some(until.saturating_duration_since(Instant::now())),
            Self::Yes => None,
        }
    }
}

/// Ignored by the caller (nohup, say), so the command is to ignore it, too.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: it only asks.
    unsafe {
        let mut old = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0
            && old.sa_sigaction == libc::SIG_IGN
    }
}

/// The last of the signals that asks to end.
fn asks_to_end(bytes: &[u8]) -> Option<i32> {
    let mut numbers = bytes.iter().map(|byte| i32::from(byte & !FROM_TERMINAL));
    numbers.rfind(|number| END.contains(number))
}

/// Where [`handle`] writes.
static SENDER: AtomicI32 = AtomicI32::new(-1);
/// The process that [`handle`] writes for. Another one is its child, which has not executed the command yet.
static SUPERVISOR: AtomicI32 = AtomicI32::new(0);
/// Whether there is a command, which the terminal's signals reach without this process.
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Has the signal's number written to the pipe when it arrives.
fn handle_signal(signal: i32) -> io::Result<()> {
    // SAFETY: `handle` only calls write(2), and gives back the errno.
    let done = unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid pointer; errno is this thread's own; all calls are async-signal-safe.
    unsafe {
        if libc::getpid() != SUPERVISOR.load(Ordering::Relaxed) {
            // What it does to a command that has just begun. It comes when this handler returns.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            return;
        }
        let errno = libc::__errno_location();
        let before = *errno;
        // The terminal sends a signal to the command, too, but only if there is one.
        let reached_it = (*info).si_code == SI_KERNEL && IS_RUNNING.load(Ordering::SeqCst);
        let from_terminal = if reached_it { FROM_TERMINAL } else { 0 };
        let byte = signal as u8 | from_terminal;
        // A full pipe has enough signals.
        libc::write(SENDER.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = before;
    }
}

fn bytes_of(pipe: &OwnedFd) -> Vec<u8> {
    let mut bytes = [0; 64];
    match rustix::io::read(pipe, &mut bytes) {
        Ok(count) => bytes[..count].to_vec(),
        Err(_) => Vec::new(),
    }
}

fn wait(pipes: &[&OwnedFd], timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<PollFd> = pipes
        .iter()
        .map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
        .collect();
    let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A command that was started.
struct Running {
    child: Child,
    has_own_group: bool,
}

impl Running {
    fn start(launch: Launch) -> io::Result<Self> {
        let has_own_group = !has_terminal();
        let child = Arc::new(launch).spawn(has_own_group)?;
        IS_RUNNING.store(true, Ordering::SeqCst);
        Ok(Self {
            child,
            has_own_group,
        })
    }

    /// A signal that this process got. Returns its number.
    fn pass_on(&self, byte: u8) -> i32 {
        let number = i32::from(byte & !FROM_TERMINAL);
        if !PASSED_ON.contains(&number) {
            return number;
        }
        // The terminal has sent it to the whole group.
        if byte & FROM_TERMINAL == 0 || self.has_own_group {
            self.kill(number);
        }
        number
    }

    fn kill(&self, number: i32) {
        let pid = Pid::from_child(&self.child);
        if let Some(signal) = Signal::from_named_raw(number) {
            let _ = match self.has_own_group {
                true => kill_process_group(pid, signal),
                false => kill_process(pid, signal),
            };
        }
    }

    /// Ends it for another one. Returns a signal that asked this process to end meanwhile.
    fn stop(&mut self, signals: &OwnedFd) -> io::Result<Option<i32>> {
        let until = Instant::now() + STOP_TIMEOUT;
        let (mut asked, mut is_killed, mut has_ended) = (None, false, false);
        self.kill(SIGTERM);
        // One that is stopped would get it only when it goes on.
        self.kill(libc::SIGCONT);
        loop {
            has_ended |= self.child.try_wait()?.is_some();
            // The kernel holds what does not end now: that does not keep the next one from starting.
            let is_late = Instant::now() >= until + KILL_TIMEOUT;
            if has_ended && !self.has_others() || is_late {
                return Ok(asked);
            }
            if Instant::now() >= until && !is_killed {
                self.kill(libc::SIGKILL);
                is_killed = true;
            }
            wait(&[signals], Some(LOOK_AGAIN))?;
            let bytes = bytes_of(signals);
            asked = asks_to_end(&bytes).or(asked);
            if !has_ended {
                bytes.into_iter().for_each(|byte| {
                    self.pass_on(byte);
                });
            }
        }
    }

    /// Whether its group still has processes.
    fn has_others(&self) -> bool {
        self.has_own_group && test_kill_process_group(Pid::from_child(&self.child)).is_ok()
    }
}

fn has_terminal() -> bool {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).is_ok()
}
