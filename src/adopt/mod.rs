//! `adopt`: moves the store to `~/.simpletuner/store.json`, encrypts it, and replaces SimpleTuner's file with a link into the
//! mount, so that an unmodified SimpleTuner reads and writes through the mount. Never accesses the mount itself.
//!
//! No step loses a value, and the next run finishes one that was interrupted: the new store is on disk before the settings
//! name it, and the settings name it before the old file is removed. `undo` takes the same steps backwards.

mod config;

use std::path::{Path, PathBuf};

use crate::credential::KeySource;
use crate::error::{Error, Result};
use crate::files::Stamp;
use crate::provider::file::write::{Lock, Replacement, beside, refuse_mounted, sync_folder_of};
use crate::provider::file::{Document, Stored, move_previous, read_document};
use crate::settings::Settings;
use crate::settings::paths::{ADOPTED_NAMES, DEFAULT_NAMES, Resolved, follow};

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the store is now.
    pub store: PathBuf,
    /// The file that SimpleTuner reads: a link into the mount; after `undo`, the store itself.
    pub simpletuner_reads: PathBuf,
    /// Whether the run changed anything.
    pub changed: bool,
    /// How many values it encrypted (`undo`: decrypted).
    pub values: usize,
    /// What the user should know or do next.
    pub notes: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = if self.changed {
            ""
        } else {
            " (nothing had to be done)"
        };
        writeln!(f, "the store is {}{done}", self.store.display())?;
        writeln!(f, "SimpleTuner reads {}", self.simpletuner_reads.display())?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Moves the store and puts the link in its place. A second run changes nothing.
///
/// # Errors
/// [`Error::Settings`] if there are two stores that cannot be merged; else the error of a step. No value is lost, and the
/// next run finishes this one.
pub fn adopt(settings: &Settings) -> Result<Report> {
    let layout = Layout::survey(settings)?;
    let link = settings.base_dir.join(DEFAULT_NAMES[0]);
    let mut report = layout.report(link.clone());
    if layout.is_elsewhere && layout.old.is_some() {
        return Err(Error::Settings(format!(
            "file_path names {}, but SimpleTuner reads {}, and both hold secrets; \
             move the secrets of one into the other, or remove file_path from {}",
            layout.store.display(),
            layout.old_path().display(),
            settings.config_file.display()
        )));
    }
    let _locks = layout.lock(settings)?;
    loop {
        let old = layout.read_old()?;
        let stored = read_document(&layout.store)?;
        let is_new = stored.is_none();
        let (mut document, mut differs) = layout.merge(old.as_ref(), stored)?;
        if settings.encrypt {
            report.values += document.encrypt_plain(&key_of(settings), &layout.store)?;
            differs |= report.values > 0;
        }
        if is_new || differs {
            write(&layout.store, &document)?;
            report.changed = true;
        }
        if !layout.is_elsewhere && !layout.is_named {
            config::set_store(settings, Some(&layout.store))?;
            report.changed = true;
        }
        // SimpleTuner writes the old file without taking the lock: if it did so meanwhile, merge again.
        if layout.stamp_of_old() == old.map(|(_, stamp)| stamp) {
            break;
        }
    }
    if let Some(old) = &layout.old {
        let cipher = key_of(settings).cipher_if_present()?;
        let cipher = cipher.as_ref().filter(|_| settings.encrypt);
        move_previous(&old.target, &layout.store, cipher)?;
    }
    if !layout.is_linked {
        put_link(&link, &link_target(settings))?;
        report.changed = true;
    }
    layout.remove_old_beside(&link)?;
    if report.changed {
        report.notes.push(
            "restart SimpleTuner, and type `simpletuner-live reload` if a mount is running, so that they use the new file"
                .to_owned(),
        );
        if let Some(old) = layout.old.as_ref().filter(|old| old.path != old.target) {
            report.notes.push(format!(
                "{} was a link: its target {} is unchanged; remove it when nothing else uses it",
                old.path.display(),
                old.target.display()
            ));
        }
    }
    Ok(report)
}

/// Restores what was before `adopt`: the values, decrypted (SimpleTuner decrypts nothing), in the plain file that
/// SimpleTuner reads, and the old `file_path`.
///
/// # Errors
/// [`Error::CannotDecrypt`], [`Error::KeyUnusable`] before anything is changed; else the error of a step.
pub fn undo(settings: &Settings) -> Result<Report> {
    let layout = Layout::survey(settings)?;
    let plain = match &layout.old {
        Some(old) => old.path.clone(),
        None => default_for(&layout.store, &settings.base_dir),
    };
    let mut report = layout.report(plain.clone());
    let link = settings.base_dir.join(DEFAULT_NAMES[0]);
    if layout.is_elsewhere {
        if layout.is_linked {
            remove(&link)?;
            report.changed = true;
        }
        report.notes.push(format!(
            "the store stays at {}, which file_path names",
            layout.store.display()
        ));
        return Ok(report);
    }
    let _locks = layout.lock(settings)?;
    let stored = read_document(&layout.store)?;
    let has_store = stored.is_some();
    if layout.is_linked || layout.is_named {
        let old = layout.read_old()?;
        let (mut document, _) = layout.merge(old.as_ref(), stored)?;
        let key = key_of(settings);
        report.values = document.replace_each(|name, stored| match stored {
            Stored::Encrypted(sealed) => {
                // SimpleTuner uses the text as it is, and the newline of a single line is not part of the value.
                let value = sealed.open(name.as_str(), &key.cipher()?)?;
                Ok(Some(Stored::Plain(value.without_newline())))
            }
            Stored::Plain(_) => Ok(None),
        })?;
        write(&plain, &document)?;
        move_previous(&layout.store, &plain, None)?;
        if layout.is_linked && plain != link {
            remove(&link)?;
        }
        config::set_store(settings, None)?;
    } else if let (Some((stored, _)), Some((old, _))) = (&stored, layout.read_old()?) {
        // An earlier undo was interrupted before its last step: the plain file already has every value of the store.
        if stored.names().any(|name| !old.contains(name)) {
            report
                .notes
                .push(format!("{} is left as it is", layout.store.display()));
            return Ok(report);
        }
    } else {
        return Ok(report);
    }
    if has_store {
        remove(&layout.store)?;
    }
    report.changed = true;
    report.store = plain;
    report.notes.push(format!(
        "the values are plain text in {} now, as SimpleTuner needs them; type `simpletuner-live reload` if a mount is running",
        report.store.display()
    ));
    Ok(report)
}

/// Which file is where, before the run changes anything.
struct Layout {
    /// The file that SimpleTuner reads now, unless it already leads into the mount.
    old: Option<Old>,
    store: PathBuf,
    /// Whether `secrets.json` leads into the mount.
    is_linked: bool,
    /// Whether the settings name the store.
    is_named: bool,
    /// Whether the user chose the store's path; it is then not moved.
    is_elsewhere: bool,
}

struct Old {
    path: PathBuf,
    /// The same with links followed.
    target: PathBuf,
}

impl Layout {
    fn survey(settings: &Settings) -> Result<Self> {
        let base = &settings.base_dir;
        let mut old = None;
        let mut is_linked = false;
        for path in DEFAULT_NAMES.iter().map(|name| base.join(name)) {
            if std::fs::symlink_metadata(&path).is_err() {
                continue;
            }
            match follow(&path, Some(&settings.mount_point))? {
                Resolved::InsideMount => is_linked = true,
                Resolved::Path(target) => {
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
        // Once adopted, only the file that the store came from can be left by an interrupted run; another default file,
        // which SimpleTuner never reads, is not touched.
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

    /// Locks both files, always in this order.
    fn lock(&self, settings: &Settings) -> Result<Vec<Lock>> {
        let default = settings.base_dir.join(DEFAULT_NAMES[0]);
        // It could be neither moved nor replaced by the link.
        refuse_mounted(self.old.as_ref().map_or(&default, |old| &old.path))?;
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

    /// Merges both files into one document. Also returns whether it differs from the store.
    fn merge(
        &self,
        old: Option<&(Document, Stamp)>,
        stored: Option<(Document, Stamp)>,
    ) -> Result<(Document, bool)> {
        match (old, stored) {
            (None, None) => Ok((Document::empty(false), true)),
            (None, Some((stored, _))) => Ok((stored, false)),
            (Some((old, _)), None) => Ok((old.clone(), true)),
            // The store is in use, and SimpleTuner's own file exists, too: an earlier run was interrupted, or another program
            // replaced the link with a file. For a key in both, the younger file wins.
            (Some((old, old_stamp)), Some((mut stored, stamp)))
                if self.is_named || self.is_linked =>
            {
                let is_younger = old_stamp.modified() > stamp.modified();
                let differs = stored.merge(old, is_younger)?;
                Ok((stored, differs))
            }
            // An earlier run was interrupted before the settings named the store; nothing has written to it since.
            (Some((old, _)), Some((stored, _))) => {
                if stored.names().any(|name| !old.contains(name)) {
                    return Err(Error::Settings(format!(
                        "{} exists already, with keys that {} does not have; move it away first",
                        self.store.display(),
                        self.old_path().display()
                    )));
                }
                Ok((old.clone(), true))
            }
        }
    }

    /// Removes a `secrets.yaml` that was moved to the store; the link replaces only `secrets.json`.
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

/// The default path that a store was moved from: `secrets.yaml` for `store.yaml`.
fn default_for(store: &Path, base: &Path) -> PathBuf {
    base.join("secrets")
        .with_extension(store.extension().unwrap_or_default())
}

/// Relative if the mount point is below `~/.simpletuner`, so that the folder can be moved.
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
