//! What `/proc` says of processes (proc(5)). A request names the thread that it came from, so most numbers here may be a
//! thread's or a process's.
//!
//! Everything in `/proc` is bytes: a process may give itself any name, and the kernel cuts it at 15 bytes, perhaps inside
//! a character. Nothing here waits for a process in execve(2), which may be waiting for the mount itself (it closes its
//! close-on-exec files there). So nothing follows `/proc/PID/fd/N`, and `/proc/PID/stat` is read only of a thread that
//! has no memory any more; [`started_at`] says what its caller must know.

mod fields;

use std::fs;
use std::io::ErrorKind;

use fields::{Stat, Status, field, number};

/// The caught signals that end a wait: INT, TERM, HUP, QUIT, ALRM. Any other caught one (SIGCHLD, say) must not
/// interrupt: `$(<file)` of bash would break.
const ENDING: u64 = bit(libc::SIGINT)
    | bit(libc::SIGTERM)
    | bit(libc::SIGHUP)
    | bit(libc::SIGQUIT)
    | bit(libc::SIGALRM);
/// Signals that do nothing, or stop and continue, when their action is the default one.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGCONT)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);
/// Set in a task's flags while it ends (`PF_EXITING`, include/linux/sched.h).
const PF_EXITING: u64 = 0x4;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether a thread is at its end, and how it came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is not: it has its memory, and what it closes it closes by itself or in execve(2).
    No,
    /// A signal ends it.
    Killed,
    /// It ends by itself, by exit(2) or with its process.
    Exited,
    /// There is no such thread: the kernel closed its files after it had let go of it.
    Gone,
    /// It is there, and `/proc` does not show it (`hidepid`, no `/proc`).
    Hidden,
}

/// The process (thread group) of a thread. `None`: it is out of sight, or has ended.
pub fn process_of(tid: u32) -> Option<u32> {
    Status::of(tid)?.number(b"Tgid:")
}

/// Whether the thread is at its end. Of the two marks that the kernel leaves, the exit code is the one to be trusted:
/// `PF_SIGNALED` is also on the other threads of a program that called exit(3).
pub fn ending(tid: u32) -> Ending {
    let unseen = || match is_there(tid) {
        true => Ending::Hidden,
        false => Ending::Gone,
    };
    let Some(status) = Status::of(tid) else {
        return unseen();
    };
    // It gives up its memory before its files.
    if status.has_memory() {
        return Ending::No;
    }
    match Stat::of(tid) {
        None => unseen(),
        Some(stat) if stat.flags & PF_EXITING == 0 => Ending::No,
        Some(stat) if stat.exit_code & 0x7f != 0 => Ending::Killed,
        Some(_) => Ending::Exited,
    }
}

/// Whether the thread has a descriptor that can write one of these inodes. A descriptor that cannot be looked at counts:
/// the caller waits for the kernel to release the file instead. Takes some 12 us for each descriptor.
pub fn has_writable_descriptor(tid: u32, inodes: [u64; 2]) -> bool {
    let unseen = |kind| !matches!(kind, ErrorKind::NotFound) || is_there(tid);
    let open = match fs::read_dir(format!("/proc/{tid}/fdinfo")) {
        Ok(open) => open,
        Err(error) => return unseen(error.kind()),
    };
    for entry in open {
        let Ok(entry) = entry else {
            return is_there(tid);
        };
        match fs::read(entry.path()) {
            Ok(info) if fields::can_write(&info, inodes) => return true,
            Ok(_) => {}
            // Closed meanwhile; or the thread has ended.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) => return true,
        }
    }
    false
}

/// Whether the thread is in an open(2) that creates a file and fails where there is one (O_CREAT and O_EXCL): so its
/// system call says, where it may be looked at.
pub fn creates_exclusively(tid: u32) -> bool {
    let Ok(call) = fs::read(format!("/proc/{tid}/syscall")) else {
        return false;
    };
    let mut fields = call.split(u8::is_ascii_whitespace);
    let Some(called) = fields.next().and_then(number::<i64>) else {
        return false;
    };
    let argument = |field: &[u8]| {
        let digits = std::str::from_utf8(field.strip_prefix(b"0x")?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let flags = match called {
        libc::SYS_openat => fields.nth(2),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => fields.nth(1),
        _ => None,
    };
    let wanted = (libc::O_CREAT | libc::O_EXCL) as u64;
    flags
        .and_then(argument)
        .is_some_and(|flags| flags & wanted == wanted)
}

/// Whether a signal is pending that ends what the thread is doing: one that kills, or one of those that programs catch
/// to end a wait.
pub fn has_fatal_signal_pending(tid: u32) -> bool {
    pending(tid)
        .is_none_or(|signals| signals.caught & ENDING != 0 || signals.uncaught & !HARMLESS != 0)
}

/// Whether a signal is pending that kills the thread.
pub fn is_being_killed(tid: u32) -> bool {
    pending(tid).is_none_or(|signals| signals.uncaught & !HARMLESS != 0)
}

/// Signals that are on their way to a thread.
struct Signals {
    caught: u64,
    uncaught: u64,
}

/// `None`: there is no such thread any more.
fn pending(tid: u32) -> Option<Signals> {
    let nothing = Signals {
        caught: 0,
        uncaught: 0,
    };
    let Some(status) = Status::of(tid) else {
        return is_there(tid).then_some(nothing);
    };
    let mask = |name: &[u8]| status.mask(name).unwrap_or(0);
    let pending = (mask(b"SigPnd:") | mask(b"ShdPnd:")) & !mask(b"SigIgn:");
    let deliverable = pending & (!mask(b"SigBlk:") | bit(libc::SIGKILL));
    let caught = mask(b"SigCgt:");
    Some(Signals {
        caught: deliverable & caught,
        uncaught: deliverable & !caught,
    })
}

/// Whether the process runs: one of its threads has its memory. A leader may have ended before its other threads.
pub fn is_alive(pid: u32) -> bool {
    match Status::of(pid) {
        Some(status) if status.has_memory() => true,
        Some(_) => fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| {
            threads.flatten().any(|thread| {
                let tid = number(thread.file_name().as_encoded_bytes());
                tid.and_then(Status::of)
                    .is_some_and(|status| status.has_memory())
            })
        }),
        None => is_there(pid),
    }
}

/// Whether the process's first thread has ended, though nobody may have asked for its exit code yet: the first process
/// of a container often never does. Threads that the kernel holds may still be there.
pub fn has_ended(pid: u32) -> bool {
    match Status::of(pid) {
        Some(status) => matches!(status.state(), Some(b'Z' | b'X')),
        None => !is_there(pid),
    }
}

/// How a process's first thread has ended, as wait(2) would tell its parent. `None`: it has not, or that is not shown.
pub fn wait_status(tid: u32) -> Option<i32> {
    let has_ended = Status::of(tid)?.state() == Some(b'Z');
    let stat = Stat::of(tid).filter(|_| has_ended)?;
    i32::try_from(stat.exit_code & 0xffff).ok()
}

/// When the process began, in clock ticks since boot, which tells it from a later one of the same number. Only for a
/// process that is known not to be in execve(2): one of its threads is in another call, or it is this program.
pub fn started_at(pid: u32) -> Option<u64> {
    Some(Stat::of(pid)?.started)
}

/// A process, told from a later one with the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number (the thread group's).
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process of a thread that is in a call other than execve(2) and close(2), which may be a part of it. `None`:
    /// it is out of sight.
    pub fn of_thread(tid: u32) -> Option<Self> {
        let pid = process_of(tid)?;
        let started = started_at(pid)?;
        Some(Self { pid, started })
    }
}

/// What a tree asks of the processes that call it.
pub trait Processes: Send + Sync {
    /// As [`Process::of_thread`].
    fn of_thread(&self, tid: u32) -> Option<Process>;
    /// As [`process_of`].
    fn process_of(&self, tid: u32) -> Option<u32>;
    /// As [`ending`].
    fn ending(&self, tid: u32) -> Ending;
    /// As [`has_writable_descriptor`].
    fn has_writable_descriptor(&self, tid: u32, inodes: [u64; 2]) -> bool;
    /// As [`is_alive`].
    fn is_alive(&self, pid: u32) -> bool;
    /// As [`sees_callers`].
    fn sees_callers(&self) -> bool;
    /// As [`creates_exclusively`].
    fn creates_exclusively(&self, _tid: u32) -> bool {
        false
    }
}

/// The processes of this machine, as `/proc` shows them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proc;

impl Processes for Proc {
    fn creates_exclusively(&self, tid: u32) -> bool {
        creates_exclusively(tid)
    }

    fn of_thread(&self, tid: u32) -> Option<Process> {
        Process::of_thread(tid)
    }

    fn process_of(&self, tid: u32) -> Option<u32> {
        process_of(tid)
    }

    fn ending(&self, tid: u32) -> Ending {
        ending(tid)
    }

    fn has_writable_descriptor(&self, tid: u32, inodes: [u64; 2]) -> bool {
        has_writable_descriptor(tid, inodes)
    }

    fn is_alive(&self, pid: u32) -> bool {
        is_alive(pid)
    }

    fn sees_callers(&self) -> bool {
        sees_callers()
    }
}

/// What the process or thread is called, fit to be shown: up to 15 bytes of whatever it likes.
pub fn name_of(tid: u32) -> Option<String> {
    let status = Status::of(tid)?;
    let name = String::from_utf8_lossy(status.field(b"Name:")?).into_owned();
    Some(name.replace(char::is_control, "?"))
}

/// The number of the mount that a descriptor is of, from its `/proc/PID/fdinfo/N`.
pub fn mount_of(fdinfo: &[u8]) -> Option<u64> {
    field(fdinfo, b"mnt_id:").and_then(number)
}

/// The user that the process acts for (its effective one).
pub fn user_of(pid: u32) -> Option<u32> {
    let status = Status::of(pid)?;
    let mut ids = status.field(b"Uid:")?.split(u8::is_ascii_whitespace);
    number(ids.nth(1)?)
}

/// Whether the threads that requests name are those of `/proc`: it is there, and of the pid namespace that this process
/// runs in. In any other its numbers are other processes'.
pub fn sees_callers() -> bool {
    let Ok(status) = fs::read("/proc/self/status") else {
        return false;
    };
    // The numbers of this process in the namespace of `/proc` and in each one below, down to its own.
    field(&status, b"NSpid:").and_then(number) == Some(std::process::id())
}

/// Whether there is such a thread or process, be it that `/proc` does not show it.
fn is_there(tid: u32) -> bool {
    let Some(pid) = i32::try_from(tid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return false;
    };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

#[cfg(test)]
mod tests;
