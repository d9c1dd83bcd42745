//! `adopt`: moves the store to `~/.simpletuner/store.json`, encrypts it, and puts a link into the mount where SimpleTuner
//! looks, so that SimpleTuner, as it is, reads and writes through the mount. Mounts nothing and never touches the mount.
//!
//! No step loses a value, and a run that was broken off is finished by the next one: the new store is whole on the disk
//! before the settings name it, and the settings name it before the old file goes. `undo` goes the same way back.

mod config;

use std::path::{Path, PathBuf};

use crate::credential::KeySource;
use crate::error::{Error, Result};
use crate::provider::file::write::{Lock, Replacement, beside, sync_folder_of};
use crate::provider::file::{Document, Sealed, Stored, read_document};
use crate::settings::Settings;
use crate::settings::files::Stamp;
use crate::settings::paths::{ADOPTED_NAMES, DEFAULT_NAMES, Leads, follow};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the store lies now.
    pub store: PathBuf,
    /// The file that SimpleTuner reads: a link into the mount, or after `undo` the store itself.
    pub simpletuner_reads: PathBuf,
    /// Whether anything was changed.
    pub changed: bool,
    /// How many values were encrypted (by `undo`: decrypted).
    pub values: usize,
    /// What the user should know or do.
    pub notes: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = if self.changed {
            ""
        } else {
            " (nothing was to be done)"
        };
        writeln!(f, "the store is {}{done}", self.store.display())?;
        writeln!(f, "SimpleTuner reads {}", self.simpletuner_reads.display())?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Moves the store aside and puts the link in its place. Doing it twice is doing it once.
///
/// # Errors
/// [`Error::Settings`] if there are two stores that cannot be made one; else what kept it from a step. No value is lost,
/// and the next run finishes what this one began.
pub fn adopt(settings: &Settings) -> Result<Report> {
    let scene = Scene::survey(settings)?;
    let link = settings.base_dir.join(DEFAULT_NAMES[0]);
    let mut report = scene.report(link.clone());
    if scene.is_elsewhere && scene.old.is_some() {
        return Err(Error::Settings(format!(
            "file_path names {}, but SimpleTuner reads {}, and both hold secrets; \
             move those of one into the other, or take file_path out of {}",
            scene.store.display(),
            scene.old_path().display(),
            settings.config_file.display()
        )));
    }
    let _locks = scene.lock(settings)?;
    loop {
        let old = scene.read_old()?;
        let stored = read_document(&scene.store)?;
        let is_new = stored.is_none();
        let (mut document, mut differs) = scene.join(old.as_ref(), stored)?;
        if settings.encrypt {
            let key = key_of(settings);
            report.values += document.replace_each(|_, stored| match stored {
                Stored::Plain(value) => {
                    let cipher = key.cipher_or_create()?;
                    Ok(Some(Stored::Encrypted(Sealed::seal(value, &cipher))))
                }
                Stored::Encrypted(_) => Ok(None),
            })?;
            differs |= report.values > 0;
        }
        if is_new || differs {
            write(&scene.store, &document)?;
            report.changed = true;
        }
        if !scene.is_elsewhere && !scene.is_named {
            config::name_store(settings, Some(&scene.store))?;
            report.changed = true;
        }
        // SimpleTuner writes the old file without our lock: what it wrote meanwhile is taken over, too.
        if scene.stamp_of_old() == old.map(|(_, stamp)| stamp) {
            break;
        }
    }
    if !scene.is_linked {
        put_link(&link, &link_target(settings))?;
        report.changed = true;
    }
    scene.remove_old_beside(&link)?;
    if report.changed {
        report.notes.push(
            "a mount that runs, and SimpleTuner, must be started again to use the new place"
                .to_owned(),
        );
        if let Some(old) = scene.old.as_ref().filter(|old| old.path != old.target) {
            report.notes.push(format!(
                "{} was a link: the file that it led to, {}, is as it was; remove it when nothing else uses it",
                old.path.display(),
                old.target.display()
            ));
        }
    }
    Ok(report)
}

/// Puts everything back: the values, decrypted (SimpleTuner decrypts nothing), into the plain file that SimpleTuner
/// reads, and `file_path` as it was before.
///
/// # Errors
/// [`Error::CannotDecrypt`], [`Error::KeyUnusable`] before anything is changed; else what kept it from a step.
pub fn undo(settings: &Settings) -> Result<Report> {
    let scene = Scene::survey(settings)?;
    let plain = match &scene.old {
        Some(old) => old.path.clone(),
        None => default_for(&scene.store, &settings.base_dir),
    };
    let mut report = scene.report(plain.clone());
    let link = settings.base_dir.join(DEFAULT_NAMES[0]);
    if scene.is_elsewhere {
        if scene.is_linked {
            remove(&link)?;
            report.changed = true;
        }
        report.notes.push(format!(
            "the store stays at {}, which file_path names",
            scene.store.display()
        ));
        return Ok(report);
    }
    let _locks = scene.lock(settings)?;
    let stored = read_document(&scene.store)?;
    let has_store = stored.is_some();
    if scene.is_linked || scene.is_named {
        let old = scene.read_old()?;
        let (mut document, _) = scene.join(old.as_ref(), stored)?;
        let key = key_of(settings);
        report.values = document.replace_each(|name, stored| match stored {
            Stored::Encrypted(sealed) => {
                // SimpleTuner reads the text as it stands: the newline of a single line belongs to the file, not to it.
                let value = sealed.open(name.as_str(), &key.cipher()?)?;
                Ok(Some(Stored::Plain(value.without_newline())))
            }
            Stored::Plain(_) => Ok(None),
        })?;
        write(&plain, &document)?;
        if scene.is_linked && plain != link {
            remove(&link)?;
        }
        config::name_store(settings, None)?;
    } else if let (Some((stored, _)), Some((old, _))) = (&stored, scene.read_old()?) {
        // A run that was broken off before its last step: the old file has all that the store has.
        if stored.names().any(|name| !old.contains(name)) {
            report
                .notes
                .push(format!("{} is left as it is", scene.store.display()));
            return Ok(report);
        }
    } else {
        return Ok(report);
    }
    if has_store {
        remove(&scene.store)?;
    }
    report.changed = true;
    report.store = plain;
    report.notes.push(format!(
        "the values are plain text in {} now, as SimpleTuner needs them; a mount that runs must be started again",
        report.store.display()
    ));
    Ok(report)
}

/// What lies where, before anything is done.
struct Scene {
    /// The file that SimpleTuner reads now, unless it leads into the mount already.
    old: Option<Old>,
    store: PathBuf,
    /// Whether `secrets.json` leads into the mount.
    is_linked: bool,
    /// Whether the settings name the store.
    is_named: bool,
    /// Whether the store is a file of the user's own choice, which stays where it is.
    is_elsewhere: bool,
}

struct Old {
    path: PathBuf,
    /// The same with links followed.
    target: PathBuf,
}

impl Scene {
    fn survey(settings: &Settings) -> Result<Self> {
        let base = &settings.base_dir;
        let mut old = None;
        let mut is_linked = false;
        for path in DEFAULT_NAMES.iter().map(|name| base.join(name)) {
            if std::fs::symlink_metadata(&path).is_err() {
                continue;
            }
            match follow(&path, Some(&settings.mount_point))? {
                Leads::IntoMount => is_linked = true,
                Leads::To(target) => {
                    old = Some(Old { path, target });
                    break;
                }
            }
        }
        let adopted = ADOPTED_NAMES.map(|name| base.join(name));
        let is_default = |path: &Path| DEFAULT_NAMES.iter().any(|name| base.join(name) == path);
        let named = settings.file_path.as_ref().filter(|path| !is_default(path));
        let store = match named {
            Some(path) => path.clone(),
            None => {
                let found = adopted.iter().find(|store| is_linked && store.is_file());
                let beside_old = || match &old {
                    Some(old) => base
                        .join("store")
                        .with_extension(old.path.extension().unwrap_or_default()),
                    None => adopted[0].clone(),
                };
                found.cloned().unwrap_or_else(beside_old)
            }
        };
        // Once adopted, only a file that the store came from can be left by a run that was broken off; another default
        // place that SimpleTuner never came to is none of ours.
        let old = old.filter(|old| !is_linked || old.path == default_for(&store, base));
        Ok(Self {
            old,
            is_linked,
            is_named: named.is_some(),
            is_elsewhere: !adopted.contains(&store),
            store,
        })
    }

    fn report(&self, simpletuner_reads: PathBuf) -> Report {
        Report {
            store: self.store.clone(),
            simpletuner_reads,
            changed: false,
            values: 0,
            notes: Vec::new(),
        }
    }

    fn old_path(&self) -> &Path {
        self.old.as_ref().map_or(Path::new(""), |old| &old.path)
    }

    /// The locks of both files, always in this order.
    fn lock(&self, settings: &Settings) -> Result<Vec<Lock>> {
        let default = settings.base_dir.join(DEFAULT_NAMES[0]);
        let old = self.old.as_ref().map_or(&default, |old| &old.target);
        let mut locks = vec![Lock::take(old, settings.timeout.total)?];
        if *old != self.store {
            locks.push(Lock::take(&self.store, settings.timeout.total)?);
        }
        Ok(locks)
    }

    fn read_old(&self) -> Result<Option<(Document, Stamp)>> {
        match &self.old {
            Some(old) => read_document(&old.target),
            None => Ok(None),
        }
    }

    fn stamp_of_old(&self) -> Option<Stamp> {
        let old = self.old.as_ref()?;
        let stat = rustix::fs::lstat(&old.target).ok()?;
        Some(Stamp::of(&stat))
    }

    /// The one document of both files, and whether it differs from the store.
    fn join(
        &self,
        old: Option<&(Document, Stamp)>,
        stored: Option<(Document, Stamp)>,
    ) -> Result<(Document, bool)> {
        match (old, stored) {
            (None, None) => Ok((Document::empty(false), true)),
            (None, Some((stored, _))) => Ok((stored, false)),
            (Some((old, _)), None) => Ok((old.clone(), true)),
            // The store is in use, and SimpleTuner has a file of its own beside it: an earlier run was broken off, or
            // someone put a file in the link's place. Of two values the younger file's counts.
            (Some((old, old_stamp)), Some((mut stored, stamp)))
                if self.is_named || self.is_linked =>
            {
                let is_younger = old_stamp.modified() > stamp.modified();
                let differs = stored.merge(old, is_younger)?;
                Ok((stored, differs))
            }
            // Left by a run that was broken off before the settings named it; nobody has written to it since.
            (Some((old, _)), Some((stored, _))) => {
                if stored.names().any(|name| !old.contains(name)) {
                    return Err(Error::Settings(format!(
                        "{} is there already, with keys that {} has not; move it away first",
                        self.store.display(),
                        self.old_path().display()
                    )));
                }
                Ok((old.clone(), true))
            }
        }
    }

    /// A `secrets.yaml` is gone over to the store, too, and has no link in its place.
    fn remove_old_beside(&self, link: &Path) -> Result<()> {
        match &self.old {
            Some(old) if old.path != link => remove(&old.path),
            _ => Ok(()),
        }
    }
}

fn key_of(settings: &Settings) -> KeySource {
    let key = settings.credential_key.as_ref();
    KeySource::new(
        key.map(|key| key.as_str().to_owned()),
        settings.key_file.clone(),
    )
}

/// `store.yaml` came from `secrets.yaml`.
fn default_for(store: &Path, base: &Path) -> PathBuf {
    base.join("secrets")
        .with_extension(store.extension().unwrap_or_default())
}

/// Relative where the mount is where it usually is, so that the folder may be moved.
fn link_target(settings: &Settings) -> PathBuf {
    let inside = Path::new("bundle").join(DEFAULT_NAMES[0]);
    match settings.mount_point.strip_prefix(&settings.base_dir) {
        Ok(below) => below.join(inside),
        Err(_) => settings.mount_point.join(inside),
    }
}

fn write(path: &Path, document: &Document) -> Result<()> {
    Replacement::prepare(path, &document.render()?, 0o600)?.commit()?;
    sync_folder_of(path);
    Ok(())
}

fn put_link(link: &Path, target: &Path) -> Result<()> {
    let temporary = beside(link, ".", ".link");
    let failed = |error| Error::io(format!("putting a link at {}", link.display()), error);
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary).map_err(failed)?;
    std::fs::rename(&temporary, link).map_err(failed)?;
    sync_folder_of(link);
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path)
        .map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
    sync_folder_of(path);
    Ok(())
}

#[cfg(test)]
mod tests;
