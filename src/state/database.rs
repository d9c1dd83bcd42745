//! A SQLite file that another program uses at the same time: opened only if it is there or is to be made, waited for
//! within bounds, and its errors in the words of this crate. Knows no table.
//!
//! Nothing else in this process may open such a file while a connection is: the locks of POSIX belong to the process,
//! and closing any descriptor of the file ends them all.

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

/// How long a writer waits for others, as SimpleTuner's own does.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Of a connection, in KiB: the tables that are used here are small.
const PAGE_CACHE: i64 = 256;

/// What tells one file at a path from another that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    place: (u64, u64),
    /// Of one that can only be read, and tells of no change by itself.
    stamp: Option<Stamp>,
}

/// The file at a path, if there is one.
///
/// # Errors
/// [`Error::Database`] for what is no regular file, or cannot be looked at.
pub(super) fn identify(path: &Path) -> Result<Option<FileId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => match not_a_file(&stat) {
            #[allow(clippy::unnecessary_cast)] // the fields differ in width between architectures
            None => Ok(Some(FileId {
                place: (stat.st_dev as u64, stat.st_ino as u64),
                stamp: is_sealed(path).then(|| Stamp::of(&stat)),
            })),
            Some(what) => Err(failed(path, libc::EIO, what)),
        },
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed(path, errno.raw_os_error(), &errno.to_string())),
    }
}

/// Whether a database lies where nothing can be written, and nobody is at work on it: SQLite then needs to be told that
/// it may read it without the files beside it that it would make.
fn is_sealed(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    rustix::fs::access(folder, Access::WRITE_OK).is_err()
        && rustix::fs::stat(Path::new(&log)).is_err()
}

/// The name of a file for SQLite, with what is to be said of it.
fn sealed_uri(path: &Path) -> String {
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

/// A connection to a file that is there. It waits for other programs' locks for as long as `patience`.
pub(super) fn connect(path: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let connection = match is_sealed(path) {
        true => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(sealed_uri(path), flags)?
        }
        false => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            // SQLite itself makes it a connection for reading where the file allows no more.
            Connection::open_with_flags(path, flags)?
        }
    };
    connection.busy_timeout(patience)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// The same for a file that is made where there is none, and its folder (0700) with it: 0600, with a write-ahead log,
/// as SimpleTuner makes its own.
///
/// # Errors
/// [`Error::Database`].
pub(super) fn connect_or_create(path: &Path, patience: Duration) -> Result<Connection> {
    let connect = || connect(path, patience).map_err(|e| explain(path, &e));
    if identify(path)?.is_some() {
        return connect();
    }
    make(path).map_err(|e| {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        failed(path, errno, &format!("it cannot be made: {e}"))
    })?;
    let connection = connect()?;
    let wal = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()));
    wal.map_err(|e| explain(path, &e))?;
    Ok(connection)
}

fn make(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Whether a failure is another program's lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether a failure is that a table is not there (yet).
pub(super) fn is_no_table(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqlInputError { msg, .. } if msg.starts_with("no such table"))
        || matches!(error, rusqlite::Error::SqliteFailure(_, Some(msg)) if msg.starts_with("no such table"))
}

/// A failure of SQLite's, with the errno that it is in the mount.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let access = |mode| match rustix::fs::access(path, mode) {
        Err(errno) => errno.raw_os_error(),
        Ok(()) => libc::EACCES,
    };
    let (errno, reason) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            libc::EBUSY,
            format!(
                "another program has locked it for over {} s",
                PATIENCE.as_secs()
            ),
        ),
        Some(ErrorCode::ReadOnly) => (access(Access::WRITE_OK), "it cannot be written".into()),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (access(Access::READ_OK), "it cannot be opened".into())
        }
        Some(ErrorCode::DiskFull) => (libc::ENOSPC, "the disk is full".into()),
        Some(ErrorCode::NotADatabase) => (libc::EIO, "it is no SQLite database".into()),
        Some(ErrorCode::DatabaseCorrupt) => (
            libc::EIO,
            "it is damaged; put a backup in its place, or have `sqlite3 FILE .recover` save what it can".into(),
        ),
        // Its own words bear the statement, and names of tables and columns, but nothing that is stored.
        _ => (libc::EIO, error.to_string()),
    };
    failed(path, errno, &reason)
}

/// A failure for a reason of our own.
pub(super) fn failed(path: &Path, errno: i32, reason: &str) -> Error {
    Error::Database {
        path: path.to_owned(),
        reason: reason.to_owned(),
        errno,
    }
}
