//! The file that a backup or an export is written to: made beside its name, and put there whole or not at all. Others may not read it. Knows no
//! content.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::settings::paths::leads_into;

/// A file that is being written. Dropped without [`finish`](Self::finish), nothing of it stays.
pub struct OutputFile {
    target: PathBuf,
    file: NamedTempFile,
    replace: bool,
}

/// Why nothing can be written to this path, as far as that shows before the content is made. `replace`: whether it may replace a file.
///
/// # Errors
/// [`Error::Settings`] says what to do.
pub fn refuse(path: &Path, replace: bool, mount_point: &Path) -> Result<()> {
    let shown = path.display();
    let refused = |why: &str| Err(Error::Settings(format!("{shown} {why}")));
    if leads_into(path, mount_point) {
        return refused("lies in the mount itself; name a file elsewhere");
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => refused("is a folder; name a file in it"),
        // What is renamed onto a device would take its place.
        Ok(found) if !found.is_file() => {
            refused("is no regular file; `-` writes to standard output")
        }
        Ok(_) if !replace => {
            refused("exists already; name another file, or replace it with --force")
        }
        _ => Ok(()),
    }
}

impl OutputFile {
    /// A file beside this path. `replace`: whether it may replace one that is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        // A link is followed, and its target replaced.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .tempfile_in(folder);
        let file = file.map_err(|error| {
            Error::io(format!("cannot make a file in {}", folder.display()), error)
        })?;
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
    pub fn finish(self) -> Result<u64> {
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
