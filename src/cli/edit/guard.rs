//! A process that removes the folder of an edit that was killed. It ends with the edit.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::PREFIX;
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::error::Error;
use crate::files::memory_folder::remove_if_unused;

pub(super) struct Guard(Child);

impl Guard {
    pub(super) fn start(folder: &Path) -> Outcome<Self> {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["edit", "--remove-after"])
                .arg(folder)
                .current_dir("/");
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // The terminal's signals are for the editor, and the end of the terminal ends the edit.
            let leave = || {
                rustix::process::setsid()?;
                Ok(())
            };
            // SAFETY: it is a system call.
            unsafe { command.pre_exec(leave) };
            command.spawn()
        };
        let started: io::Result<Child> = start();
        started.map(Self).map_err(|error| {
            Failure::Error(Error::io("cannot start a process that cleans up", error))
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// In the process itself.
pub(super) fn run(folder: &Path) {
    let name = folder.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| name.starts_with(PREFIX)) {
        return;
    }
    let _ = io::stdin().read_to_end(&mut Vec::new());
    // An editor that is still ending may write there once more.
    for _ in 0..20 {
        remove_if_unused(folder);
        if !folder.exists() {
            std::thread::sleep(Duration::from_millis(50));
            if !folder.exists() {
                return;
            }
        }
    }
}
