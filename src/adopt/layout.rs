//! Which file is where: the one that SimpleTuner reads, the store, the link into the mount. Changes no secret.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{Stamp, beside};
use crate::provider::file::write::{Lock, refuse_mounted};
use crate::provider::file::{Document, path_of_peers, read_document};
use crate::settings::Settings;
use crate::settings::paths::{ADOPTED_NAMES, DEFAULT_NAMES, Resolved, follow, is_link_of_adopt};

/// Which file is where, before a run changes anything.
#[derive(PartialEq, Eq)]
pub(super) struct Layout {
    /// The file that SimpleTuner reads now, unless it already leads into a mount.
    pub(super) old: Option<Old>,
    pub(super) store: PathBuf,
    /// The link into the mount, or where it will be.
    pub(super) link: PathBuf,
    /// Whether it is there.
    pub(super) is_linked: bool,
    /// Whether the settings name the store.
    pub(super) is_named: bool,
    /// Whether the user chose the store's path; it is then not moved.
    pub(super) is_elsewhere: bool,
}

#[derive(PartialEq, Eq)]
pub(super) struct Old {
    pub(super) path: PathBuf,
    /// The same with links followed.
    pub(super) target: PathBuf,
}

impl Layout {
    pub(super) fn survey(settings: &Settings) -> Result<Self> {
        let base = &settings.base_dir;
        let mut old = None;
        let mut is_linked = false;
        for path in DEFAULT_NAMES.iter().map(|name| base.join(name)) {
            if std::fs::symlink_metadata(&path).is_err() {
                continue;
            }
            if is_link_of_adopt(&path) {
                is_linked = true;
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
            is_elsewhere: named.is_some()
                && !(settings.is_store_of_adopt && adopted.contains(&store)),
            link: base.join(DEFAULT_NAMES[0]),
            store,
        })
    }

    /// Surveys under the locks of all files that a run may change. Nothing changes them then but SimpleTuner itself.
    pub(super) fn lock(settings: &Settings) -> Result<(Self, Locks)> {
        loop {
            let layout = Self::survey(settings)?;
            // It could be neither moved nor replaced by the link.
            refuse_mounted(layout.old.as_ref().map_or(&layout.link, |old| &old.path))?;
            let mut files = vec![layout.link.clone(), layout.plain(), layout.store.clone()];
            files.extend(layout.old.iter().map(|old| old.target.clone()));
            let in_use = match layout.is_adopted() {
                true => layout.store.clone(),
                false => layout.plain(),
            };
            let locks = Locks::take(files, in_use, settings)?;
            if Self::survey(settings)? == layout {
                return Ok((layout, locks));
            }
        }
    }

    /// Whether the secrets are in the store. The settings may name one that an undo has removed.
    pub(super) fn is_adopted(&self) -> bool {
        self.is_linked || self.is_elsewhere || self.is_named && self.has_store()
    }

    pub(super) fn has_store(&self) -> bool {
        std::fs::symlink_metadata(&self.store).is_ok()
    }

    /// Where SimpleTuner reads the secrets without a mount.
    pub(super) fn plain(&self) -> PathBuf {
        let base = self.link.parent().unwrap_or(Path::new("/"));
        match &self.old {
            Some(old) => old.path.clone(),
            None if self.is_elsewhere => self.link.clone(),
            None => default_for(&self.store, base),
        }
    }

    pub(super) fn read_old(&self) -> Result<Option<(Document, Stamp)>> {
        match &self.old {
            Some(old) => read_document(&old.target),
            None => Ok(None),
        }
    }

    pub(super) fn stamp_of_old(&self) -> Option<Stamp> {
        let old = self.old.as_ref()?;
        let stat = rustix::fs::lstat(&old.target).ok()?;
        Some(Stamp::of(&stat))
    }

    /// Merges both files into one document. Also returns whether it differs from the store.
    pub(super) fn merge(
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
            // An earlier run was interrupted before the link led to the store; nothing has written to it since.
            (Some((old, _)), Some((stored, _))) => {
                if stored.names().any(|name| !old.contains(name)) {
                    return Err(Error::Settings(format!(
                        "{} exists already, with keys that {} does not have; move it away first",
                        self.store.display(),
                        self.plain().display()
                    )));
                }
                Ok((old.clone(), true))
            }
        }
    }
}

/// The default path that a store was moved from: `secrets.yaml` for `store.yaml`.
pub(super) fn default_for(store: &Path, base: &Path) -> PathBuf {
    base.join("secrets")
        .with_extension(store.extension().unwrap_or_default())
}

/// The locks of a run. When they are released, what this run or a killed one has left beside the files is removed, and so are the
/// lock and the peers of a file that is none any more, unless it is the one in use.
pub(super) struct Locks {
    pub(super) in_use: PathBuf,
    /// Each with its lock, and whether that is new.
    files: Vec<(PathBuf, Lock, bool)>,
}

impl Locks {
    /// Always in the same order, so that two runs do not wait for each other.
    fn take(mut files: Vec<PathBuf>, in_use: PathBuf, settings: &Settings) -> Result<Self> {
        files.sort();
        files.dedup();
        let mut locks = Self {
            in_use,
            files: Vec::new(),
        };
        for file in files {
            let is_new = std::fs::symlink_metadata(beside(&file, "", ".lock")).is_err();
            let lock = Lock::take(&file, settings.timeout.total)?;
            locks.files.push((file, lock, is_new));
        }
        Ok(locks)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        for (file, lock, is_new) in self.files.drain(..) {
            for after in [".tmp", ".link"] {
                let _ = std::fs::remove_file(beside(&file, ".", after));
            }
            let is_file = std::fs::symlink_metadata(&file).is_ok_and(|found| found.is_file());
            if !is_file && file != self.in_use {
                let _ = std::fs::remove_file(path_of_peers(&file));
                lock.remove();
            } else if !is_file && is_new {
                lock.remove();
            }
        }
    }
}
