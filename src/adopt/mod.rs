//! `adopt`: moves the store to `~/.simpletuner/store.json`, encrypts it, and replaces SimpleTuner's file with a link into the
//! mount, so that an unmodified SimpleTuner reads and writes through the mount. Never accesses the mount itself.
//!
//! No step loses a value, and the next run finishes one that was interrupted. What every process uses changes in one step: `adopt`
//! puts the link in the place of SimpleTuner's file once the store is on the disk, and `undo` removes the store once the file is
//! back. `provider::file::StoreLocation` follows both, so a mount that runs does, too.

mod config;
mod layout;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::Change;
use layout::Layout;

use crate::credential::{CredentialCipher, KeySource};
use crate::error::{Error, Result};
use crate::files::beside;
use crate::manager::key_source;
use crate::provider::file::write::{Replacement, sync_folder_of};
use crate::provider::file::{
    Document, Stored, in_plain_text, keep_replaced, move_previous, path_of_peers, read_document,
};
use crate::secret::SecretName;
use crate::settings::Settings;
use crate::settings::paths::{DEFAULT_NAMES, IN_MOUNT, is_link_of_adopt};
use crate::text::counted;

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the secrets are now.
    pub store: PathBuf,
    /// The file that SimpleTuner reads: a link into the mount; after `undo`, the store itself.
    pub simpletuner_reads: PathBuf,
    /// Where the secrets were before; they may be there still.
    pub before: PathBuf,
    /// Whether the run changed anything.
    pub changed: bool,
    /// How many values it encrypted (`undo`: decrypted).
    pub values: usize,
    /// Whether SimpleTuner reads through the mount now.
    pub is_adopted: bool,
    /// What the user should know or do next.
    pub notes: Vec<String>,
}

impl Report {
    /// Removes what a mount may have made beside the file of before while it still watched it. To be called when the mounts use the
    /// store.
    pub fn forget_before(&self) {
        let is_file = std::fs::symlink_metadata(&self.before).is_ok_and(|found| found.is_file());
        if !is_file && self.before != self.store {
            let _ = std::fs::remove_file(path_of_peers(&self.before));
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values = counted(self.values as u64, "value");
        let done = match (self.changed, self.values, self.is_adopted) {
            (false, ..) => " (nothing had to be done)".to_owned(),
            (true, 0, _) => String::new(),
            (true, _, true) => format!(": {values} encrypted"),
            (true, _, false) => format!(": {values} in plain text now"),
        };
        let is_there = std::fs::symlink_metadata(&self.store).is_ok();
        let what = match is_there {
            true => "the secrets are in",
            false => "there is no secrets file",
        };
        writeln!(f, "{what} {}{done}", self.store.display())?;
        if self.is_adopted {
            let link = self.simpletuner_reads.display();
            writeln!(f, "SimpleTuner reads {link}, a link into the mount")?;
        } else if is_there && self.simpletuner_reads == self.store {
            writeln!(f, "SimpleTuner reads this file itself")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Moves the store and puts the link in its place. A second run changes nothing.
///
/// # Errors
/// [`Error::Settings`] if there are two stores that cannot be merged; else the error of a step. No value is lost, and the
/// next run finishes this one.
pub fn adopt(settings: &Settings) -> Result<Report> {
    let (layout, mut locks) = Layout::lock(settings)?;
    if layout.is_elsewhere && layout.old.is_some() {
        return Err(Error::Settings(format!(
            "file_path names {}, but SimpleTuner reads {}, and both hold secrets; \
             move the secrets of one into the other, or remove file_path from {}",
            layout.store.display(),
            layout.plain().display(),
            settings.config_file.display()
        )));
    }
    // Before anything has changed.
    let config = match layout.is_elsewhere {
        true => None,
        false => Some(Change::prepare(settings, Some(&layout.store))?),
    };
    let mut report = Report {
        store: layout.store.clone(),
        simpletuner_reads: layout.link.clone(),
        before: locks.in_use.clone(),
        changed: false,
        values: 0,
        is_adopted: true,
        notes: Vec::new(),
    };
    loop {
        let old = layout.read_old()?;
        let stored = read_document(&layout.store)?;
        let is_new = stored.is_none();
        let before = in_use(&layout, stored.as_ref());
        let (mut document, mut differs) = layout.merge(old.as_ref(), stored)?;
        let replaced = replaced(before.as_ref(), &document, &key_source(settings));
        if settings.encrypt {
            let encrypted = document.encrypt_plain(&key_source(settings), &layout.store)?;
            report.values = report.values.max(encrypted);
            differs |= encrypted > 0;
        }
        if is_new || differs {
            keep(settings, &layout.store, &replaced)?;
            write(&layout.store, &document)?;
            report.changed = true;
        }
        // SimpleTuner writes the old file without taking the lock: if it did so meanwhile, merge again.
        if layout.stamp_of_old() == old.map(|(_, stamp)| stamp) {
            break;
        }
    }
    if let Some(old) = &layout.old {
        let cipher = cipher_to_keep(settings)?;
        move_previous(&old.target, &layout.store, cipher.as_ref())?;
    }
    if !layout.is_linked {
        put_link(&layout.link, &link_target(settings))?;
        report.changed = true;
    }
    locks.in_use = layout.store.clone();
    if let Some(config) = config {
        report.changed |= config.apply()?;
    }
    if let Some(old) = layout.old.as_ref().filter(|old| old.path != layout.link) {
        remove(&old.path)?;
        report.changed = true;
    }
    if report.changed {
        let restart = "restart SimpleTuner: one that runs goes on with what it has read";
        report.notes.push(restart.to_owned());
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

/// How many encrypted values [`undo`] would write in plain text.
///
/// # Errors
/// Why the files cannot be read.
pub fn encrypted_values(settings: &Settings) -> Result<usize> {
    let layout = Layout::survey(settings)?;
    if !layout.is_adopted() || layout.is_elsewhere {
        return Ok(0);
    }
    let stored = read_document(&layout.store)?;
    Ok(stored.map_or(0, |(document, _)| document.encrypted().count()))
}

/// Restores what was before `adopt`: the values, decrypted (SimpleTuner decrypts nothing), in the plain file that
/// SimpleTuner reads, and the old `file_path`.
///
/// # Errors
/// [`Error::CannotDecrypt`], [`Error::KeyUnusable`], [`Error::Malformed`] (a value that would be taken for an encrypted one) before
/// anything is changed; else the error of a step.
pub fn undo(settings: &Settings) -> Result<Report> {
    let plain = Layout::survey(settings)?.plain();
    let mut report = Report {
        store: plain.clone(),
        simpletuner_reads: plain.clone(),
        before: plain.clone(),
        changed: false,
        values: 0,
        is_adopted: false,
        notes: Vec::new(),
    };
    if std::fs::symlink_metadata(&settings.base_dir).is_err() {
        // The locks would make it.
        return Ok(report);
    }
    let (layout, mut locks) = Layout::lock(settings)?;
    let config = Change::prepare(settings, None)?;
    report.before = locks.in_use.clone();
    if layout.is_elsewhere {
        if layout.is_linked {
            remove(&layout.link)?;
            report.changed = true;
        }
        report.store = layout.store.clone();
        report.notes.push(format!(
            "file_path in {} names this file, so it stays as it is, and SimpleTuner finds no secrets in {}",
            settings.config_file.display(),
            plain.display()
        ));
        return Ok(report);
    }
    let old = layout.read_old()?;
    let stored = read_document(&layout.store)?;
    let has_store = stored.is_some();
    let encrypted = old
        .as_ref()
        .map_or(0, |(document, _)| document.encrypted().count());
    if encrypted > 0 && !layout.is_adopted() {
        let values = counted(encrypted as u64, "encrypted value");
        report.notes.push(format!(
            "it has {values}, which SimpleTuner cannot read; `simpletuner-live decrypt-file` writes plain text"
        ));
    }
    if layout.is_adopted() {
        let key = key_source(settings);
        let before = in_use(&layout, stored.as_ref());
        let (mut document, _) = layout.merge(old.as_ref(), stored)?;
        let replaced = replaced(before.as_ref(), &document, &key);
        report.values = document.replace_each(|name, stored| match stored {
            Stored::Encrypted(sealed) => in_plain_text(name, sealed, &key.cipher()?).map(Some),
            Stored::Plain(_) => Ok(None),
        })?;
        keep(settings, &layout.store, &replaced)?;
        // An empty store was made by `adopt`.
        if !document.is_blank() {
            write(&plain, &document)?;
        }
        if layout.is_linked && (plain != layout.link || document.is_blank()) {
            remove(&layout.link)?;
        }
        report.changed = true;
    } else if let (Some((stored, _)), Some((old, _))) = (&stored, &old) {
        // An `adopt` was interrupted before the link led to this copy.
        if !is_copy(stored, old, &key_source(settings)) {
            let store = layout.store.display();
            report.notes.push(format!(
                "{store} is not in use, and has other values; it is left as it is"
            ));
            return Ok(report);
        }
    } else if stored.is_some() {
        let store = layout.store.display();
        report.notes.push(format!(
            "{store} is not in use, and is left as it is; `simpletuner-live adopt` uses it"
        ));
        return Ok(report);
    }
    move_previous(&layout.store, &plain, None)?;
    if has_store {
        remove(&layout.store)?;
        report.changed = true;
    }
    locks.in_use = plain;
    report.changed |= config.apply()?;
    if report.values > 0 {
        let keep = match settings.encrypt {
            true => {
                "what is written from now on is encrypted again, unless live.yaml has `encrypt: false`"
            }
            false => {
                "live.yaml has `encrypt: false`, so what is written from now on is plain text, too"
            }
        };
        report.notes.push(keep.to_owned());
    }
    if report.changed {
        let restart = "restart SimpleTuner: one that runs goes on with what it has read";
        report.notes.push(restart.to_owned());
    }
    Ok(report)
}

/// SimpleTuner uses the text as it is, and the newline of a single line is not part of the value.
fn plain_form(name: &str, stored: &Stored, key: &KeySource) -> Result<Stored> {
    let value = match stored {
        Stored::Plain(value) => value.clone(),
        Stored::Encrypted(sealed) => sealed.open(name, &key.cipher()?)?,
    };
    Ok(Stored::Plain(value.without_newline()))
}

/// Whether every value of `stored` is in `old`, too.
fn is_copy(stored: &Document, old: &Document, key: &KeySource) -> bool {
    stored.names().all(|name| {
        let form = |document: &Document| plain_form(name.as_str(), document.get(name)?, key).ok();
        form(stored).is_some_and(|value| form(old) == Some(value))
    })
}

/// The store's document, if it is the one in use and not the copy that an interrupted `adopt` has left.
fn in_use<T>(layout: &Layout, stored: Option<&(Document, T)>) -> Option<Document> {
    let stored = stored.filter(|_| layout.is_linked || layout.is_named);
    stored.map(|(document, _)| document.clone())
}

/// The values that a merge has replaced.
fn replaced(
    before: Option<&Document>,
    after: &Document,
    key: &KeySource,
) -> Vec<(SecretName, Stored)> {
    let form = |name: &SecretName, stored: &Stored| plain_form(name.as_str(), stored, key).ok();
    let replaced = |before: &Document, name: &SecretName| {
        let (old, new) = (before.get(name)?, after.get(name)?);
        let is_same = old == new || form(name, old).is_some_and(|old| form(name, new) == Some(old));
        (!is_same).then(|| (name.clone(), old.clone()))
    };
    let names = before.into_iter().flat_map(Document::names);
    names.filter_map(|name| replaced(before?, name)).collect()
}

/// Keeps values that a merge replaces, so that `simpletuner-live undo` can set them back.
fn keep(settings: &Settings, store: &Path, replaced: &[(SecretName, Stored)]) -> Result<()> {
    let kept = (settings.keep_previous as usize, settings.max_keys as usize);
    let cipher = cipher_to_keep(settings)?;
    keep_replaced(store, replaced, kept, cipher.as_ref())
}

/// With what earlier values are encrypted.
fn cipher_to_keep(settings: &Settings) -> Result<Option<Arc<CredentialCipher>>> {
    match settings.encrypt {
        true => key_source(settings).cipher_if_present(),
        false => Ok(None),
    }
}

/// Relative if the mount point is below `~/.simpletuner`, so that the folder can be moved.
fn link_target(settings: &Settings) -> PathBuf {
    match settings.mount_point.strip_prefix(&settings.base_dir) {
        Ok(below) => below.join(IN_MOUNT),
        Err(_) => settings.mount_point.join(IN_MOUNT),
    }
}

fn write(path: &Path, document: &Document) -> Result<()> {
    Replacement::prepare(path, &document.render()?, 0o600)?.commit()?;
    sync_folder_of(path);
    Ok(())
}

/// Whether SimpleTuner reads its secrets through the mount.
pub(crate) fn is_adopted(settings: &Settings) -> bool {
    is_link_of_adopt(&settings.base_dir.join(DEFAULT_NAMES[0]))
}

/// Puts the link into the mount in its place again, if nothing is there: the store is in use. Returns whether it did.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn restore_link(settings: &Settings) -> Result<bool> {
    let link = settings.base_dir.join(DEFAULT_NAMES[0]);
    if std::fs::symlink_metadata(&link).is_ok() {
        return Ok(false);
    }
    put_link(&link, &link_target(settings)).map(|()| true)
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
