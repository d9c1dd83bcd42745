//! Who did something: a user and a process.

use serde::{Deserialize, Serialize};

use super::user_names::{PATIENCE, name_within};
use crate::process;

/// A user, and the process by which he did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The user's number.
    pub uid: u32,
    /// The process's number; 0: it is in a pid namespace out of sight.
    pub pid: u32,
    /// What the process is called, where it can be told.
    pub program: Option<String>,
}

impl Actor {
    /// A user's process, by one of its threads. To be called while the thread is there.
    pub fn of_thread(uid: u32, tid: u32) -> Self {
        let (pid, program) = process_of(tid);
        Self { uid, pid, program }
    }

    /// This process.
    pub fn this_process() -> Self {
        Self::of_thread(rustix::process::geteuid().as_raw(), std::process::id())
    }
}

/// The process of a thread, and what it is called.
pub(super) fn process_of(tid: u32) -> (u32, Option<String>) {
    let pid = process::process_of(tid).unwrap_or(tid);
    // A thread may have a name of its own.
    (pid, process::name_of(pid))
}

/// The user's name, or number where he has none, or it is not told in time.
pub(super) fn user_of(uid: u32) -> String {
    name_within(uid, PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_its_process_whatever_the_thread_is_called() {
        let tid = std::thread::Builder::new()
            .name("another".into())
            .spawn(|| process_of(rustix::thread::gettid().as_raw_nonzero().get() as u32))
            .unwrap();
        let (pid, program) = tid.join().unwrap();
        assert_eq!(pid, std::process::id());
        assert!(program.is_some_and(|program| program != "another"));
        assert_eq!(process_of(0), (0, None));
        assert_eq!(process_of(u32::MAX), (u32::MAX, None));
    }
}
