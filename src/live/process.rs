//! Who uses the tree, and who has a file of it open.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::process::{process_of, started_at};

/// Past so many new processes it is cheaper to look at those that are there.
const MOST_NUMBERS: u32 = 1000;
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
        let pid = process_of(tid)?;
        Some(Self {
            pid,
            started: started_at(pid)?,
        })
    }
}

fn field<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines
        .find_map(|line| line.strip_prefix(name.as_bytes()))
        .map(<[u8]>::trim_ascii)
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
    let session_of = |pid: u32| {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        Some(field(&status, "NSsid:")?.to_owned())
    };
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
        fs::read(entry.path()).is_ok_and(|info| {
            field(&info, "ino:")
                .and_then(|ino| std::str::from_utf8(ino).ok()?.parse().ok())
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
        let me = process_of(std::process::id()).unwrap();
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
}
