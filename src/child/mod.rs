//! Runs a program of the user's: bounded in time and size, in a session of its own of which no process is left. Knows
//! neither what it is run for nor what it prints.

mod find;
mod isolation;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use zeroize::Zeroizing;

use crate::secret::SecretBuffer;
use crate::sync::{self, Mutex, SMALL_STACK};

pub(crate) use find::find;

/// The most that a program may print.
pub(crate) const MAX_OUTPUT: usize = 1024 * 1024;
/// What is kept of its standard error: the last lines that have room. A line is kept whole or not at all: of a part, nobody could
/// tell whether a secret stands in it.
const MAX_ERRORS: usize = 4 * 1024;
/// How long a killed process may take to end before this waits for it no longer.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A program that has ended by itself.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: SecretBuffer,
    /// The end of its standard error.
    pub(crate) errors: SecretBuffer,
}

/// Why a program did not end by itself.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started.
    NotStarted(io::Error),
    /// It was killed at the end of its time.
    TimedOut,
    /// It was killed because it printed more than [`MAX_OUTPUT`].
    TooLarge,
    /// It was killed by [`RunHandle::close`].
    Closed,
}

/// The program that runs, so that another thread can end it.
#[derive(Default)]
pub(crate) struct RunHandle(Mutex<State>);

#[derive(Default)]
struct State {
    /// The leader of its process group; `None`: none runs, or it has been reaped.
    leader: Option<Pid>,
    is_closed: bool,
}

impl RunHandle {
    /// Kills the program that runs, and lets no further one begin.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        state.kill();
    }

    /// Returns whether the program that was just started may go on.
    fn begin(&self, child: &Child) -> bool {
        let mut state = self.0.lock();
        state.leader = Some(Pid::from_child(child));
        !state.is_closed
    }
}

impl State {
    /// Kills the whole process group. Until the leader is reaped, no other group can have its number.
    fn kill(&self) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs the program, and waits until its first process has ended. Then it kills what is left of its process group.
pub(crate) fn run(
    command: &mut Command,
    timeout: Duration,
    running: &RunHandle,
) -> Result<Finished, RunError> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    isolation::isolate(command);
    let until = Instant::now() + timeout;
    if running.0.lock().is_closed {
        return Err(RunError::Closed);
    }
    let mut child = command
        .spawn()
        .map_err(|error| RunError::NotStarted(sync::not_started(error)))?;
    let mut output = Output::new();
    let outcome = match running.begin(&child) {
        false => Err(RunError::Closed),
        true => watch(&mut child, &mut output, until, running),
    };
    let status = end(child, running);
    outcome?;
    let errors = output.whole_lines();
    Ok(Finished {
        status: status.ok_or(RunError::TimedOut)?,
        output: output.text,
        errors,
    })
}

/// Reads what the program prints until its first process has ended, and kills the others.
fn watch(
    child: &mut Child,
    output: &mut Output,
    until: Instant,
    running: &RunHandle,
) -> Result<(), RunError> {
    let mut watched = Watched::new(child).map_err(RunError::NotStarted)?;
    watched.wait(output, until)?;
    let is_closed = {
        let state = running.0.lock();
        state.kill();
        state.is_closed
    };
    if is_closed {
        return Err(RunError::Closed);
    }
    // Others that held the pipes are gone or have left the group: what is in them is all.
    watched.read(output)
}

/// Kills the group and reaps its leader. `None`: the kernel still holds it, in a call that no signal ends.
fn end(mut child: Child, running: &RunHandle) -> Option<ExitStatus> {
    let until = Instant::now() + END_TIMEOUT;
    loop {
        {
            let mut state = running.0.lock();
            state.kill();
            if let Ok(Some(status)) = child.try_wait() {
                state.leader = None;
                return Some(status);
            }
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    running.0.lock().leader = None;
    // Without a thread, the zombie stays for as long as this process lives.
    let _ = sync::spawn("reap", SMALL_STACK, move || child.wait());
    None
}

/// What a program has printed.
struct Output {
    text: SecretBuffer,
    errors: SecretBuffer,
    /// Whether more was printed there than is kept.
    is_cut: bool,
    buffer: Zeroizing<Vec<u8>>,
}

impl Output {
    fn new() -> Self {
        Self {
            text: SecretBuffer::new(&[]),
            errors: SecretBuffer::new(&[]),
            is_cut: false,
            buffer: Zeroizing::new(vec![0; 16 * 1024]),
        }
    }

    fn add_errors(errors: &mut SecretBuffer, is_cut: &mut bool, bytes: &[u8]) {
        let all = Zeroizing::new([errors.as_bytes(), bytes].concat());
        let from = all.len().saturating_sub(MAX_ERRORS);
        *is_cut |= from > 0;
        *errors = SecretBuffer::new(&all[from..]);
    }

    /// The end of its standard error, from the beginning of a line.
    fn whole_lines(&mut self) -> SecretBuffer {
        if !self.is_cut {
            return std::mem::replace(&mut self.errors, SecretBuffer::new(&[]));
        }
        let bytes = self.errors.as_bytes();
        let first = bytes.split_inclusive(|byte| *byte == b'\n').next();
        match &bytes[first.map_or(0, <[u8]>::len)..] {
            [] => SecretBuffer::new(b"(a line of more than 4 KiB)"),
            lines => SecretBuffer::new(lines),
        }
    }
}

/// What is watched of a program.
struct Watched {
    /// Readable once the process has ended.
    exit: OwnedFd,
    output: Option<Pipe>,
    errors: Option<Pipe>,
}

type Pipe = std::fs::File;

impl Watched {
    fn new(child: &mut Child) -> io::Result<Self> {
        let pipe = |fd: Option<OwnedFd>| -> io::Result<Option<Pipe>> {
            let Some(fd) = fd else { return Ok(None) };
            rustix::io::ioctl_fionbio(&fd, true)?;
            Ok(Some(fd.into()))
        };
        Ok(Self {
            output: pipe(child.stdout.take().map(Into::into))?,
            errors: pipe(child.stderr.take().map(Into::into))?,
            exit: pidfd_open(Pid::from_child(child), PidfdFlags::empty())?,
        })
    }

    /// Reads what is printed until the process has ended.
    fn wait(&mut self, output: &mut Output, until: Instant) -> Result<(), RunError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RunError::TimedOut);
            }
            let mut fds = vec![PollFd::new(&self.exit, PollFlags::IN)];
            let pipes = [&self.output, &self.errors].into_iter().flatten();
            fds.extend(pipes.map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
            let left = Timespec::try_from(left).ok();
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(RunError::NotStarted(error.into())),
            }
            let has_ended = !fds[0].revents().is_empty();
            self.read(output)?;
            if has_ended {
                return Ok(());
            }
        }
    }

    /// Reads what is in the pipes now.
    fn read(&mut self, output: &mut Output) -> Result<(), RunError> {
        let Output {
            text,
            errors,
            is_cut,
            buffer,
        } = output;
        let is_full = drain(&mut self.output, buffer, MAX_OUTPUT + 1, |bytes| {
            text.write_at(text.len(), bytes);
            text.len() > MAX_OUTPUT
        });
        // A pipe holds no more than this at a time, so a program that prints without end cannot keep this from looking at the clock.
        drain(&mut self.errors, buffer, 64 * 1024, |bytes| {
            Output::add_errors(errors, is_cut, bytes);
            false
        });
        match is_full {
            true => Err(RunError::TooLarge),
            false => Ok(()),
        }
    }
}

/// Reads what is in the pipe, up to a limit, until `take` says that it is enough; returns whether it did.
fn drain(
    pipe: &mut Option<Pipe>,
    buffer: &mut [u8],
    limit: usize,
    mut take: impl FnMut(&[u8]) -> bool,
) -> bool {
    let mut read = 0;
    while let Some(open) = pipe
        && read < limit
    {
        match open.read(buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => {
                read += length;
                if take(&buffer[..length]) {
                    return true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => *pipe = None,
        }
    }
    false
}

#[cfg(test)]
mod tests;
