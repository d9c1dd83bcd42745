//! Starting the daemon in the background: this program once more, which tells by its standard output when it serves,
//! or why it does not.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::state::{MountState, resolve, state};
use super::unmount::detach;
use crate::error::{Error, Result};
use crate::settings::Settings;

/// What the daemon says when it serves; anything else is the reason why it does not.
pub(super) const READY: &str = "ready\n";
/// How long it may take: a network home can be slow, a daemon that says nothing for so long hangs.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to give up what it has begun.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A mount that answers.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// Where it is.
    pub mount_point: PathBuf,
    /// It had been there before.
    pub already: bool,
}

/// Ends a daemon that takes too long, and what it may have mounted: nobody is to meet a mount later that was reported as
/// failed.
fn give_up(child: &mut Child, mount_point: &Path) {
    // It unmounts by itself and ends its server, unless it hangs.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    if !ends_within(child, ENDS_WITHIN) {
        let _ = child.kill();
        // The kernel may hold it at a filesystem that does not answer, for as long as that takes.
        ends_within(child, Duration::from_secs(1));
    }
    // Without the mount its server ends, too.
    let mount_point = resolve(mount_point);
    let is_ours = matches!(state(&mount_point), Ok(MountState::Ours { .. }));
    if is_ours && let Err(error) = detach(&mount_point) {
        tracing::warn!("{error}");
    }
}

fn ends_within(child: &mut Child, time: Duration) -> bool {
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Mounts in the background, with the flags `arguments` for the daemon; returns when the mount answers.
///
/// # Errors
/// What the daemon said before it gave up; [`Error::Io`] where it cannot be started, or does not answer in 30 seconds.
pub fn mount_background(settings: &Settings, arguments: &[OsString]) -> Result<Mounted> {
    let mount_point = settings.mount_point.clone();
    if let MountState::Ours { alive: true, .. } = state(&mount_point)? {
        return Ok(Mounted {
            mount_point,
            already: true,
        });
    }
    let program = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let mut child = Command::new(program)
        .args(["mount", "--foreground", "--part", "background-keeper"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("the daemon cannot be started", e))?;
    let Some(mut output) = child.stdout.take() else {
        return Err(Error::Settings("the daemon has no standard output".into()));
    };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        let _ = output.read_to_string(&mut said);
        drop(sender.send(said));
    });
    let said = receiver.recv_timeout(STARTS_WITHIN).map_err(|_| {
        give_up(&mut child, &mount_point);
        Error::io(
            "the daemon was started and says nothing",
            rustix::io::Errno::TIMEDOUT,
        )
    })?;
    if said != READY {
        let _ = child.wait();
        let said = said.trim();
        let log = settings.log_file.display();
        let reason = if said.is_empty() {
            format!("the daemon ended; its log is {log}")
        } else {
            said.to_owned()
        };
        return Err(Error::Settings(reason));
    }
    match state(&mount_point)? {
        MountState::Ours { alive: true, .. } => Ok(Mounted {
            mount_point,
            already: false,
        }),
        _ => Err(Error::io(
            format!(
                "{} is mounted, but does not answer; see {}",
                mount_point.display(),
                settings.log_file.display()
            ),
            rustix::io::Errno::IO,
        )),
    }
}
