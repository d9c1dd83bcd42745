//! Opens SQLite files that SimpleTuner uses at the same time, bounds the wait for its locks, and turns SQLite's errors
//! into this crate's. Knows no table.
//!
//! Nothing else in this process may open such a file while a connection is open: POSIX locks belong to the process, and
//! closing any descriptor of the file drops them all.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::Access;

use crate::error::{Error, Result};
use crate::settings::files::{Stamp, not_a_file};

/// How long a writer waits for other programs' locks; SimpleTuner waits as long.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection's page cache in KiB; the tables are small.
const PAGE_CACHE_KIB: i64 = 256;

/// Identifies the file at a path, so that a file that replaced it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    dev_and_ino: (u64, u64),
    /// Only for an immutable database, in which SQLite itself notices no change.
    stamp: Option<Stamp>,
}

/// The identity of the file at a path; `None` if there is no file.
///
/// # Errors
/// [`Error::Database`] if it is not a regular file, or `stat` fails.
pub(crate) fn identify(path: &Path) -> Result<Option<FileId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => match not_a_file(&stat) {
            #[allow(clippy::unnecessary_cast)] // the fields differ in width between architectures
            None => Ok(Some(FileId {
                dev_and_ino: (stat.st_dev as u64, stat.st_ino as u64),
                stamp: is_immutable(path).then(|| Stamp::of(&stat)),
            })),
            Some(what) => Err(failed(path, libc::EIO, what)),
        },
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed(path, errno.raw_os_error(), &errno.to_string())),
    }
}

/// Whether the folder is not writable and no program has the database open in write-ahead mode. SQLite can then read it
/// only as `immutable`, because it cannot create the `-wal` and `-shm` files.
fn is_immutable(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    rustix::fs::access(folder, Access::WRITE_OK).is_err()
        && rustix::fs::stat(Path::new(&log)).is_err()
}

/// The SQLite URI that opens a file as immutable.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Connects to an existing file. Each statement waits up to `busy_timeout` for other programs' locks.
pub(crate) fn connect(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = match is_immutable(path) {
        true => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(immutable_uri(path), flags)?
        }
        false => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            // SQLite falls back to a read-only connection if the file is not writable.
            Connection::open_with_flags(path, flags)?
        }
    };
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Like [`connect`], but creates a missing file (0600, with a write-ahead log, as SimpleTuner does) and its folder (0700).
///
/// # Errors
/// [`Error::Database`].
pub(crate) fn connect_or_create(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let connect = || connect(path, busy_timeout).map_err(|e| explain(path, &e));
    if identify(path)?.is_some() {
        return connect();
    }
    create(path).map_err(|e| {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        failed(path, errno, &format!("it cannot be created: {e}"))
    })?;
    let connection = connect()?;
    let wal = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()));
    wal.map_err(|e| explain(path, &e))?;
    Ok(connection)
}

fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// Whether the error means that another program holds a lock.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the error means that a table does not exist (yet).
pub(crate) fn is_no_table(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqlInputError { msg, .. } if msg.starts_with("no such table"))
        || matches!(error, rusqlite::Error::SqliteFailure(_, Some(msg)) if msg.starts_with("no such table"))
}

/// Turns SQLite's error into this crate's, with the errno that the mount returns.
pub(crate) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let access = |mode| match rustix::fs::access(path, mode) {
        Err(errno) => errno.raw_os_error(),
        Ok(()) => libc::EACCES,
    };
    let (errno, reason) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            libc::EBUSY,
            format!(
                "another program has locked it for over {} s",
                BUSY_TIMEOUT.as_secs()
            ),
        ),
        Some(ErrorCode::ReadOnly) => (access(Access::WRITE_OK), "it cannot be written".into()),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (access(Access::READ_OK), "it cannot be opened".into())
        }
        Some(ErrorCode::DiskFull) => (libc::ENOSPC, "the disk is full".into()),
        Some(ErrorCode::NotADatabase) => (libc::EIO, "it is not an SQLite database".into()),
        Some(ErrorCode::DatabaseCorrupt) => (
            libc::EIO,
            "it is damaged; restore a backup, or save what is readable with `sqlite3 FILE .recover`".into(),
        ),
        // SQLite's message may contain the statement, and names of tables and columns, but no stored value.
        _ => (libc::EIO, error.to_string()),
    };
    failed(path, errno, &reason)
}

/// A database error with a reason of this crate.
pub(crate) fn failed(path: &Path, errno: i32, reason: &str) -> Error {
    Error::Database {
        path: path.to_owned(),
        reason: reason.to_owned(),
        errno,
    }
}
