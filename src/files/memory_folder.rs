//! Folders in memory, for files that must not reach a disk: in a tmpfs, for this user alone, gone when they are dropped. What a
//! process that was killed left behind, the next one removes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of the kernel's `magic.h`.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// In the folder, locked for as long as it is used.
const LOCK: &str = ".lock";

/// A folder in memory. Dropping it removes it with all that is in it.
pub(crate) struct MemoryFolder {
    path: PathBuf,
    _lock: File,
}

impl MemoryFolder {
    /// A new folder whose name begins with `prefix`. Removes those of this user that nobody uses any more.
    ///
    /// # Errors
    /// There is no filesystem in memory where this user may make a folder.
    pub(crate) fn new(prefix: &str) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            "neither $XDG_RUNTIME_DIR nor /dev/shm is a filesystem in memory (tmpfs)",
        );
        for place in places() {
            remove_unused(&place, prefix);
            match Self::new_in(&place, prefix) {
                Ok(folder) => return Ok(folder),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn new_in(place: &Path, prefix: &str) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let path = place.join(format!("{prefix}{:016x}", u64::from_le_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create_new(path.join(LOCK)).and_then(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        });
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where this user may have a folder in memory.
fn places() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.filter(|folder| folder.is_absolute() && is_own(folder));
    let places = own.into_iter().chain(["/dev/shm".into()]);
    places.filter(|folder| is_in_memory(folder)).collect()
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // the type differs between architectures
fn is_in_memory(folder: &Path) -> bool {
    let kind = statfs(folder).map(|found| i64::from(found.f_type));
    kind.is_ok_and(|kind| IN_MEMORY.contains(&kind))
}

fn is_own(path: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

/// Removes this user's folders there that no process has locked.
fn remove_unused(place: &Path, prefix: &str) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path());
    let has_prefix = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix))
    };
    for folder in found.filter(|path| has_prefix(path) && is_own(path)) {
        remove_if_unused(&folder);
    }
}

/// Removes a folder that no process has locked.
pub(crate) fn remove_if_unused(folder: &Path) {
    let is_used = File::open(folder.join(LOCK))
        .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
    if !is_used && is_own(folder) && is_in_memory(folder) {
        remove(folder);
    }
}

/// A program that is still ending may write there meanwhile, so it is tried some times.
fn remove(folder: &Path) {
    for _ in 0..10 {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_in_memory_and_what_was_left_behind_is_removed() {
        const PREFIX: &str = "simpletuner-live-test-folder-";
        let used = MemoryFolder::new(PREFIX).unwrap();
        let mode = fs::metadata(used.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(is_in_memory(used.path()));
        let left = MemoryFolder::new(PREFIX).unwrap();
        let path = left.path().to_owned();
        fs::write(path.join("value"), "x").unwrap();
        // As a process that was killed leaves it.
        let left = std::mem::ManuallyDrop::new(left);
        flock(&left._lock, FlockOperation::Unlock).unwrap();
        let other = MemoryFolder::new(PREFIX).unwrap();
        assert!(!path.exists());
        assert!(used.path().exists());
        let paths = [used.path().to_owned(), other.path().to_owned()];
        drop((used, other));
        assert!(paths.iter().all(|path| !path.exists()));
    }
}
