//! Asks the keeper to change a running mount to the program now on disk, and waits for the outcome.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use super::mount_point_state::{MountPointState, mount_point_state, mounted, resolve};
use super::setup::PROCESS_NAME;
use super::{belongs_to_another, command_for};
use crate::error::{Error, Result};
use crate::live::MountChange;
use crate::process;
use crate::process::mountinfo::MountId;

/// How long the keeper may take. It gives up on a new program earlier by itself.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a keeper may take to have its name after it has executed a new program.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How often `status` is read for the outcome.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A completed upgrade.
#[derive(Clone, Debug)]
pub struct Upgraded {
    /// The version before.
    pub from: String,
    /// The version now.
    pub to: String,
    /// The new server's process.
    pub server_pid: u64,
    /// The new program's path.
    pub program: String,
}

/// Changes the mount at `dir` to the program that is now at its own program's path. Processes that use the mount notice
/// nothing. With `force` also on a kernel that cannot resend requests, where those in flight fail with EIO.
///
/// # Errors
/// [`Error::Settings`]: no mount of ours is there, the kernel cannot resend, or the new program does not serve. The old
/// one then serves on.
pub fn upgrade(dir: &Path, force: bool) -> Result<Upgraded> {
    let dir = resolve(dir);
    let (mount, before) = status_of_ours(&dir, "upgrade", force)?;
    let Some(keeper) = before["keeper_pid"].as_u64() else {
        let place = dir.display();
        return Err(Error::Settings(format!(
            "the mount at {place} has no keeper to ask"
        )));
    };
    signal_keeper(&dir, keeper).map_err(|error| match mount.find() {
        Some(_) => error,
        None => has_ended(&dir),
    })?;
    let text = |status: &Value, field: &str| status[field].as_str().unwrap_or("?").to_owned();
    let (now, error) = wait_for_outcome(&dir, &mount, "upgrade", &before)?;
    match error {
        None => Ok(Upgraded {
            from: text(&before, "version"),
            to: text(&now, "version"),
            server_pid: now["server_pid"].as_u64().unwrap_or(0),
            program: text(&now, "program"),
        }),
        Some(error) => Err(Error::Settings(format!(
            "{} cannot take over, and the mount keeps running the old program: {error}",
            text(&now, "program")
        ))),
    }
}

/// The mount at `dir`, and what its `status` says, if it can be changed by this command.
///
/// # Errors
/// [`Error::Settings`]: no mount of ours answers there; or the kernel cannot resend requests, unless `force` is set.
pub(super) fn status_of_ours(dir: &Path, command: &str, force: bool) -> Result<(MountId, Value)> {
    let place = dir.display();
    let refuse = |why: String| Err(Error::Settings(why));
    let mount = mounted(dir)?.map(|mount| mount.id());
    match mount_point_state(dir)? {
        MountPointState::Ours { alive: true, .. } => {}
        MountPointState::Ours { alive: false, .. } => {
            return refuse(format!(
                "the mount at {place} does not answer; {} says what is wrong",
                command_for("status", dir)
            ));
        }
        MountPointState::OfAnother { uid } => return refuse(belongs_to_another(dir, uid)),
        MountPointState::NotMounted => {
            return refuse(format!(
                "nothing of simpletuner-live is mounted at {place}; {} mounts it",
                command_for("mount", dir)
            ));
        }
        MountPointState::Foreign { .. } => {
            return refuse(format!("nothing of simpletuner-live is mounted at {place}"));
        }
    }
    let Some(mount) = mount else {
        return refuse(format!("nothing of ours is mounted at {place}"));
    };
    let status = status(dir)?;
    if status["kernel"]["resend"] != true && !force {
        return refuse(format!(
            "this kernel cannot resend the requests that are in flight during the {command} (Linux 6.9 or newer can): they \
             would fail with an input/output error; wait until no program uses the mount, then type \
             {}",
            command_for(&format!("{command} --force"), dir)
        ));
    }
    Ok((mount, status))
}

/// The mount has been unmounted while the command waited.
pub(super) fn has_ended(dir: &Path) -> Error {
    Error::Settings(format!(
        "the mount at {} has ended meanwhile: it was unmounted",
        dir.display()
    ))
}

/// Waits until `status` has another outcome in this field than `before`: the new status, and why the mount goes on as it was, if
/// it does.
pub(super) fn wait_for_outcome(
    dir: &Path,
    mount: &MountId,
    field: &str,
    before: &Value,
) -> Result<(Value, Option<String>)> {
    let begun = Instant::now();
    let number = |status: &Value| status[field]["number"].as_u64().unwrap_or(0);
    while begun.elapsed() < OUTCOME_TIMEOUT {
        std::thread::sleep(POLL_INTERVAL);
        // On a kernel that cannot resend, this read may itself fail with the old server.
        let now = match status(dir) {
            Ok(now) => now,
            Err(_) if mount.find().is_none() => return Err(has_ended(dir)),
            Err(_) => continue,
        };
        if number(&now) != number(before) {
            let outcome: Option<MountChange> = serde_json::from_value(now[field].clone()).ok();
            let error = outcome.and_then(|outcome| outcome.error);
            return Ok((now, error));
        }
    }
    let timed_out = rustix::io::Errno::TIMEDOUT;
    let context = format!("the keeper reports no outcome of the {field}");
    Err(Error::io(context, timed_out))
}

fn status(dir: &Path) -> Result<Value> {
    let path = dir.join("status");
    let failed = |e| Error::io(path.display().to_string(), e);
    let bytes = std::fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
}

/// Signals the keeper, after checking that the process id is still the keeper's and not a later process's. A keeper that is
/// just becoming the program of the last upgrade has another name for some milliseconds.
fn signal_keeper(dir: &Path, keeper: u64) -> Result<()> {
    let failed = |e| Error::io(format!("the keeper, process {keeper},"), e);
    let unknown = || failed(rustix::io::Errno::SRCH);
    let pid = i32::try_from(keeper).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(unknown)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    let begun = Instant::now();
    loop {
        // The mount is ours, and its status still names this process after the pidfd was opened.
        let is_named = status(dir)?["keeper_pid"].as_u64() == Some(keeper);
        let pid = keeper as u32;
        let is_ours = process::user_of(pid) == Some(rustix::process::geteuid().as_raw());
        if is_named && is_ours && process::name_of(pid).as_deref() == Some(PROCESS_NAME) {
            break;
        }
        if !is_named || !is_ours || begun.elapsed() > NAME_TIMEOUT {
            return Err(unknown());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    rustix::process::pidfd_send_signal(&pidfd, Signal::USR1).map_err(failed)
}
