//! What `/proc` tells of the processes that use the tree (proc(5)). A request names the thread it came from; all
//! numbers here may be threads' or processes'. Everything answers `None` or `false` where `/proc` does not say.
//!
//! `/proc/PID/stat` waits for a process that is in the middle of execve(2), and such a process may be waiting for us: it
//! closes its close-on-exec files there. So `stat` is read only of a thread that is known to be elsewhere: in open(2),
//! or at its end. `status` and `fdinfo` wait for nobody.

use std::fs;

use serde::{Deserialize, Serialize};

/// The signals that end a waiting process when they are caught: INT, TERM, HUP, QUIT, ALRM. Any other caught one
/// (SIGCHLD, say) must not interrupt: `$(<file)` of bash would break.
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
/// Past so many new processes it is cheaper to look at those that are there.
const MOST_NUMBERS: u32 = 1000;
/// Set in a task's flags while it ends (`PF_EXITING`, include/linux/sched.h).
const PF_EXITING: u64 = 0x4;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A process, told apart from a later one with the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// The process's number (the thread group's).
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process of a thread that is in a call other than execve(2) and close(2), which may be a part of it.
    pub fn of_thread(tid: u32) -> Option<Self> {
        let pid = group_of(tid)?;
        Some(Self {
            pid,
            started: Stat::of(pid)?.started,
        })
    }
}

/// The process that a thread belongs to.
pub fn group_of(tid: u32) -> Option<u32> {
    status_field(&status(tid)?, "Tgid:")?.parse().ok()
}

/// The fields of `/proc/PID/stat` that matter here.
struct Stat {
    flags: u64,
    started: u64,
    exit_code: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in brackets and may hold anything, brackets and spaces too.
        let fields: Vec<&str> = text
            .get(text.rfind(')')? + 2..)?
            .split_ascii_whitespace()
            .collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            flags: field(9)?,
            started: field(22)?,
            exit_code: field(52)?,
        })
    }
}

fn status(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Whether the thread is ending because of a signal. Of the two marks the kernel leaves, the exit code is the one that
/// tells: `PF_SIGNALED` is also on the other threads of a program that called `exit`.
pub fn ends_by_signal(tid: u32) -> bool {
    // One that still has its memory is not at its end, and may be in execve(2).
    let at_its_end = status(tid).is_some_and(|status| status_field(&status, "VmSize:").is_none());
    at_its_end
        && Stat::of(tid)
            .is_some_and(|stat| stat.flags & PF_EXITING != 0 && stat.exit_code & 0x7f != 0)
}

/// Whether a signal is pending that ends what the thread is doing.
pub fn wants_to_end(tid: u32) -> bool {
    let Some(status) = status(tid) else {
        return true;
    };
    let mask = |name| {
        status_field(&status, name)
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0)
    };
    let pending = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigIgn:");
    let kill = bit(libc::SIGKILL);
    let open = pending & (!mask("SigBlk:") | kill);
    let caught = mask("SigCgt:");
    open & caught & ENDING != 0 || open & !caught & !HARMLESS != 0
}

/// The number that was given to a process or thread last (the last field of `/proc/loadavg`).
pub fn last_number() -> Option<u32> {
    fs::read_to_string("/proc/loadavg")
        .ok()?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// Whether any process has one of these inode numbers open: the one that closed it just now, the one that opened it, or
/// one that began since the last number was `since`. An open file passes to children only, however far down, and a
/// parent that died leaves them to somebody else; but all of them began later.
pub fn is_held(inodes: [u64; 2], closer: u32, opener: u32, since: Option<u32>) -> bool {
    if [closer, opener]
        .into_iter()
        .any(|pid| holds(pid, inodes).unwrap_or(false))
    {
        return true;
    }
    let session_of = |pid| Some(status_field(&status(pid)?, "NSsid:")?.to_owned());
    let session = session_of(closer);
    let may_hold = |pid: u32| {
        holds(pid, inodes).unwrap_or_else(|| {
            // One of another user cannot be asked: it counts if it may have inherited the file (sudo).
            session.is_some() && session_of(pid) == session
        })
    };
    match (since, last_number()) {
        (Some(first), Some(last))
            if (first..first.saturating_add(MOST_NUMBERS)).contains(&last) =>
        {
            (first + 1..=last)
                .filter(|&pid| pid != closer)
                .any(may_hold)
        }
        // Many have begun, or the numbers have begun anew: everybody who is there now.
        _ => fs::read_dir("/proc").map_or(true, |all| {
            all.flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .filter(|&pid| pid != closer)
                .any(may_hold)
        }),
    }
}

/// Whether the process has one of the inodes open; `None` where it may not be asked.
fn holds(pid: u32, inodes: [u64; 2]) -> Option<bool> {
    let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
    Some(open.flatten().any(|entry| {
        fs::read_to_string(entry.path()).is_ok_and(|info| {
            status_field(&info, "ino:")
                .and_then(|ino| ino.parse().ok())
                .is_some_and(|ino| inodes.contains(&ino))
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    #[test]
    fn an_open_file_is_seen_in_this_process_and_in_a_child_that_inherited_it() {
        let since = last_number();
        let file = tempfile::tempfile().unwrap();
        let inodes = [file.metadata().unwrap().ino(), 0];
        let me = group_of(std::process::id()).unwrap();
        assert!(is_held(inodes, me, me, since));
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .unwrap();
        assert!(is_held(inodes, me, me, since));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_held(inodes, me, me, since));
    }

    #[test]
    fn a_signal_that_kills_is_told_from_one_that_does_not() {
        assert!(!wants_to_end(std::process::id()));
        assert!(!ends_by_signal(std::process::id()));
        assert!(wants_to_end(u32::MAX), "who is gone waits for nothing");
    }
}
