//! Puts the files of an archive in their places. What they replace is kept beside, and nothing is replaced before all of it is on the
//! disk. A run that is interrupted leaves each file as it was or as it will be, and the next one finishes it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::check::Checked;
use super::collect::read;
use super::manifest::Role;
use super::plan::{Plan, State, Step};
use super::time_in_name;
use crate::adopt::restore_link;
use crate::error::{Error, Result};
use crate::files::{beside, place};
use crate::provider::file::write::{Lock, Replacement, sync_folder_of};
use crate::provider::file::{announce, path_of_previous};
use crate::settings::Settings;
use crate::sqlite::Copy;

/// What a restore did.
pub struct Restored {
    /// Where what it replaced is now.
    pub kept: Vec<PathBuf>,
    wait: Vec<Box<dyn FnOnce()>>,
}

impl Restored {
    /// Waits, a second at most, until the mounts that run have seen the secrets.
    pub fn wait_for_watchers(&mut self) {
        self.wait.drain(..).for_each(|wait| wait());
    }
}

impl Plan {
    /// Puts all files in their places.
    ///
    /// # Errors
    /// [`Error::Settings`] if something here has changed since the plan was made; else the error of a step. The next run finishes this one.
    pub fn apply(&self, checked: &Checked, settings: &Settings) -> Result<Restored> {
        let changed: Vec<&Step> = self
            .steps
            .iter()
            .filter(|step| step.state != State::Same)
            .collect();
        let _locks = self.lock(&changed, settings)?;
        if !Plan::new(checked, settings)?.is_as(self) {
            let reason = "something has changed here meanwhile, so nothing is restored; try again";
            return Err(Error::Settings(reason.to_owned()));
        }
        let ending = format!(".before-restore-{}", time_in_name(SystemTime::now()));
        let mut kept = Vec::new();
        for step in changed.iter().filter(|step| step.state == State::Differs) {
            kept.extend(keep(step, &ending)?);
        }
        // All of them are on the disk before the first one is put in its place.
        let mut prepared = Vec::new();
        for step in changed.iter().filter(|step| !step.role.is_database()) {
            if let Some(bytes) = checked.archive.member(step.role) {
                prepared.push((step, Replacement::prepare(&step.path, bytes, 0o600)?));
            }
        }
        // These fail more easily: another program may have them locked.
        for step in &changed {
            if let Some(copy) = checked.databases.get(&step.role) {
                copy.put(&step.path)?;
            }
        }
        let mut wait: Vec<Box<dyn FnOnce()>> = Vec::new();
        for (step, replacement) in prepared {
            if step.role == Role::Store {
                kept.extend(set_aside_earlier_values(self, &step.path, &ending)?);
            }
            replacement.commit()?;
            sync_folder_of(&step.path);
            if step.role == Role::Store {
                wait.push(Box::new(announce(&step.path)));
            }
        }
        if self.link.is_some() {
            restore_link(settings)?;
        }
        Ok(Restored { kept, wait })
    }

    /// The locks of the secrets file and of the views, against other writers.
    fn lock(&self, changed: &[&Step], settings: &Settings) -> Result<Vec<Lock>> {
        let has_lock = |role| matches!(role, Role::Store | Role::EarlierValues | Role::Views);
        let mut paths: Vec<PathBuf> = Vec::new();
        for step in changed.iter().filter(|step| has_lock(step.role)) {
            let store = self.steps.iter().find(|step| step.role == Role::Store);
            paths.push(match (step.role, store) {
                (Role::EarlierValues, Some(store)) => store.path.clone(),
                _ => step.path.clone(),
            });
        }
        paths.sort();
        paths.dedup();
        let locks = paths
            .iter()
            .map(|path| Lock::take(path, settings.timeout.total));
        locks.collect()
    }
}

/// A copy of what a step replaces, beside it; `None`: there is nothing.
fn keep(step: &Step, ending: &str) -> Result<Option<PathBuf>> {
    let bytes = match step.role.is_database() {
        true => Copy::of(&step.path)?.map(Copy::into_bytes),
        false => read(&step.path, usize::MAX / 2)?,
    };
    bytes
        .map(|bytes| keep_bytes(&step.path, ending, &bytes))
        .transpose()
}

fn keep_bytes(path: &Path, ending: &str, bytes: &Zeroizing<Vec<u8>>) -> Result<PathBuf> {
    let kept = free_name(path, ending);
    place::create_whole(&kept, bytes).map_err(|error| {
        Error::io(
            format!("keeping {} as {}", path.display(), kept.display()),
            error,
        )
    })?;
    Ok(kept)
}

/// A name beside this path that is not in use.
fn free_name(path: &Path, ending: &str) -> PathBuf {
    let first = beside(path, "", ending);
    let others = (2..).map(|number| beside(path, "", &format!("{ending}-{number}")));
    let mut names = std::iter::once(first).chain(others);
    let is_free = |name: &PathBuf| std::fs::symlink_metadata(name).is_err();
    names
        .find(is_free)
        .unwrap_or_else(|| beside(path, "", ending))
}

/// Earlier values of other secrets, which this archive replaces without having any: an `undo` must not bring those back.
fn set_aside_earlier_values(plan: &Plan, store: &Path, ending: &str) -> Result<Option<PathBuf>> {
    let earlier = path_of_previous(store);
    let has_own = plan
        .steps
        .iter()
        .any(|step| step.role == Role::EarlierValues);
    if has_own || std::fs::symlink_metadata(&earlier).is_err() {
        return Ok(None);
    }
    let aside = free_name(&earlier, ending);
    std::fs::rename(&earlier, &aside)
        .map_err(|error| Error::io(format!("moving {}", earlier.display()), error))?;
    Ok(Some(aside))
}
