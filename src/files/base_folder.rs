//! `~/.simpletuner` as the mount found it. If it is moved away or replaced, a daemon makes neither the folder nor what was in it
//! anew: the user would then have two halves of the secrets. Commands know no such folder, and make what is missing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sync::Mutex;

/// A folder, by its path and by what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseFolder {
    /// As the settings have it, and without links.
    paths: [Vec<u8>; 2],
    inode: (u64, u64),
}

static BASE: Mutex<Option<BaseFolder>> = Mutex::new(None);

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

impl BaseFolder {
    /// The folder at this path; `None`: there is none yet.
    pub(crate) fn find(path: &Path) -> Option<Self> {
        let real = path.canonicalize().ok()?;
        Some(Self {
            inode: inode_at(&real)?,
            paths: [bytes(path), bytes(&real)],
        })
    }

    fn is_above(&self, path: &Path) -> bool {
        self.paths
            .iter()
            .any(|base| path.starts_with(path_of(base)))
    }

    fn is_there(&self) -> bool {
        inode_at(&path_of(&self.paths[0])) == Some(self.inode)
    }
}

#[allow(clippy::unnecessary_cast)] // the fields differ in width between architectures
fn inode_at(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(path).ok()?;
    Some((stat.st_dev as u64, stat.st_ino as u64))
}

/// From now on this process makes nothing anew in that folder if it is moved away.
pub(crate) fn keep(folder: Option<BaseFolder>) {
    *BASE.lock() = folder;
}

/// For what is missing at `path`: refuses it if it lies in the folder, and another folder or none is there now.
///
/// # Errors
/// [`Error::Settings`] says what to do.
pub(crate) fn refuse_anew(path: &Path) -> Result<(), Error> {
    let base = BASE.lock().clone();
    let Some(base) = base.filter(|base| base.is_above(path) && !base.is_there()) else {
        return Ok(());
    };
    let place = path_of(&base.paths[0]);
    let place = place.display();
    Err(Error::Settings(format!(
        "{place} is not the folder with which this mount began: it was moved away or removed; move it back, or unmount the mount \
         where it is now, and mount anew"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_a_folder_that_was_moved_away_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (base, away) = (dir.path().join("base"), dir.path().join("away"));
        std::fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink(&base, dir.path().join("link")).unwrap();
        let link = dir.path().join("link");
        keep(BaseFolder::find(&link));
        let is_refused = |path: &Path| refuse_anew(path).is_err();
        assert!(!is_refused(&base.join("key")));
        std::fs::rename(&base, &away).unwrap();
        assert!(is_refused(&base.join("key")) && is_refused(&link.join("sub/key")));
        assert!(!is_refused(&dir.path().join("basement")));
        std::fs::create_dir(&base).unwrap();
        assert!(is_refused(&base.join("key")), "it is another folder");
        std::fs::remove_dir(&base).unwrap();
        std::fs::rename(&away, &base).unwrap();
        assert!(!is_refused(&base.join("key")));
        keep(None);
    }
}
