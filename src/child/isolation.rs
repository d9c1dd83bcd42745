//! What a child does between fork and exec, so that its program inherits nothing of this process but the standard streams.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// One more than the highest signal (`NSIG` of the kernel).
const SIGNALS: i32 = 65;
/// The size of the kernel's `sigset_t`.
const SET_SIZE: usize = 8;
/// At least as large as the kernel's `struct sigaction`.
static DEFAULT_ACTION: [u64; 8] = [0; 8];
/// The first descriptor behind the standard streams.
const FIRST: u32 = 3;

/// Makes the program a session of its own, without a terminal that it could ask at, with no descriptor of this process and
/// with the signals as any program expects them. It is killed if the thread that starts it ends.
pub(super) fn isolate(command: &mut Command) {
    let prepare = || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // SAFETY: these calls are async-signal-safe, and change this child alone, which has one thread.
        unsafe {
            // This process ignores some, and handlers end with exec anyway. By the system call, because glibc's function refuses
            // its own two signals, which a parent may have ignored. All zero is SIG_DFL.
            for signal in 1..SIGNALS {
                let action = DEFAULT_ACTION.as_ptr();
                let old = std::ptr::null::<u64>();
                libc::syscall(libc::SYS_rt_sigaction, signal, action, old, SET_SIZE);
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            // All that this process opens is closed at exec by itself; this is for what others open in it. It fails before
            // Linux 5.11.
            let flags = libc::CLOSE_RANGE_CLOEXEC;
            libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, flags);
        }
        Ok(())
    };
    // SAFETY: `prepare` allocates nothing, takes no lock, and calls only what is allowed between fork and exec.
    unsafe { command.pre_exec(prepare) };
}
