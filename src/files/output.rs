//! A file that a command writes for its user: made beside its name, and put there whole or not at all. Knows no content.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file that is being written. Dropped without [`finish`](Self::finish), nothing of it stays.
pub(crate) struct OutputFile {
    target: PathBuf,
    file: NamedTempFile,
    replace: bool,
}

/// Why no file can be put at this path, as far as that shows beforehand. `replace`: whether it may replace another file.
///
/// # Errors
/// [`Error::Settings`] says what to do.
pub(crate) fn refuse(path: &Path, replace: bool) -> Result<()> {
    let refused = |why: &str| Err(Error::Settings(format!("{} {why}", path.display())));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => refused("is a folder; name a file in it"),
        // What is renamed onto a device would take its place.
        Ok(found) if !found.is_file() => {
            refused("is no regular file, and would be replaced by one")
        }
        Ok(_) if !replace => {
            refused("exists already; name another file, or replace it with --force")
        }
        _ => Ok(()),
    }
}

impl OutputFile {
    /// A file beside this path. `mode`: its permissions, less those that the umask takes. `replace`: whether it may replace a
    /// file that is there.
    ///
    /// # Errors
    /// As [`refuse`], or [`Error::Io`].
    pub(crate) fn create(path: &Path, mode: u32, replace: bool) -> Result<Self> {
        refuse(path, replace)?;
        // A link is followed, and its target replaced.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder);
        let file =
            file.map_err(|error| Error::io(format!("cannot write {}", target.display()), error))?;
        Ok(Self {
            target,
            file,
            replace,
        })
    }

    /// Puts it in its place, once it is on the disk. Returns its size, in bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing has changed then.
    pub(crate) fn finish(self) -> Result<u64> {
        let failed = |error| Error::io(format!("writing {}", self.target.display()), error);
        self.file.as_file().sync_all().map_err(failed)?;
        let size = self.file.as_file().metadata().map_err(failed)?.len();
        let put = match self.replace {
            true => self.file.persist(&self.target),
            false => self.file.persist_noclobber(&self.target),
        };
        put.map_err(|error| failed(error.error))?;
        let folder = self
            .target
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        // Some filesystems cannot sync a folder.
        let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        Ok(size)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_regular_file_is_replaced_and_only_if_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let put = |path: &Path, replace| {
            let mut file = OutputFile::create(path, 0o600, replace)?;
            file.write_all(b"text").unwrap();
            file.finish()
        };
        assert_eq!(put(&path, false).unwrap(), 4);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(put(&path, false).is_err());
        put(&path, true).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        put(&link, true).unwrap();
        assert!(link.is_symlink());
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        for refused in [folder.path(), &pipe, Path::new("/dev/null")] {
            assert!(put(refused, true).is_err(), "{}", refused.display());
        }
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
