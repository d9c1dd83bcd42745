//! Upgrades all mounts that run one program: this user's, and for root those of every user, each by a process of that user.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::mount_point_state::is_of_this_program;
use super::running::running_mounts;
use super::upgrade::upgrade;
use crate::child::{self, RunError, RunHandle};
use crate::error::{Error, Result};
use crate::process::mountinfo;

/// How long the upgrade of one user's mounts may take.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountUpgrade {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The user that mounted it.
    pub user: u32,
    /// What happened.
    pub outcome: UpgradeOutcome,
    /// The program that it runs, if it answers.
    pub program: Option<PathBuf>,
    /// The version now.
    pub version: Option<String>,
    /// Why it goes on with the old program.
    pub error: Option<String>,
}

/// What an upgrade of all mounts did with one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeOutcome {
    /// It runs the program on disk.
    Upgraded,
    /// It runs another program, and goes on with it.
    Left,
    /// It goes on with the old program.
    Failed,
}

/// Upgrades this user's mounts that run `program`, a path without links.
///
/// # Errors
/// [`Error::Io`] if the table of mounts cannot be read. What goes wrong with one mount is in its outcome.
pub fn upgrade_all(program: &Path, force: bool) -> Result<Vec<MountUpgrade>> {
    let user = rustix::process::geteuid().as_raw();
    let one = |mount: super::RunningMount| {
        let mut done = MountUpgrade {
            mount_point: mount.mount_point,
            user,
            outcome: UpgradeOutcome::Failed,
            program: mount.answer.and_then(|answer| answer.program),
            version: None,
            error: None,
        };
        match &done.program {
            Some(other) if other != program => done.outcome = UpgradeOutcome::Left,
            Some(_) => match upgrade(&done.mount_point, force) {
                Ok(upgraded) => {
                    done.outcome = UpgradeOutcome::Upgraded;
                    done.version = Some(upgraded.to);
                }
                Err(error) => done.error = Some(error.to_string()),
            },
            None => done.error = Some("it does not answer".to_owned()),
        }
        done
    };
    // Wherever one is mounted, it has the same time to answer.
    let mounts = running_mounts(Path::new("/"))?;
    Ok(mounts.into_iter().map(one).collect())
}

/// The other users who have mounts of this program.
///
/// # Errors
/// [`Error::Io`] if the table of mounts cannot be read.
pub fn others_with_mounts() -> Result<BTreeSet<u32>> {
    let mounts = mountinfo::of_this_process().map_err(|e| Error::io("/proc/self/mountinfo", e))?;
    let me = rustix::process::geteuid().as_raw();
    let others = mounts.iter().filter(|mount| is_of_this_program(mount));
    let users = others.filter_map(|mount| mount.user);
    Ok(users.filter(|user| *user != me).collect())
}

/// Has a process of that user upgrade the user's mounts. The caller is root; whatever a mount of the user's does, it does it to
/// that process.
///
/// # Errors
/// [`Error::Settings`]: the process could not be started, took over a minute, or gave no outcome.
pub fn upgrade_as(user: u32, program: &Path, force: bool) -> Result<Vec<MountUpgrade>> {
    let found = User::from_uid(Uid::from_raw(user)).ok().flatten();
    let group = found.as_ref().map_or(user, |found| found.gid.as_raw());
    let home = found.map_or_else(|| PathBuf::from("/"), |found| found.dir);
    let mut command = Command::new(program);
    command
        .args(["upgrade", "--all", "--json"])
        .args(force.then_some("--force"))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .current_dir("/")
        // Without root's other groups: the standard library drops them.
        .uid(user)
        .gid(group);
    let failed = |why: String| Error::Settings(why);
    let finished = child::run(&mut command, USER_TIMEOUT, &RunHandle::default())
        .map_err(|error| failed(why(error)))?;
    serde_json::from_slice(finished.output.as_bytes())
        .map_err(|_| failed("their process gave no outcome".to_owned()))
}

fn why(error: RunError) -> String {
    match error {
        RunError::NotStarted(error) => format!("no process of theirs could be started: {error}"),
        RunError::TimedOut => format!("it took over {} seconds", USER_TIMEOUT.as_secs()),
        RunError::TooLarge | RunError::Closed => "their process gave no outcome".to_owned(),
    }
}
