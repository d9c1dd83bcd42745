//! What this process got from its caller and changes for itself: a program that it executes gets it back. Rust's runtime ignores
//! SIGPIPE and opens `/dev/null` where a standard stream is closed, before `main`; [`protect_process`](crate::secret::protect_process)
//! turns off core dumps. The kernel itself makes the program dumpable again, and unlocks the memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static IGNORES_BROKEN_PIPES: AtomicBool = AtomicBool::new(false);
static CLOSED_STREAMS: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
/// The size that core dumps may have. The greatest number: no limit.
static CORE_LIMIT: AtomicU64 = AtomicU64::new(0);

/// Records what the caller gave. Must run before Rust's runtime starts: it only makes system calls.
pub(crate) fn record() {
    // SAFETY: no handler is set, and `old` is written before it is read.
    let ignored = unsafe {
        let mut old = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut old) == 0
            && old.sa_sigaction == libc::SIG_IGN
    };
    IGNORES_BROKEN_PIPES.store(ignored, Ordering::Relaxed);
    for (descriptor, closed) in (0..).zip(&CLOSED_STREAMS) {
        // SAFETY: it only asks.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
        closed.store(flags == -1, Ordering::Relaxed);
    }
    let limit = getrlimit(Resource::Core).current.unwrap_or(u64::MAX);
    CORE_LIMIT.store(limit, Ordering::Relaxed);
}

/// Whether the caller had closed standard output. What is written there then goes nowhere, without an error.
pub(crate) fn is_output_closed() -> bool {
    CLOSED_STREAMS[1].load(Ordering::Relaxed)
}

/// Gives it back, just before another program is executed. Async-signal-safe.
pub(super) fn restore() {
    let action = match IGNORES_BROKEN_PIPES.load(Ordering::Relaxed) {
        true => libc::SIG_IGN,
        false => libc::SIG_DFL,
    };
    set_pipe_action(action);
    for (descriptor, closed) in (0..).zip(&CLOSED_STREAMS) {
        if closed.load(Ordering::Relaxed) {
            // Not closed: until the program begins, another thread's file could get the number.
            // SAFETY: it is the `/dev/null` of the runtime, which the next program does not expect.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    let limit = CORE_LIMIT.load(Ordering::Relaxed);
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: (limit != u64::MAX).then_some(limit),
            maximum: getrlimit(Resource::Core).maximum,
        },
    );
}

/// As Rust's runtime does it.
pub(super) fn ignore_broken_pipes() {
    set_pipe_action(libc::SIG_IGN);
}

fn set_pipe_action(action: libc::sighandler_t) {
    // SAFETY: neither action runs a handler.
    unsafe { libc::signal(libc::SIGPIPE, action) };
}
