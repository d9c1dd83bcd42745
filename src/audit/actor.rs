//! The user and process of an event.

use serde::{Deserialize, Serialize};

use super::user_names::{NAME_TIMEOUT, NO_USER, name_within};
use crate::process::{self, ControlGroup, ThreadInfo};

/// A user and their process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The user's number; `None`: the process had ended before it was looked at.
    pub uid: Option<u32>,
    /// The process's number; 0 if it is in a pid namespace that this process cannot see.
    pub pid: u32,
    /// The program's name, if `/proc` shows it.
    pub program: Option<String>,
    /// The id of the container that the process is in, if it is in one.
    pub container: Option<String>,
    /// The unit of systemd that the process is in, if it is in one and in no container.
    pub unit: Option<String>,
}

impl Actor {
    /// The process of a user's thread. The thread must still exist.
    pub fn of_thread(uid: u32, tid: u32) -> Self {
        process_of(tid).of_user(Some(uid))
    }

    /// A process that may have ended: `look` gives what it finds by the process's number, if that is still the process's.
    pub fn of_opener(pid: u32, look: impl FnOnce(fn(u32) -> Option<Self>) -> Option<Self>) -> Self {
        let found = look(|tid| {
            let found = process::thread_info(tid)?;
            let uid = found.file_user?;
            Some(ActorProcess::of(found).of_user(Some(uid)))
        });
        found.unwrap_or(Self {
            uid: None,
            pid,
            program: None,
            container: None,
            unit: None,
        })
    }

    /// This process.
    pub fn this_process() -> Self {
        Self::of_thread(rustix::process::geteuid().as_raw(), std::process::id())
    }
}

/// A process, without its user.
#[derive(Clone)]
pub(super) struct ActorProcess {
    pub(super) pid: u32,
    pub(super) program: Option<String>,
    pub(super) group: ControlGroup,
}

impl ActorProcess {
    fn of(found: ThreadInfo) -> Self {
        Self {
            pid: found.pid,
            program: found.program,
            group: process::control_group_of(found.pid),
        }
    }

    pub(super) fn of_user(self, uid: Option<u32>) -> Actor {
        Actor {
            uid,
            pid: self.pid,
            program: self.program,
            container: self.group.container,
            unit: self.group.unit,
        }
    }
}

/// A thread's process.
pub(super) fn process_of(tid: u32) -> ActorProcess {
    match process::thread_info(tid) {
        Some(found) => ActorProcess::of(found),
        None => ActorProcess {
            pid: tid,
            program: None,
            group: ControlGroup::default(),
        },
    }
}

/// The user's name, or their number if it cannot be found in time.
pub(super) fn user_of(uid: Option<u32>) -> String {
    uid.map_or_else(|| NO_USER.into(), |uid| name_within(uid, NAME_TIMEOUT))
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
        let process = tid.join().unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(process.program.is_some_and(|program| program != "another"));
        for nobody in [0, u32::MAX] {
            let process = process_of(nobody);
            assert_eq!((process.pid, process.program), (nobody, None));
        }
    }
}
