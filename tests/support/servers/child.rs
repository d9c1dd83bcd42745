//! Child processes that the kernel kills when the test process ends, however it ends.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Signal, set_parent_process_death_signal};

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a program that the kernel kills when this process ends. The signal comes at the end of the thread that
/// started it, and a test's thread ends with the test: so one thread starts them all.
pub fn spawn(mut command: Command) -> std::io::Result<Child> {
    static STARTS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    // SAFETY: one system call, which takes no lock and no memory.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let starts = STARTS.get_or_init(|| {
        let (orders, ordered) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in ordered {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, started) = channel();
    starts.lock().unwrap().send((command, reply)).unwrap();
    started.recv().unwrap()
}
