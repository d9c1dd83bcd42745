//! poll(2) with a `Duration` as its timeout.

use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Result;

/// Waits until one of the descriptors is ready, for at most `timeout`; returns how many are.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Duration) -> Result<usize> {
    let timeout = Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    rustix::event::poll(fds, Some(&timeout))
}

/// Waits until one of the descriptors is ready, for at most `timeout`; returns whether one is. An interrupted wait counts
/// as one in which none became ready.
pub(crate) fn is_ready(fds: &mut [PollFd<'_>], timeout: Duration) -> bool {
    matches!(poll(fds, timeout), Ok(1..))
}
