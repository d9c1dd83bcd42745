//! Descriptors that a daemon keeps for what must not fail when it has used up its limit: the next server, the next keeper, and
//! the writes of files that are open. While there are no others, no file is opened to write.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, Result};
use crate::sync::Mutex;

/// How many are kept, for all that may need one at once: a write of the store has five files open, each of two databases
/// five, a check of one of these as many, a look at `/proc` two, and a new process takes five.
const SIZE: usize = 28;
/// The fewest descriptors that a daemon can work with: what each part holds, its databases and backends, and the reserve.
pub(crate) const MIN_LIMIT: u64 = 96;
/// As many as there ever is use for.
const WANTED_LIMIT: u64 = 1024;

struct Reserve {
    kept: Vec<OwnedFd>,
    /// How many threads are using the place of what was kept.
    users: usize,
    /// Only daemons keep one.
    is_kept: bool,
}

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve {
    kept: Vec::new(),
    users: 0,
    is_kept: false,
});

impl Reserve {
    /// Whether all of them are there.
    fn refill(&mut self) -> bool {
        while self.kept.len() < SIZE {
            match spare() {
                Some(file) => self.kept.push(file),
                None => return false,
            }
        }
        true
    }
}

/// Any descriptor: it gets the lowest free number.
fn spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Whether the limit is far above what this process has open, of which this is one.
fn is_plenty(file: &OwnedFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A daemon has some forty open, so few numbers above the lowest free one are taken.
    file.as_raw_fd() as u64 * 2 + MIN_LIMIT < limit
}

/// Raises this process's limit to what is useful, as far as it may.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(WANTED_LIMIT).min(WANTED_LIMIT);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Whether this process may open enough files for a daemon.
///
/// # Errors
/// [`Error::Settings`].
pub(crate) fn check_limit() -> Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < MIN_LIMIT => Err(Error::Settings(format!(
            "the limit of open files is {limit}, and the daemon needs {MIN_LIMIT}: raise it (`ulimit -n`, or `LimitNOFILE=` \
             of the systemd unit)"
        ))),
        _ => Ok(()),
    }
}

/// Keeps a reserve from now on. Called once everything is open that this process needs all the time.
pub(crate) fn keep() {
    let mut reserve = RESERVE.lock();
    reserve.is_kept = true;
    reserve.refill();
}

/// Does work that must not fail for want of a descriptor: it may use the place of the reserve.
pub(crate) fn with<T>(work: impl FnOnce() -> T) -> T {
    if spare().is_some_and(|file| is_plenty(&file)) {
        return work();
    }
    {
        let mut reserve = RESERVE.lock();
        reserve.users += 1;
        reserve.kept.clear();
    }
    let done = work();
    let mut reserve = RESERVE.lock();
    reserve.users -= 1;
    if reserve.users == 0 && reserve.is_kept {
        reserve.refill();
    }
    done
}

/// Whether there are descriptors besides the reserve, for what is begun now.
pub(crate) fn has_unreserved() -> bool {
    let Some(file) = spare() else {
        // Its place may be free in a moment, if another thread is using the reserve.
        return !RESERVE.lock().is_kept;
    };
    let mut reserve = RESERVE.lock();
    is_plenty(&file) || !reserve.is_kept || reserve.users > 0 || reserve.refill()
}
