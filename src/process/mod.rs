//! Ground-level facts about processes: what `/proc` says of them (proc(5)), the table of mounts, the user database, and
//! the heartbeat page. A request carries the id of the thread that sent it, so most functions take a thread's or a
//! process's id.
//!
//! Everything in `/proc` is bytes: a process may give itself any name, and the kernel cuts it at 15 bytes, perhaps inside
//! a character.
//!
//! Nothing here may wait for a process in execve(2): there the kernel closes its close-on-exec files, which can wait for
//! the mount itself. So nothing follows `/proc/PID/fd/N`, and `/proc/PID/stat` is read only of a thread that has given
//! up its memory; [`started_at`] states what its caller must know.

mod container;
mod fields;
pub(crate) mod heartbeat;
pub(crate) mod mountinfo;
pub(crate) mod pidfd;
pub mod users;

use std::fs;
use std::io::ErrorKind;

pub use container::{ControlGroup, control_group_of};
use fields::{Stat, Status, field, number};
pub use mountinfo::Filesystem;

/// The signals that end a wait although the program catches them: INT, TERM, HUP, QUIT, ALRM. Any other caught signal
/// (SIGCHLD, say) must not interrupt: bash's `$(<file)` would break.
const ENDS_A_WAIT: u64 = bit(libc::SIGINT)
    | bit(libc::SIGTERM)
    | bit(libc::SIGHUP)
    | bit(libc::SIGQUIT)
    | bit(libc::SIGALRM);
/// The signals whose default action does not end a process: it ignores, stops or continues it.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGCONT)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);
/// Set in a task's flags while it exits (include/linux/sched.h).
const PF_EXITING: u64 = 0x4;
/// Set in a task's flags when a signal ends it, which may be that of another thread's exit(3).
const PF_SIGNALED: u64 = 0x400;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether a thread is exiting, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitState {
    /// It is not exiting: it still has its memory. A file that it closes, it closes by close(2) or in execve(2).
    Running,
    /// A signal kills it.
    Killed,
    /// It exits on its own, by exit(2) or with its process.
    Exited,
    /// There is no such thread: the kernel closed its files after it had removed the thread.
    Gone,
    /// The thread exists, but `/proc` does not show it (`hidepid`, no `/proc`).
    Hidden,
}

/// The memory of a process that is resident, in bytes. `None`: `/proc` does not show the process, or it has ended.
pub fn resident_memory(pid: u32) -> Option<u64> {
    let status = Status::of(pid)?;
    // In kB, as in "VmRSS:	   12345 kB".
    let line = std::str::from_utf8(status.field(b"VmRSS:")?).ok()?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The process (thread group) of a thread. `None`: `/proc` does not show the thread, or it has ended.
pub fn process_of(tid: u32) -> Option<u32> {
    Status::of(tid)?.number(b"Tgid:")
}

/// Whether the thread is exiting, and why. The exit code says whether a signal killed it: the kernel also sets
/// `PF_SIGNALED` on the other threads of a program that called exit(3).
pub fn exit_state(tid: u32) -> ExitState {
    let when_unseen = || match exists(tid) {
        true => ExitState::Hidden,
        false => ExitState::Gone,
    };
    let Some(status) = Status::of(tid) else {
        return when_unseen();
    };
    // An exiting thread gives up its memory before its files.
    if status.has_memory() {
        return ExitState::Running;
    }
    match Stat::of(tid) {
        None => when_unseen(),
        Some(stat) if stat.flags & PF_EXITING == 0 => ExitState::Running,
        Some(stat) if stat.exit_code & 0x7f != 0 => ExitState::Killed,
        Some(stat) if stat.flags & PF_SIGNALED != 0 && hides_exit_code(tid) => {
            // Without the code, the first thread shows it: exit(3) is nearly always called there.
            let first = process_of(tid).and_then(Stat::of);
            match first.is_none_or(|first| first.flags & PF_SIGNALED != 0) {
                true => ExitState::Killed,
                false => ExitState::Exited,
            }
        }
        Some(_) => ExitState::Exited,
    }
}

/// Whether the kernel shows this process zero for the thread's exit code: it then refuses whatever else it protects so.
fn hides_exit_code(tid: u32) -> bool {
    let namespace = fs::read_link(format!("/proc/{tid}/ns/user"));
    namespace.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Whether a thread has a descriptor that can write a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritableDescriptor {
    /// It has one, or one that cannot be inspected.
    Open,
    /// It has none.
    None,
    /// The kernel lets this process see no descriptor of the thread: another user's, or a program that is not dumpable.
    Hidden,
}

/// Whether the thread has a descriptor that can write one of these inodes of the filesystem. A descriptor that cannot be
/// inspected counts as one, and so does one of which no mount shows the filesystem: the caller then waits for the kernel to
/// release the file. Each descriptor takes about 12 us.
pub fn writable_descriptor(
    tid: u32,
    inodes: [u64; 2],
    filesystem: Option<&Filesystem>,
) -> WritableDescriptor {
    let open_if = |is_open| match is_open {
        true => WritableDescriptor::Open,
        false => WritableDescriptor::None,
    };
    let open = match fs::read_dir(format!("/proc/{tid}/fdinfo")) {
        Ok(open) => open,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return WritableDescriptor::Hidden;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return open_if(exists(tid)),
        Err(_) => return WritableDescriptor::Open,
    };
    for entry in open {
        let Ok(entry) = entry else {
            return open_if(exists(tid));
        };
        match fields::read(entry.path()) {
            Ok(info) => {
                let is_on = || filesystem.is_none_or(|filesystem| filesystem.may_have(tid, &info));
                if fields::can_write(&info, inodes) && is_on() {
                    return WritableDescriptor::Open;
                }
            }
            // The descriptor was closed meanwhile, or the thread has ended.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) => return WritableDescriptor::Open,
        }
    }
    WritableDescriptor::None
}

/// Whether the thread is in an open(2) with O_CREAT and O_EXCL. `/proc/TID/syscall` shows that; where it may not be read,
/// the answer is no.
pub fn creates_exclusively(tid: u32) -> bool {
    let Ok(call) = fields::read(format!("/proc/{tid}/syscall")) else {
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

/// Whether a pending signal should end the thread's wait: one that kills it, or one of those that programs catch to end
/// a wait. Also true of a thread that has ended.
pub fn has_fatal_signal_pending(tid: u32) -> bool {
    pending(tid).is_none_or(|signals| {
        signals.caught & ENDS_A_WAIT != 0 || signals.uncaught & !HARMLESS != 0
    })
}

/// Whether a pending signal kills the thread. Also true of a thread that has ended.
pub fn is_being_killed(tid: u32) -> bool {
    pending(tid).is_none_or(|signals| signals.uncaught & !HARMLESS != 0)
}

/// A thread's pending signals that it neither blocks nor ignores.
struct Signals {
    caught: u64,
    uncaught: u64,
}

/// `None`: the thread has ended. A thread that `/proc` hides has no pending signal.
fn pending(tid: u32) -> Option<Signals> {
    let nothing = Signals {
        caught: 0,
        uncaught: 0,
    };
    let Some(status) = Status::of(tid) else {
        return exists(tid).then_some(nothing);
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

/// Whether the process is running: one of its threads has its memory. The first thread may have ended before the others.
pub fn is_alive(pid: u32) -> bool {
    match Status::of(pid) {
        Some(status) if status.has_memory() => true,
        Some(_) => {
            threads(pid).any(|tid| Status::of(tid).is_some_and(|status| status.has_memory()))
        }
        None => exists(pid),
    }
}

fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let entries = entries.flat_map(Iterator::flatten);
    entries.filter_map(|entry| number(entry.file_name().as_encoded_bytes()))
}

/// Whether the process's first thread has ended. The process may still be a zombie, because a container's first process
/// often never reaps; and the kernel may still be holding other threads.
pub fn has_ended(pid: u32) -> bool {
    match Status::of(pid) {
        Some(status) => matches!(status.state(), Some(b'Z' | b'X')),
        None => !exists(pid),
    }
}

/// Whether the process is stopped, by SIGSTOP or by a debugger.
pub fn is_stopped(pid: u32) -> bool {
    let state = Status::of(pid).and_then(|status| status.state());
    matches!(state, Some(b'T' | b't'))
}

/// Whether one of the process's threads waits for a disk, say, and not even SIGKILL wakes it.
pub fn has_unkillable_thread(pid: u32) -> bool {
    let state = |tid| Status::of(tid).and_then(|status| status.state());
    threads(pid).any(|tid| state(tid) == Some(b'D'))
}

/// How a process's first thread ended, as the status that wait(2) gives. `None`: it has not ended, or `/proc` does not
/// show it.
pub fn wait_status(tid: u32) -> Option<i32> {
    let has_ended = Status::of(tid)?.state() == Some(b'Z');
    let stat = Stat::of(tid).filter(|_| has_ended)?;
    i32::try_from(stat.exit_code & 0xffff).ok()
}

/// When the process started, in clock ticks since boot, which distinguishes it from a later process with the same id.
/// The caller must know that the process is not in execve(2): one of its threads is in another call, or it is this
/// program.
pub fn started_at(pid: u32) -> Option<u64> {
    Some(Stat::of(pid)?.started)
}

/// A process. Its start time distinguishes it from a later process with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its id (of the thread group).
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process of a thread that is in a call other than execve(2) and close(2); a close may be part of an execve.
    /// `None`: `/proc` does not show the thread.
    pub fn of_thread(tid: u32) -> Option<Self> {
        let pid = process_of(tid)?;
        let started = started_at(pid)?;
        Some(Self { pid, started })
    }
}

/// What a tree asks about the processes that call it.
pub trait Processes: Send + Sync {
    /// As [`Process::of_thread`].
    fn of_thread(&self, tid: u32) -> Option<Process>;
    /// As [`process_of`].
    fn process_of(&self, tid: u32) -> Option<u32>;
    /// As [`exit_state`].
    fn exit_state(&self, tid: u32) -> ExitState;
    /// As [`writable_descriptor`].
    fn writable_descriptor(
        &self,
        tid: u32,
        inodes: [u64; 2],
        filesystem: Option<&Filesystem>,
    ) -> WritableDescriptor;
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

    fn exit_state(&self, tid: u32) -> ExitState {
        exit_state(tid)
    }

    fn writable_descriptor(
        &self,
        tid: u32,
        inodes: [u64; 2],
        filesystem: Option<&Filesystem>,
    ) -> WritableDescriptor {
        writable_descriptor(tid, inodes, filesystem)
    }

    fn is_alive(&self, pid: u32) -> bool {
        is_alive(pid)
    }

    fn sees_callers(&self) -> bool {
        sees_callers()
    }
}

/// The ids of all processes that this one may see.
pub(crate) fn all_pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name that the process or thread has given itself, up to 15 bytes, with control characters replaced.
pub fn name_of(tid: u32) -> Option<String> {
    Status::of(tid)?.name()
}

/// What one look at `/proc` shows of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadInfo {
    /// Its process.
    pub pid: u32,
    /// The process's name, as [`name_of`] gives it.
    pub program: Option<String>,
    /// The user that the kernel checks when the thread opens a file.
    pub file_user: Option<u32>,
}

/// A thread, and its process. `None`: `/proc` does not show the thread, or it has ended.
pub fn thread_info(tid: u32) -> Option<ThreadInfo> {
    let status = Status::of(tid)?;
    let pid = status.number(b"Tgid:")?;
    Some(ThreadInfo {
        pid,
        // A program may name each thread.
        program: match pid == tid {
            true => status.name(),
            false => name_of(pid),
        },
        file_user: status.file_user(),
    })
}

/// The id of the mount that a descriptor belongs to, from its `/proc/PID/fdinfo/N`.
pub fn mount_of(fdinfo: &[u8]) -> Option<u64> {
    field(fdinfo, b"mnt_id:").and_then(number)
}

/// The process's effective user.
pub fn user_of(pid: u32) -> Option<u32> {
    let status = Status::of(pid)?;
    let mut ids = status.field(b"Uid:")?.split(u8::is_ascii_whitespace);
    number(ids.nth(1)?)
}

/// Whether the thread ids in requests mean the same threads in `/proc`: it is mounted, and belongs to the pid namespace
/// that this process runs in. The ids of another namespace would name other processes.
pub fn sees_callers() -> bool {
    let Ok(status) = fields::read("/proc/self/status") else {
        return false;
    };
    // This process's ids in the namespace of `/proc` and in each namespace below, down to its own.
    field(&status, b"NSpid:").and_then(number) == Some(std::process::id())
}

/// Whether such a thread or process exists, even if `/proc` does not show it.
fn exists(tid: u32) -> bool {
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
