//! Keeps values out of core dumps and debuggers. A program calls it when it starts.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Turns off core dumps and makes the process not dumpable, so that neither a crash nor another process of the same user
/// (ptrace, `/proc/PID/mem`) reveals a value. A failure is only logged.
pub fn protect_process() {
    protect(Some(0));
}

/// The same in a way that can be undone for a program that takes this process's place: an ordinary user could not raise the
/// upper limit again.
pub(crate) fn protect_until_exec() {
    protect(getrlimit(Resource::Core).maximum);
}

fn protect(maximum: Option<u64>) {
    let none = Rlimit {
        current: Some(0),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!("core dumps cannot be turned off: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("the process stays dumpable: {error}");
    }
}
