//! Ends a mount: takes it out of the tree, ends its daemon, and with it the kernel's connection to it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::connection::Connection;
use super::daemon::{self, continue_stopped, wait_for_exit};
use super::detach::detach;
use super::mount_point_state::{
    MountPointState, VIEWS_SOURCE, is_own, mount_point_state_within, mounted, resolve,
};
use super::{belongs_to_another, usage};
use crate::error::{Error, Result};
use crate::process::mountinfo::Mount;

/// By then the daemon should have finished its writes and ended: the command ends within 5 seconds, whatever hangs.
const DAEMON_TIMEOUT: Duration = Duration::from_millis(4200);
/// How long a mount may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a daemon may take to end after its connection has ended.
const ABORTED_TIMEOUT: Duration = Duration::from_millis(300);

/// What becomes of the processes that still use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// The mount ends: their next operation fails with ENOTCONN.
    Now,
    /// They go on, and the mount ends with the last of them.
    Lazily,
}

/// What becomes of a mount whose views are still bound somewhere: into a container, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundViews {
    /// It stays, and so do the views; the error says where they are bound.
    Refuse,
    /// It ends: nobody reads through those any more.
    End,
}

/// Ends what is mounted at `dir`, with its views, within 5 seconds; warnings name the processes that used it. What was closed is written
/// first, unless that takes longer: the daemon then still finishes it.
///
/// # Errors
/// [`Error::Settings`] if nothing of this user's is mounted there (root may end any user's mount); [`Error::Io`] if the
/// system refuses to unmount it, or a filesystem on the way to it does not answer.
pub fn unmount(dir: &Path, how: Unmount, bound: BoundViews) -> Result<()> {
    let begun = Instant::now();
    let dir = resolve(dir);
    let place = dir.display();
    let refuse = |why: String| Err(Error::Settings(why));
    let Some(mount) = mounted(&dir)? else {
        return refuse(format!("nothing is mounted at {place}"));
    };
    let mut state = mount_point_state_within(&dir, ANSWER_TIMEOUT)?;
    if matches!(state, MountPointState::Ours { alive: false, .. }) && continue_stopped(&mount) {
        state = mount_point_state_within(&dir, ANSWER_TIMEOUT)?;
    }
    let (pids, views) = match state {
        MountPointState::Ours { pids, views, .. } => (pids, views),
        MountPointState::OfAnother { .. } if rustix::process::geteuid().is_root() => {
            (Vec::new(), None)
        }
        MountPointState::OfAnother { uid } => return refuse(belongs_to_another(&dir, uid)),
        MountPointState::NotMounted => return refuse(format!("nothing is mounted at {place}")),
        MountPointState::Foreign { fstype } => {
            return refuse(format!(
                "{place} is a {fstype} mount, not one of simpletuner-live; it is left alone"
            ));
        }
    };
    let views = views_of(&dir, views);
    // Before the detach: afterwards `/proc` no longer shows the mount.
    let (uses, binds) = usage::uses_of(&mount, views.as_ref());
    match &views {
        Some(views) if bound == BoundViews::Refuse => refuse_bound(views, &binds)?,
        _ if binds.found.is_empty() => {}
        _ => {
            tracing::warn!(
                "views were bound elsewhere: who reads them there gets ENOTCONN from now on"
            );
            usage::warn_of(&binds);
        }
    }
    let connection = Connection::of(&mount);
    let views_connection = views.as_ref().map(Connection::of);
    if let Some(views) = &views
        && let Err(error) = detach(views)
    {
        tracing::warn!("{error}");
    }
    let detached = match detach(&mount) {
        // Nobody can use it any more, but it stays where it is.
        Err(error) if how == Unmount::Now && error.errno() == libc::ETIMEDOUT => Err(error),
        detached => Ok(detached?),
    };
    match how {
        _ if uses.found.is_empty() => {}
        Unmount::Now => tracing::warn!(
            "{place} was in use: a process that still has a file or folder of it open gets ENOTCONN from now on"
        ),
        Unmount::Lazily => tracing::warn!(
            "{place} was in use: it is detached now, and ends when no process uses it and it is mounted nowhere else"
        ),
    }
    usage::warn_of(&uses);
    if how == Unmount::Now {
        end_daemons(&mount, connection, &pids, begun + DAEMON_TIMEOUT);
        // A dead mount, or a daemon that still writes.
        if let Some(Ok(connection)) = views_connection {
            let _ = connection.abort();
        }
    }
    detached
}

/// The mount of the views that belong to the mount at `dir`: where its `status` says, or, if it does not answer, at its usual place, if
/// that is a mount of this user's views.
fn views_of(dir: &Path, named: Option<PathBuf>) -> Option<Mount> {
    let usual = || dir.with_file_name("views");
    let mount = mounted(&named.unwrap_or_else(usual)).ok()??;
    is_own(&mount, VIEWS_SOURCE).then_some(mount)
}

/// # Errors
/// A folder of the views is bound somewhere; the message says where.
fn refuse_bound(views: &Mount, binds: &usage::Uses) -> Result<()> {
    if binds.found.is_empty() {
        return Ok(());
    }
    usage::warn_of(binds);
    Err(Error::Settings(format!(
        "the views at {} are still bound elsewhere, where nobody could read them any more; end what uses them, or add --force",
        views.point.display()
    )))
}

/// Removes a mount that does not answer. Processes that it still has end with the connection.
///
/// # Errors
/// As for [`detach`].
pub(super) fn remove_dead(mount: &Mount) -> Result<()> {
    let connection = Connection::of(mount);
    detach(mount)?;
    if let Err(error) = connection.and_then(|connection| connection.abort()) {
        tracing::debug!("the connection of the dead mount cannot be ended: {error}");
    }
    Ok(())
}

/// Ends the mount's processes, and with them the connection; if they take too long, first the connection. `named` are
/// those that the mount's `status` named.
fn end_daemons(mount: &Mount, connection: io::Result<Connection>, named: &[u32], until: Instant) {
    let daemons = daemon::daemons_of(mount, named);
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::CONT);
    }
    let left = wait_for_exit(daemons, until);
    // A process may be left that this user cannot see.
    let aborted = connection.and_then(|connection| connection.abort());
    for daemon in left.iter().filter(|daemon| daemon.is_stopped()) {
        tracing::warn!("process {} is stopped; killing it", daemon.pid);
        daemon.signal(Signal::KILL);
    }
    for daemon in wait_for_exit(left, Instant::now() + ABORTED_TIMEOUT) {
        let pid = daemon.pid;
        match &aborted {
            Ok(()) => tracing::warn!(
                "process {pid} has not finished its writes yet; it ends when it has, see its log"
            ),
            Err(error) => tracing::warn!(
                "process {pid} has not ended yet, and the connection cannot be ended before ({error}): until then, \
                 processes can still use files and folders of the mount that they have open; see its log"
            ),
        }
    }
}
