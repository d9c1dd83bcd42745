//! Starts the daemon in the background: another process of this program, which writes to its standard output that it
//! serves, or why it does not.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::daemon::continue_stopped;
use super::mount_point::MountPoint;
use super::mount_point_state::{MountPointState, mount_point_state, mounted, resolve};
use super::unmount::remove_dead;
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::sync::{self, SMALL_STACK};

/// What the daemon writes once it serves. Anything else is the reason why it does not.
pub(super) const READY: &str = "ready\n";
/// How long the daemon may take to serve. A network home can be slow, but after this long the daemon counts as hung.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the daemon may take to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the daemon after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// A mount that answers.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// The mount point.
    pub mount_point: PathBuf,
    /// The mount was there before.
    pub already: bool,
}

/// Ends a daemon that takes too long, and its mount, so that a mount which was reported as failed does not appear later.
fn give_up(child: &mut Child, mount_point: &Path) {
    // The keeper unmounts and ends its server, unless it hangs.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    if !ends_within(child, TERM_TIMEOUT) {
        let _ = child.kill();
        // A filesystem that does not answer can hold the process for longer.
        ends_within(child, KILL_TIMEOUT);
    }
    // Without the mount, its server ends as well.
    let is_ours = matches!(
        mount_point_state(mount_point),
        Ok(MountPointState::Ours { .. })
    );
    if is_ours
        && let Ok(Some(mount)) = mounted(&resolve(mount_point))
        && let Err(error) = remove_dead(&mount)
    {
        tracing::warn!("{error}");
    }
}

fn ends_within(child: &mut Child, timeout: Duration) -> bool {
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() > timeout {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Mounts in the background, with the flags `arguments` for the daemon. Returns once the mount answers.
///
/// # Errors
/// The daemon's reason; [`Error::Io`] if the daemon cannot be started, or does not answer within 30 seconds.
pub fn mount_background(settings: &Settings, arguments: &[OsString]) -> Result<Mounted> {
    let mount_point = settings.mount_point.clone();
    let already = match mount_point_state(&mount_point)? {
        MountPointState::NotMounted => {
            // Here, too: the daemon gets the path without links, and the folders that its links lie in count.
            MountPoint::open(&mount_point)?;
            false
        }
        MountPointState::Ours { alive: false, .. } => {
            let mount = mounted(&resolve(&mount_point))?;
            mount.is_some_and(|mount| continue_stopped(&mount))
                && matches!(
                    mount_point_state(&mount_point)?,
                    MountPointState::Ours { alive: true, .. }
                )
        }
        MountPointState::Ours { alive: true, .. } => true,
        MountPointState::OfAnother { .. } | MountPointState::Foreign { .. } => false,
    };
    if already {
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
    let read = move || {
        let mut report = String::new();
        let _ = output.read_to_string(&mut report);
        drop(sender.send(report));
    };
    // Without a thread, there is no sender, and the daemon counts as one that does not answer.
    let _ = sync::spawn("start-report", SMALL_STACK, read);
    let report = receiver.recv_timeout(START_TIMEOUT).map_err(|_| {
        give_up(&mut child, &mount_point);
        Error::io(
            "the daemon was started and did not answer",
            rustix::io::Errno::TIMEDOUT,
        )
    })?;
    if report != READY {
        // A filesystem that does not answer can hold one of its threads.
        ends_within(&mut child, KILL_TIMEOUT);
        let report = report.trim();
        let log = settings.log_file.display();
        let reason = if report.is_empty() {
            format!("the daemon ended; see its log, {log}")
        } else {
            report.to_owned()
        };
        return Err(Error::Settings(reason));
    }
    match mount_point_state(&mount_point)? {
        MountPointState::Ours { alive: true, .. } => Ok(Mounted {
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
