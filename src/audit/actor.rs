//! The user and process of an event.

use serde::{Deserialize, Serialize};

use super::user_names::{NAME_TIMEOUT, name_within};
use crate::process;

/// A user and their process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The user's number.
    pub uid: u32,
    /// The process's number; 0 if it is in a pid namespace that this process cannot see.
    pub pid: u32,
    /// The program's name, if `/proc` shows it.
    pub program: Option<String>,
}

impl Actor {
    /// The process of a user's thread. The thread must still exist.
    pub fn of_thread(uid: u32, tid: u32) -> Self {
        let (pid, program) = process_of(tid);
        Self { uid, pid, program }
    }

    /// This process.
    pub fn this_process() -> Self {
        Self::of_thread(rustix::process::geteuid().as_raw(), std::process::id())
    }
}

/// A thread's process: its number and the program's name.
pub(super) fn process_of(tid: u32) -> (u32, Option<String>) {
    let pid = process::process_of(tid).unwrap_or(tid);
    // Not the thread's name, which a program may set for each thread.
    (pid, process::name_of(pid))
}

/// The user's name, or their number if it cannot be found in time.
pub(super) fn user_of(uid: u32) -> String {
    name_within(uid, NAME_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_a_name_of_its_own_is_recorded_under_its_programs_name() {
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
