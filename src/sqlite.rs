//! Opens SQLite files that SimpleTuner uses at the same time, and turns SQLite's errors into this crate's. Knows no table.
//!
//! A file may be damaged on purpose. So each statement has a time limit, views and triggers do not run, values have a size
//! limit, and [`has_table`] says whether a name is a table.
//!
//! Nothing else in this process may open such a file while a connection is open: POSIX locks belong to the process, and
//! closing any descriptor of the file drops them all.

mod copy;

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Statement, TransactionBehavior,
};
use rustix::fs::{Access, OFlags};

use crate::error::{Error, Result, in_words};
use crate::files::place::{self, Place};
use crate::files::{self, Stamp, not_a_file};

pub(crate) use copy::{Copy, MAX_COPY};

/// How long a writer waits for other programs' locks; SimpleTuner waits as long.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection's page cache in KiB; the tables are small.
const PAGE_CACHE_KIB: i64 = 256;

/// How long a statement may compute, beside the wait for locks.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After how many of SQLite's operations the time is checked: a millisecond's worth.
const CHECK_INTERVAL: i32 = 20_000;
/// The longest value or row, in bytes.
const MAX_VALUE: i32 = 16 * 1024 * 1024;

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Only read. A statement may take 2 s.
    Read,
    /// Read and write. A statement may take 30 s, because a large table is pruned in one.
    Write,
}

/// A connection. Each use of it restarts the time limit; a transaction has one limit as a whole.
pub(crate) struct Database {
    connection: Connection,
    clock: Arc<StatementClock>,
}

struct StatementClock {
    base: Instant,
    /// When the statement is interrupted, in milliseconds since `base`.
    deadline: AtomicU64,
    limit: Duration,
}

impl StatementClock {
    fn restart(&self) {
        let deadline = (self.base.elapsed() + self.limit).as_millis();
        let deadline = u64::try_from(deadline).unwrap_or(u64::MAX);
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.base.elapsed().as_millis() > self.deadline.load(Ordering::Relaxed).into()
    }
}

impl Database {
    /// Restarts the time limit, between two rows of a long result.
    pub(crate) fn restart_clock(&self) {
        self.clock.restart();
    }
}

impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.clock.restart();
        &self.connection
    }
}

impl DerefMut for Database {
    fn deref_mut(&mut self) -> &mut Connection {
        self.clock.restart();
        &mut self.connection
    }
}

/// A statement that is prepared once, at its first use.
pub(crate) struct LazyStatement<'a> {
    connection: &'a Connection,
    sql: &'static str,
    prepared: Option<Statement<'a>>,
}

impl<'a> LazyStatement<'a> {
    pub(crate) fn new(connection: &'a Connection, sql: &'static str) -> Self {
        Self {
            connection,
            sql,
            prepared: None,
        }
    }

    /// The statement.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn prepared(&mut self) -> rusqlite::Result<&mut Statement<'a>> {
        match &mut self.prepared {
            Some(prepared) => Ok(prepared),
            none => Ok(none.insert(self.connection.prepare(self.sql)?)),
        }
    }
}

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
            Some(what) => Err(database_error(path, libc::EIO, what)),
        },
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(database_error(
            path,
            errno.raw_os_error(),
            &errno.to_string(),
        )),
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
///
/// # Errors
/// [`Error::Database`], also if another user could have put the file there.
pub(crate) fn connect(path: &Path, mode: Mode, busy_timeout: Duration) -> Result<Database> {
    let place = find(path).map_err(|error| refused(path, &error))?;
    let connected = connect_to(place.path(), mode, busy_timeout);
    connected.map_err(|error| from_sqlite(path, &error))
}

/// The place of a database. Its log and its journal, which SQLite creates beside it, must not be another user's either.
fn find(path: &Path) -> io::Result<Place> {
    let place = place::find(path)?;
    place.refuse_shared_folder()?;
    Ok(place)
}

fn refused(path: &Path, error: &io::Error) -> Error {
    match place::is_untrusted(error) {
        true => database_error(path, libc::EACCES, &error.to_string()),
        false => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            database_error(path, errno, &format!("it cannot be opened: {error}"))
        }
    }
}

/// Connects to the file at a path without links.
fn connect_to(path: &Path, mode: Mode, busy_timeout: Duration) -> rusqlite::Result<Database> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = match is_immutable(path) {
        true => {
            let flags = flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(path), flags)?
        }
        // SQLite falls back to a read-only connection if the file is not writable.
        false => Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)?,
    };
    let limit = match mode {
        Mode::Read => READ_TIMEOUT,
        Mode::Write => WRITE_TIMEOUT,
    };
    let clock = Arc::new(StatementClock {
        base: Instant::now(),
        deadline: AtomicU64::new(0),
        limit: limit + busy_timeout,
    });
    clock.restart();
    let progress_clock = clock.clone();
    connection.progress_handler(CHECK_INTERVAL, Some(move || progress_clock.is_over()))?;
    connection.busy_timeout(busy_timeout)?;
    guard(&connection)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    if mode == Mode::Read {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(Database { connection, clock })
}

/// Keeps what a file may hold on purpose from having an effect.
fn guard(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    for unwanted in [
        DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
        DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
        DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
    ] {
        connection.set_db_config(unwanted, false)?;
    }
    Ok(())
}

/// Whether the database has the table.
///
/// # Errors
/// [`Error::Database`] if something else has that name: its rows could be computed without an end.
pub(crate) fn has_table(connection: &Connection, path: &Path, name: &str) -> Result<bool> {
    // A virtual table has no page of its own.
    let kind = "SELECT CASE WHEN type = 'table' AND rootpage = 0 THEN 'virtual table' ELSE type END
                FROM sqlite_master WHERE name = ?1 COLLATE NOCASE";
    let kind = connection.query_row(kind, [name], |row| row.get::<_, String>(0));
    match kind.optional().map_err(|error| from_sqlite(path, &error))? {
        None => Ok(false),
        Some(kind) if kind == "table" => Ok(true),
        Some(kind) => Err(database_error(
            path,
            libc::EIO,
            &format!("{name} in it must be a table, and is a {kind}; restore a backup"),
        )),
    }
}

/// Like [`connect`] to write, but creates a missing file (0600, with a write-ahead log, as SimpleTuner does) and its folder
/// (0700).
///
/// # Errors
/// [`Error::Database`].
pub(crate) fn connect_or_create(path: &Path, busy_timeout: Duration) -> Result<Database> {
    if identify(path)?.is_some() {
        return connect(path, Mode::Write, busy_timeout);
    }
    // Exclusively: opening a file that another thread has made ends with a close, which drops its locks.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let created = find(path).and_then(|place| place.make_folders()?.open(flags).map(drop));
    let created = match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    };
    created.map_err(|error| match place::is_untrusted(&error) {
        true => refused(path, &error),
        false => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            database_error(
                path,
                errno,
                &format!("it cannot be created: {}", in_words(&error)),
            )
        }
    })?;
    let connection = connect(path, Mode::Write, busy_timeout)?;
    let wal = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()));
    wal.map_err(|e| from_sqlite(path, &e))?;
    Ok(connection)
}

/// Checks whether the database can be written now, or made, as far as that shows without writing. A lock of another program
/// is no reason why not.
///
/// # Errors
/// [`Error::Database`].
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let place = find(path).map_err(|error| refused(path, &error))?;
    if let Err(error) = files::writable::check_writable(&place) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let reason = format!("it cannot be written: {error}");
        return Err(database_error(path, errno, &reason));
    }
    if place.stat().is_none() {
        return Ok(());
    }
    let begin = |mut connection: Database| {
        // Rolled back at once.
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        begun.map(drop).map_err(|error| from_sqlite(path, &error))
    };
    match connect(path, Mode::Write, Duration::ZERO).and_then(begin) {
        Err(error) if error.errno() == libc::EBUSY => Ok(()),
        checked => checked,
    }
}

/// Whether the error means that another program holds a lock.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Turns SQLite's error into this crate's, with the errno that the mount returns.
pub(crate) fn from_sqlite(path: &Path, error: &rusqlite::Error) -> Error {
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
        Some(ErrorCode::OperationInterrupted) => (
            libc::EIO,
            "a statement took too long, so it was interrupted; the database may be damaged".into(),
        ),
        Some(ErrorCode::TooBig) => (libc::EIO, "a value in it is over 16 MiB".into()),
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
    database_error(path, errno, &reason)
}

/// A database error with a reason of this crate.
pub(crate) fn database_error(path: &Path, errno: i32, reason: &str) -> Error {
    Error::Database {
        path: path.to_owned(),
        reason: reason.to_owned(),
        errno,
    }
}

#[cfg(test)]
mod tests;
