//! What both parts of a mount begin with: their log, their signals, and nothing of them to be seen by others.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::error::{Error, Result};

/// What both parts are called in `/proc`: of the program's name, what the kernel keeps.
pub(super) const PROCESS_NAME: &str = "simpletuner-liv";

/// Variables that lead to files. Each may be relative to the folder that the daemon was started in, which it leaves.
const PATH_VARIABLES: [&str; 13] = [
    "VAULT_TOKEN_FILE",
    "VAULT_CACERT",
    "VAULT_CAPATH",
    "VAULT_CLIENT_CERT",
    "VAULT_CLIENT_KEY",
    "SIMPLETUNER_STATE_DIR",
    "SIMPLETUNER_CONFIG_DIR",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "SSL_CERT_FILE",
];

/// Leaves what a daemon has no business with and would hold for as long as it lives: the descriptors that whoever
/// started it had open (locks, pipes, files being written), and the folder it was started in. It outlives limits that
/// would end it. To be called before this process opens anything, or starts a thread.
///
/// # Errors
/// The folder `/` cannot be entered.
pub fn leave_caller() -> Result<()> {
    close_inherited();
    for name in PATH_VARIABLES {
        let path = std::env::var_os(name).filter(|path| !path.is_empty());
        let is_relative = |path: &std::ffi::OsString| {
            Path::new(path).is_relative() && !path.as_encoded_bytes().starts_with(b"~")
        };
        if let Some(path) = path.filter(is_relative)
            && let Ok(path) = std::path::absolute(path)
        {
            // SAFETY: this process has one thread yet.
            unsafe { std::env::set_var(name, path) };
        }
    }
    std::env::set_current_dir("/").map_err(|e| Error::io("/", e))?;
    // The memory that the two processes share counts as a file, too.
    let size = getrlimit(Resource::Fsize);
    let raised = Rlimit {
        current: size.maximum,
        ..size
    };
    let _ = setrlimit(Resource::Fsize, raised);
    // What is over the limit then makes a write fail, as it should.
    // SAFETY: a signal that is ignored runs nothing.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(())
}

/// Closes all descriptors but the three standard ones, and those that a service manager kept for this process
/// (sd_listen_fds(3)).
fn close_inherited() {
    const FIRST: u32 = 3;
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let kept = match number("LISTEN_PID") == Some(std::process::id()) {
        true => number("LISTEN_FDS").unwrap_or(0),
        false => 0,
    };
    let first = FIRST.saturating_add(kept);
    // SAFETY: nothing of this process has a descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Linux before 5.9, or a sandbox.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let open = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for descriptor in open.collect::<Vec<u32>>() {
        if descriptor >= first {
            // SAFETY: as above; the one that listed them is closed already, which is no harm.
            unsafe { libc::close(descriptor as i32) };
        }
    }
}

/// What both parts begin with; without a log file they stay at the terminal.
pub(super) fn set_up(log_file: Option<PathBuf>) -> Result<()> {
    // It was started by the number of a descriptor, which is no name to be found by.
    if let Ok(name) = std::ffi::CString::new(PROCESS_NAME) {
        let _ = rustix::thread::set_name(&name);
    }
    match log_file {
        Some(log_file) => {
            // It fails only for a leader of a group, which has left its terminal already.
            let _ = rustix::process::setsid();
            crate::logging::init_daemon(&log_file)?;
        }
        None => crate::logging::init_foreground(),
    }
    crate::secret::protect_process();
    keep_heap_small();
    Ok(())
}

/// Has the threads share one heap, which gives back what it does not need: each with a heap of its own, they would keep
/// megabytes of what a burst of writes has freed (mallopt(3); another C library than glibc does as it likes).
fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, 64 * 1024)] {
        // SAFETY: it changes what malloc keeps, and nothing that is allocated.
        unsafe { libc::mallopt(parameter, value) };
    }
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
