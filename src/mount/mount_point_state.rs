//! What is mounted at a mount point, and whether it answers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemon;
use crate::error::{Error, Result};
use crate::process::mountinfo::{self, Mount};
use crate::settings::paths::{lexical, without_links};
use crate::sync;

/// The source of our mounts.
pub(super) const SOURCE: &str = "simpletuner-live";
/// The source of mounts of views.
pub(super) const VIEWS_SOURCE: &str = "simpletuner-live-views";
/// How long a mount may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kernel may take to say that a mount has ended.
const ENDED_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the filesystems on the way to a mount point may take to read their links.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountPointState {
    /// Nothing.
    NotMounted,
    /// A mount of this user's.
    Ours {
        /// Whether its daemon answers.
        alive: bool,
        /// Its server and keeper, if the daemon answers.
        pids: Vec<u32>,
        /// Where its views are mounted, if the daemon answers and there are any.
        views: Option<PathBuf>,
    },
    /// A mount of this program that belongs to another user.
    OfAnother {
        /// That user.
        uid: u32,
    },
    /// A mount of another program.
    Foreign {
        /// Its filesystem type.
        fstype: String,
    },
}

/// What is mounted at `dir`, which need not exist. Reads the `status` of a mount of ours, for at most 5 seconds.
///
/// # Errors
/// [`Error::Io`] if the table of mounts cannot be read.
pub fn mount_point_state(dir: &Path) -> Result<MountPointState> {
    mount_point_state_within(&resolve(dir), ANSWER_TIMEOUT)
}

/// [`mount_point_state`] at a resolved path, for which the mount has this long to answer.
pub(super) fn mount_point_state_within(dir: &Path, timeout: Duration) -> Result<MountPointState> {
    let Some(mount) = mounted(dir)? else {
        return Ok(MountPointState::NotMounted);
    };
    if !is_of_this_program(&mount) {
        return Ok(MountPointState::Foreign {
            fstype: mount.fstype,
        });
    }
    let me = rustix::process::geteuid().as_raw();
    match mount.user {
        Some(uid) if uid != me => Ok(MountPointState::OfAnother { uid }),
        _ => Ok(read_status(dir, me, timeout)),
    }
}

/// The stopped processes (by SIGSTOP or a debugger) of a mount that does not answer. [`super::mount_background`] and
/// [`super::unmount`] continue them.
pub fn stopped_processes(dir: &Path) -> Vec<u32> {
    let Ok(Some(mount)) = mounted(&resolve(dir)) else {
        return Vec::new();
    };
    let stopped = daemon::stopped(&mount).into_iter();
    stopped.map(|daemon| daemon.pid).collect()
}

/// Why the mount at `dir` does not answer, and the command that continues it, if processes of it are stopped.
pub(crate) fn explain_stopped(dir: &Path) -> Option<(String, String)> {
    let pids: Vec<String> = stopped_processes(dir).iter().map(u32::to_string).collect();
    let who = match &pids[..] {
        [] => return None,
        [only] => format!("its process {only} is"),
        [others @ .., last] => format!("its processes {} and {last} are", others.join(", ")),
    };
    let why = format!(
        "the mount at {} does not answer: {who} stopped (by SIGSTOP, or by a debugger)",
        dir.display()
    );
    Some((why, format!("kill -CONT {}", pids.join(" "))))
}

pub(super) fn is_of_this_program(mount: &Mount) -> bool {
    mount.fstype.starts_with("fuse") && mount.source == SOURCE
}

/// Whether this user has mounted it with this program, from this source.
pub(super) fn is_own(mount: &Mount, source: &str) -> bool {
    let me = rustix::process::geteuid().as_raw();
    mount.fstype.starts_with("fuse") && mount.source == source && mount.user == Some(me)
}

/// Where this user's mounts are.
pub fn own_mount_points() -> Vec<PathBuf> {
    let mounts = mountinfo::of_this_process().unwrap_or_default();
    let own = mounts.into_iter().filter(|mount| is_own(mount, SOURCE));
    own.map(|mount| mount.point).collect()
}

/// The topmost mount at a resolved path.
///
/// # Errors
/// [`Error::Io`] if the table of mounts cannot be read.
pub(super) fn mounted(dir: &Path) -> Result<Option<Mount>> {
    let mounts = mountinfo::of_this_process().map_err(|e| Error::io("/proc/self/mountinfo", e))?;
    Ok(mountinfo::at(&mounts, dir).cloned())
}

/// The path without symbolic links, as the table of mounts has it. The mount at its end is not asked, because it may not
/// answer. If a filesystem on the way does not answer within a second, its links are not followed.
pub fn resolve(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let path = dir.clone();
    let resolved = sync::within("links", RESOLVE_TIMEOUT, move || without_links(&path));
    resolved.unwrap_or_else(|| lexical(&dir))
}

/// Whether no process has the mount's device any more: the kernel then answers at once, with ENOTCONN.
pub(super) fn has_ended(dir: &Path) -> bool {
    let file = dir.join("status");
    let answer = sync::within("status", ENDED_TIMEOUT, move || fs::read(file).map(drop));
    let code = answer.and_then(|answer| answer.err()?.raw_os_error());
    matches!(code, Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Reads the file `status` on another thread, because a daemon that hangs would block this one for ever.
fn read_status(dir: &Path, me: u32, timeout: Duration) -> MountPointState {
    let root = dir.to_owned();
    let ask = move || {
        fs::metadata(&root)
            .and_then(|metadata| Ok((metadata.uid(), fs::read(root.join("status"))?)))
    };
    match sync::within("status", timeout, ask) {
        Some(Ok((uid, _))) if uid != me => MountPointState::OfAnother { uid },
        Some(Ok((_, bytes))) => {
            let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let pids = ["server_pid", "keeper_pid"].map(|field| status[field].as_u64());
            MountPointState::Ours {
                alive: true,
                pids: pids.into_iter().flatten().map(|pid| pid as u32).collect(),
                views: status["views"]["mount_point"].as_str().map(PathBuf::from),
            }
        }
        Some(Err(_)) | None => MountPointState::Ours {
            alive: false,
            pids: Vec::new(),
            views: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_not_mounted() {
        assert_eq!(
            mount_point_state(Path::new("/no/such/folder")).unwrap(),
            MountPointState::NotMounted
        );
    }
}
