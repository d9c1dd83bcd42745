//! Process setup, for keeper and server alike: logging, signal pipes, not dumpable, nothing inherited.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::error::{Error, Result};
use crate::files::reserve;
use crate::provider::path_variables;

/// The name of both processes in `/proc`: the program's name, cut at the kernel's 15 bytes.
pub(super) const PROCESS_NAME: &str = "simpletuner-liv";

/// Detaches a daemon from its caller: it closes the caller's descriptors (locks, pipes, files being written), which it
/// would otherwise hold for as long as it lives, and changes to `/`. It also raises the limits of file sizes and open files,
/// and ignores the signal about the first. Call this before the process opens anything or starts a thread.
///
/// # Errors
/// The process cannot change to `/`.
pub fn detach_from_caller() -> Result<()> {
    close_inherited();
    // A path may be relative to the folder that the daemon was started in, which it leaves.
    for name in variables_with_paths() {
        let path = std::env::var_os(name);
        if let Some(path) = path.and_then(|path| absolute_variable(name.as_ref(), &path)) {
            // SAFETY: this process has only one thread so far.
            unsafe { std::env::set_var(name, path) };
        }
    }
    std::env::set_current_dir("/").map_err(|e| Error::io("/", e))?;
    // The limit also applies to the memory that keeper and server share.
    let size = getrlimit(Resource::Fsize);
    let raised = Rlimit {
        current: size.maximum,
        ..size
    };
    let _ = setrlimit(Resource::Fsize, raised);
    // A write past the limit then fails with EFBIG instead of killing the process.
    // SAFETY: an ignored signal runs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    reserve::raise_limit();
    Ok(())
}

fn variables_with_paths() -> impl Iterator<Item = &'static str> {
    path_variables().into_iter().chain(["SSL_CERT_FILE"])
}

/// The value of a variable for a process with another working folder, if it is a relative path.
pub(super) fn absolute_variable(name: &OsStr, value: &OsStr) -> Option<OsString> {
    let is_relative = !value.is_empty()
        && Path::new(value).is_relative()
        && !value.as_encoded_bytes().starts_with(b"~");
    if !is_relative || !variables_with_paths().any(|known| known == name) {
        return None;
    }
    Some(std::path::absolute(value).ok()?.into())
}

/// Closes all descriptors except the three standard ones, and those that a service manager passed to this process
/// (sd_listen_fds(3)).
fn close_inherited() {
    const FIRST: u32 = 3;
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let passed = match number("LISTEN_PID") == Some(std::process::id()) {
        true => number("LISTEN_FDS").unwrap_or(0),
        false => 0,
    };
    let first = FIRST.saturating_add(passed);
    // SAFETY: no object of this process owns a descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed == 0 {
        return;
    }
    // close_range(2) is missing before Linux 5.9, and in some sandboxes.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let open = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for descriptor in open.collect::<Vec<u32>>() {
        if descriptor >= first {
            // SAFETY: as above. The descriptor of the listing itself is closed already, so closing it again only fails.
            unsafe { libc::close(descriptor as i32) };
        }
    }
}

/// Sets up either process. Without a log file it stays at the terminal.
pub(super) fn set_up(log_file: Option<PathBuf>) -> Result<()> {
    // The program was started through `/proc/self/fd/N`, so the kernel named the process `N`.
    if let Ok(name) = std::ffi::CString::new(PROCESS_NAME) {
        let _ = rustix::thread::set_name(&name);
    }
    match log_file {
        Some(log_file) => {
            // This fails only for a group leader, which has left its terminal already.
            let _ = rustix::process::setsid();
            crate::logging::init_daemon(&log_file)?;
        }
        None => crate::logging::init_foreground(),
    }
    crate::secret::protect_process();
    keep_heap_small();
    Ok(())
}

/// Makes all threads share one heap, and glibc return freed memory to the kernel (mallopt(3)). With a heap for each
/// thread, the process would keep megabytes after a burst of writes.
fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, 64 * 1024)] {
        // SAFETY: these settings change what malloc keeps, not what is allocated.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Signals as pipes: for each signal, one byte can be read.
pub(super) struct Signals {
    /// SIGTERM, SIGINT.
    pub(super) end: OwnedFd,
    /// SIGHUP.
    pub(super) reload: OwnedFd,
    /// SIGUSR1.
    pub(super) upgrade: OwnedFd,
}

impl Signals {
    /// Also unblocks the signals that [`block_signals`] blocked.
    pub(super) fn new() -> Result<Self> {
        let signals = Self {
            end: pipe_of(&[SIGTERM, SIGINT])?,
            reload: pipe_of(&[SIGHUP])?,
            upgrade: pipe_of(&[SIGUSR1])?,
        };
        unblock_signals();
        Ok(signals)
    }
}

/// Blocks the signals of [`Signals`]. They stay pending when this process executes another program; without this, a signal
/// that arrives before that program has its handlers would end the process.
pub(super) fn block_signals() {
    change_mask(libc::SIG_BLOCK);
}

/// Undoes [`block_signals`].
pub(super) fn unblock_signals() {
    change_mask(libc::SIG_UNBLOCK);
}

fn change_mask(how: libc::c_int) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is initialized by sigemptyset before it is used, and no old mask is asked for.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
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

/// Whether this process has a terminal. After the terminal has hung up, it has none.
pub(super) fn has_terminal() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).is_ok()
}

/// Closes the standard streams: from here on no process reads them.
pub(super) fn leave_terminal() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())
        .map_err(|e| Error::io("/dev/null", e))?;
    let result = rustix::stdio::dup2_stdin(null.as_fd())
        .and_then(|()| rustix::stdio::dup2_stdout(null.as_fd()))
        .and_then(|()| rustix::stdio::dup2_stderr(null.as_fd()));
    result.map_err(|e| Error::io("/dev/null", e))
}
