//! This user's mounts that run, wherever they are mounted. Knows no settings.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::mount_point_state::{SOURCE, is_own};
use crate::error::{Error, Result};
use crate::process::mountinfo;
use crate::settings::SettingsDigest;
use crate::sync::{self, SMALL_STACK};

/// How long a mount may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one that is mounted where this caller expects none.
const ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(1);

/// A mount of this user's.
#[derive(Clone, Debug)]
pub struct RunningMount {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What it says of itself; `None`: it does not answer.
    pub answer: Option<Answer>,
}

/// What a mount says of itself.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where it was mounted: elsewhere, if a folder on the way has another name now.
    pub mounted_at: PathBuf,
    /// The program that it runs.
    pub program: Option<PathBuf>,
    /// Its settings file.
    pub settings_file: PathBuf,
    /// Whether that file has another content than what is in force.
    pub settings_changed: bool,
    /// Its secrets file, links followed.
    pub store: PathBuf,
}

/// This user's mounts, each once. Those outside of `home` get little time to answer: one that hangs is hardly this caller's.
///
/// # Errors
/// [`Error::Io`] if the table of mounts cannot be read.
pub fn running_mounts(home: &Path) -> Result<Vec<RunningMount>> {
    let mounts = mountinfo::of_this_process().map_err(|e| Error::io("/proc/self/mountinfo", e))?;
    let mut own: Vec<_> = mounts
        .iter()
        .filter(|mount| is_own(mount, SOURCE))
        .collect();
    // A bind mount shows the same mount again.
    let mut seen = HashSet::new();
    own.retain(|mount| seen.insert(&mount.filesystem));
    // All at once, so that several that hang cost no more than one.
    let timeout = |point: &Path| match point.starts_with(home) {
        true => ANSWER_TIMEOUT,
        false => ELSEWHERE_TIMEOUT,
    };
    let ask = |point: &PathBuf| Asked::new(point, timeout(point));
    let asked: Vec<_> = own.iter().map(|mount| ask(&mount.point)).collect();
    Ok(asked.into_iter().map(Asked::wait).collect())
}

impl RunningMount {
    /// What the mount there says now.
    pub fn at(mount_point: &Path) -> Self {
        Asked::new(mount_point, ANSWER_TIMEOUT).wait()
    }
}

/// A mount that was asked, on another thread, because one that hangs would block this one for ever.
struct Asked {
    mount_point: PathBuf,
    until: Instant,
    answer: Receiver<Option<Answer>>,
}

impl Asked {
    fn new(mount_point: &Path, timeout: Duration) -> Self {
        let (sender, answer) = channel();
        let root = mount_point.to_owned();
        let ask = move || drop(sender.send(ask(&root)));
        // Without a thread, there is no sender, and the mount counts as one that hangs.
        let _ = sync::spawn("status", SMALL_STACK, ask);
        Self {
            mount_point: mount_point.to_owned(),
            until: Instant::now() + timeout,
            answer,
        }
    }

    fn wait(self) -> RunningMount {
        let left = self.until.saturating_duration_since(Instant::now());
        RunningMount {
            mount_point: self.mount_point,
            answer: self.answer.recv_timeout(left).ok().flatten(),
        }
    }
}

fn ask(root: &Path) -> Option<Answer> {
    let json = |file: &str| serde_json::from_slice(&fs::read(root.join(file)).ok()?).ok();
    let (status, file): (Value, Value) = (json("status")?, json("providers/file")?);
    let path = |value: &Value| Some(PathBuf::from(value.as_str()?));
    let settings = &status["settings"];
    let settings_file = path(&settings["file"])?;
    let in_force: Option<SettingsDigest> =
        serde_json::from_value(settings["in_force"].clone()).ok();
    Some(Answer {
        mounted_at: path(&status["mount_point"])?,
        settings_changed: in_force.is_some_and(|digest| digest.differs_from(&settings_file)),
        program: path(&status["program"]),
        settings_file,
        store: path(&file["source"])?,
    })
}
