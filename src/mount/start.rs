//! Starts the daemon in the background: another process of this program, which writes to its standard output that it
//! serves, or why it does not.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::daemon::continue_stopped;
use super::mount_point::MountPoint;
use super::mount_point_state::{MountPointState, mount_point_state, mounted, resolve};
use super::poll::is_ready;
use super::unmount::remove_dead;
use super::usage;
use super::views::bound_to_dead_views;
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::sync::not_started;

/// What the daemon writes once it serves. Anything else is the reason why it does not.
pub(super) const READY: &str = "ready\n";
/// What it writes if another mount already answers there.
pub(super) const ALREADY: &str = "already\n";
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
    if is_ours {
        remove(mount_point);
    }
}

fn remove(mount_point: &Path) {
    if let Ok(Some(mount)) = mounted(&resolve(mount_point))
        && let Err(error) = remove_dead(&mount)
    {
        tracing::warn!("{error}");
    }
}

/// What the daemon writes until it closes its end; `None`: that takes too long.
fn report_of(output: impl AsFd) -> Option<String> {
    let until = Instant::now() + START_TIMEOUT;
    let mut report = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut bytes = [0; 4096];
        if is_ready(&mut [PollFd::new(&output, PollFlags::IN)], left) {
            match rustix::io::read(&output, &mut bytes) {
                Ok(0) => return Some(String::from_utf8_lossy(&report).into_owned()),
                Ok(count) => report.extend_from_slice(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        } else if left.is_zero() {
            return None;
        }
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

/// Warns if nothing can be written below `~/.simpletuner`, as in many containers.
pub(super) fn warn_of_read_only(settings: &Settings, in_background: bool) {
    let dir = &settings.base_dir;
    // A missing folder is made in the first one above it that exists.
    let mut existing = dir.ancestors().filter(|dir| dir.symlink_metadata().is_ok());
    let Some(place) = existing.next() else {
        return;
    };
    let why = match rustix::fs::accessat(CWD, place, Access::WRITE_OK, AtFlags::EACCESS) {
        Err(Errno::ROFS) => "is on a read-only filesystem",
        Err(Errno::ACCESS | Errno::PERM) => "may not be written to by this user",
        _ => return,
    };
    let log = match in_background {
        true => ", and there is no log (`mount --foreground` shows it)",
        false => "",
    };
    tracing::warn!(
        "{} {why}: secrets in it can be read and not changed, what SimpleTuner's audit trail should get is lost{log}",
        place.display()
    );
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
    warn_of_read_only(settings, true);
    usage::warn_of_old_values(&bound_to_dead_views(&settings.views_dir));
    let program = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let mut child = Command::new(program)
        .args(["mount", "--foreground", "--part", "background-keeper"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("the daemon cannot be started", not_started(e)))?;
    let Some(output) = child.stdout.take() else {
        return Err(Error::Settings("the daemon has no standard output".into()));
    };
    let Some(report) = report_of(output) else {
        give_up(&mut child, &mount_point);
        return Err(Error::io(
            "the daemon was started and did not answer",
            Errno::TIMEDOUT,
        ));
    };
    let already = report == ALREADY;
    if report != READY && !already {
        // A filesystem that does not answer can hold one of its threads.
        ends_within(&mut child, KILL_TIMEOUT);
        if !report.trim().is_empty() {
            // Another command may have mounted meanwhile, which made this one fail.
            return match mount_point_state(&mount_point)? {
                MountPointState::Ours { alive: true, .. } => Ok(Mounted {
                    mount_point,
                    already: true,
                }),
                _ => Err(Error::Settings(report.trim().to_owned())),
            };
        }
        // It was killed. Its server, if there is one already, starts another keeper.
        if let MountPointState::Ours { alive: false, .. } = mount_point_state(&mount_point)? {
            remove(&mount_point);
        }
    }
    match mount_point_state(&mount_point)? {
        MountPointState::Ours { alive: true, .. } => Ok(Mounted {
            mount_point,
            already,
        }),
        MountPointState::NotMounted => Err(Error::Settings(format!(
            "the daemon ended; see its log, {}",
            settings.log_file.display()
        ))),
        _ => {
            give_up(&mut child, &mount_point);
            Err(Error::Settings(format!(
                "the daemon was started and does not answer any more; see its log, {}",
                settings.log_file.display()
            )))
        }
    }
}
