//! What the process as a whole does so that values stay inside it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off and makes the process not dumpable, so that neither a crash nor another process of the same
/// user (ptrace, `/proc/PID/mem`) shows a value. What the system refuses is logged and left.
pub fn protect_process() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!("core dumps cannot be turned off: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("the process stays dumpable: {error}");
    }
}
