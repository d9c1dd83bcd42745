//! What both parts of a mount begin with: their log, their signals, and nothing of them to be seen by others.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::error::{Error, Result};

/// What both parts begin with; without a log file they stay at the terminal.
pub(super) fn set_up(log_file: Option<PathBuf>) -> Result<()> {
    // It was started by the number of a descriptor, which is no name to be found by.
    let _ = rustix::thread::set_name(c"simpletuner-liv");
    match log_file {
        Some(log_file) => {
            // It fails only for a leader of a group, which has left its terminal already.
            let _ = rustix::process::setsid();
            crate::logging::init_daemon(&log_file)?;
        }
        None => crate::logging::init_foreground(),
    }
    crate::secret::protect_process();
    Ok(())
}

/// What a signal asks for: a byte can be read for each.
pub(super) struct Signals {
    /// SIGTERM, SIGINT, SIGHUP.
    pub(super) end: OwnedFd,
    /// SIGUSR1.
    pub(super) upgrade: OwnedFd,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            end: pipe_of(&[SIGTERM, SIGINT, SIGHUP])?,
            upgrade: pipe_of(&[SIGUSR1])?,
        })
    }
}

fn pipe_of(signals: &[i32]) -> Result<OwnedFd> {
    let failed = |e| Error::io("signals", e);
    let (read, write) = rustix::pipe::pipe_with(
        rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
    )
    .map_err(|e| failed(e.into()))?;
    for signal in signals {
        let write = write.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(*signal, write).map_err(failed)?;
    }
    Ok(read)
}

/// From here on nobody reads what this prints.
pub(super) fn leave_terminal() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())
        .map_err(|e| Error::io("/dev/null", e))?;
    let result = rustix::stdio::dup2_stdin(null.as_fd())
        .and_then(|()| rustix::stdio::dup2_stdout(null.as_fd()))
        .and_then(|()| rustix::stdio::dup2_stderr(null.as_fd()));
    result.map_err(|e| Error::io("/dev/null", e))
}
