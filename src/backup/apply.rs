//! Puts the files of an archive in their places. What they replace is kept beside, and nothing is replaced before all of it is on the
//! disk. A run that is interrupted leaves each file as it was or as it will be, and the next one finishes it.
//!
//! Another key than the one here is put beside it first, as in a rotation, and takes its place last: so all values can be decrypted at
//! each moment, the old ones as well as the restored ones.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::KEPT;
use super::check::Checked;
use super::collect::read;
use super::compare::State;
use super::manifest::Role;
use super::plan::{Plan, Step};
use crate::adopt::restore_link;
use crate::credential::NextKey;
use crate::error::{Error, Result};
use crate::files::{beside, place, remains_of, sync_folder};
use crate::manager::file_options;
use crate::provider::file::write::{Lock, Replacement, sync_folder_of};
use crate::provider::file::{announce, path_of_previous};
use crate::provider::time_in_name;
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
        let next = self.next_key(checked, settings);
        next.as_ref()
            .map_or(Ok(()), |next| next.check_replaceable(0))?;
        let ending = format!("{KEPT}{}", time_in_name(SystemTime::now()));
        let mut kept = Vec::new();
        for step in changed.iter().filter(|step| step.state == State::Differs) {
            // What killed restores left. This one has the lock of restores, so they are nobody's.
            for left in remains_of(&step.path, KEPT) {
                let _ = std::fs::remove_file(left);
            }
            kept.extend(keep(step, &ending)?);
        }
        // All of them are on the disk before the first one is put in its place.
        let mut prepared = Vec::new();
        for step in changed.iter().filter(|step| !step.role.is_database()) {
            if let Some(bytes) = checked.archive.member(step.role)
                && (step.role != Role::Key || next.is_none())
            {
                prepared.push((step, Replacement::prepare(&step.path, bytes, 0o600)?));
            }
        }
        let was_beside = next.as_ref().map_or(Ok(true), NextKey::write)?;
        let mut is_begun = false;
        let put = || -> Result<()> {
            // Without it, the next command makes another one, which the trails are not signed with.
            let is_first = |(step, _): &(&&Step, Replacement)| {
                step.role == Role::AuditKey && step.state == State::New
            };
            let (first, prepared): (Vec<_>, Vec<_>) = prepared.into_iter().partition(is_first);
            for (step, replacement) in first {
                replacement.commit()?;
                is_begun = true;
                sync_folder_of(&step.path);
            }
            // These fail more easily: another program may have them locked.
            for step in &changed {
                if let Some(copy) = checked.databases.get(&step.role) {
                    copy.put(&step.path)?;
                    is_begun = true;
                }
            }
            for (step, replacement) in prepared {
                if step.role == Role::Store {
                    kept.extend(set_aside_earlier_values(self, &step.path, &ending)?);
                }
                replacement.commit()?;
                is_begun = true;
                match &next {
                    // Before the old key goes: it must not go where a power failure would bring the old file back.
                    Some(_) => sync_folder(step.path.parent().unwrap_or(Path::new("/")))
                        .map_err(|error| Error::io(step.path.display().to_string(), error))?,
                    None => sync_folder_of(&step.path),
                }
            }
            Ok(())
        };
        let put = put();
        if let Some(next) = &next {
            match (put, is_begun || was_beside) {
                (Ok(()), _) => next.take_place().map_err(finish_later)?,
                (Err(error), true) => return Err(finish_later(error)),
                (Err(error), false) => {
                    next.discard();
                    return Err(error);
                }
            }
        } else {
            put?;
        }
        if self.link.is_some() {
            restore_link(settings)?;
        }
        let store = changed.iter().find(|step| step.role == Role::Store);
        let wait: Option<Box<dyn FnOnce()>> =
            store.map(|step| Box::new(announce(&step.path)) as Box<dyn FnOnce()>);
        Ok(Restored {
            kept,
            wait: wait.into_iter().collect(),
        })
    }

    /// The archive's key, if a usable one is here that it replaces.
    fn next_key(&self, checked: &Checked, settings: &Settings) -> Option<NextKey> {
        let step = self
            .of_state(State::Differs)
            .find(|step| step.role == Role::Key)?;
        let is_usable = file_options(settings).key.cipher().is_ok();
        let content = checked.archive.member(Role::Key)?;
        is_usable.then(|| NextKey::new(step.path.clone(), content))
    }

    /// The lock of the key, as a rotation takes it, which is that of restores, too; those of the secrets file and of the views, against
    /// other writers.
    fn lock(&self, changed: &[&Step], settings: &Settings) -> Result<Vec<Lock>> {
        let has = |roles: &[Role]| changed.iter().any(|step| roles.contains(&step.role));
        let mut paths = Vec::new();
        if has(&[Role::Key, Role::Store, Role::EarlierValues]) {
            paths.push(
                match self.steps.iter().find(|step| step.role == Role::Store) {
                    Some(step) => step.path.clone(),
                    None => file_options(settings).location.locate()?.path().to_owned(),
                },
            );
        }
        let views = changed.iter().find(|step| step.role == Role::Views);
        paths.extend(views.map(|step| step.path.clone()));
        paths.sort();
        let key = changed.iter().find(|step| step.role == Role::Key);
        let key = key.map_or(&settings.key_file, |step| &step.path);
        paths.insert(0, key.clone());
        let locks = paths
            .iter()
            .map(|path| Lock::take(path, settings.timeout.total));
        locks.collect()
    }
}

/// The error of a restore that has begun, with another key than the one here.
fn finish_later(error: Error) -> Error {
    Error::At {
        name: "the restore is not done: some files are restored, and the key could not take its place, so the old one and the restored \
               one are both in use until the same `restore` finishes this"
            .to_owned(),
        source: Box::new(error),
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
