//! How a process ended that another one has waited for: its descriptor knows (PIDFD_GET_INFO, Linux 6.15). All `unsafe` about it
//! is here.

use std::os::fd::{AsFd, AsRawFd};

/// `struct pidfd_info` of `linux/pidfd.h`, its first version.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`
const PIDFD_GET_INFO: u32 = 0xc000_ff0b | (size_of::<Info>() as u32) << 16;

/// The status of the ended process, as wait(2) gives it; `None` before it was waited for, and on an older kernel.
pub(crate) fn exit_status(process: impl AsFd) -> Option<i32> {
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    let descriptor = process.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most the size that is in the request's number, which is that of `info`.
    let done = unsafe { libc::ioctl(descriptor, PIDFD_GET_INFO as _, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::*;

    #[test]
    fn the_signal_that_ended_a_process_is_known_after_it_was_waited_for() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(exit_status(&process), None);
        pidfd_send_signal(&process, Signal::KILL).unwrap();
        child.wait().unwrap();
        // `None`: the kernel is an older one.
        assert!([None, Some(libc::SIGKILL)].contains(&exit_status(&process)));
    }
}
