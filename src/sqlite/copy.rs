//! Copies of whole databases in memory, made and put back by SQLite's own backup, while other programs use the database. Knows no
//! table.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, MAIN_DB};
use zeroize::Zeroizing;

use super::{
    BUSY_TIMEOUT, Mode, connect, connect_or_create, database_error, from_sqlite, guard, identify,
};
use crate::error::{Error, Result};

/// The largest database that is copied, in bytes: the copy is in memory.
pub(crate) const MAX_COPY: usize = 512 * 1024 * 1024;
/// How long a copy sleeps before it tries again to get another program's lock.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// Every database begins with it.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Where the file says whether it has a write-ahead log: 1, no; 2, yes (the write version and the read version).
const VERSIONS: [usize; 2] = [18, 19];
/// Bytes of the header that count changes and name the program that wrote last.
const COUNTERS: [std::ops::Range<usize>; 3] = [18..20, 24..28, 92..100];

/// A whole database at one moment, as a file would hold it that nobody has open.
pub(crate) struct Copy(Zeroizing<Vec<u8>>);

impl Copy {
    /// Of the database at a path; `None`: there is none, or it is empty.
    ///
    /// # Errors
    /// [`Error::Database`]; EFBIG for one of over [`MAX_COPY`].
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        if identify(path)?.is_none() {
            return Ok(None);
        }
        let source = connect(path, Mode::Read, BUSY_TIMEOUT)?;
        let failed = |error| from_sqlite(path, &error);
        let size: i64 = source
            .query_row(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                [],
                |row| row.get(0),
            )
            .map_err(failed)?;
        if usize::try_from(size).is_ok_and(|size| size > MAX_COPY) {
            let reason = "it is too large to be copied: over 512 MiB";
            return Err(database_error(path, libc::EFBIG, reason));
        }
        let mut copied = Connection::open_in_memory().map_err(failed)?;
        copy_all(path, &source, &mut copied)?;
        let bytes = copied.serialize(MAIN_DB).map_err(failed)?;
        Ok((!bytes.is_empty()).then(|| Self::from(Zeroizing::new(bytes.to_vec()))))
    }

    /// Checks a database that came from elsewhere. `path`: where it belongs, for messages.
    ///
    /// # Errors
    /// [`Error::Database`] if it is none, or is damaged.
    pub(crate) fn checked(bytes: Zeroizing<Vec<u8>>, path: &Path) -> Result<Self> {
        let damaged = |reason: &str| database_error(path, libc::EIO, reason);
        if !bytes.starts_with(MAGIC) || bytes.len() < 512 {
            return Err(damaged("what the backup has of it is no SQLite database"));
        }
        let copy = Self::from(bytes);
        let found = copy
            .open(path)?
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match found {
            Ok(found) if String::eq(&found, "ok") => Ok(copy),
            Ok(_) => Err(damaged("what the backup has of it is damaged")),
            Err(error) => Err(from_sqlite(path, &error)),
        }
    }

    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        // SQLite opens no database in memory that says it has a log.
        for at in VERSIONS {
            if bytes.get(at) == Some(&2) {
                bytes[at] = 1;
            }
        }
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    /// Whether both hold the same. Which program wrote them, and how often, does not count.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let is_counter = |at: &usize| COUNTERS.iter().any(|range| range.contains(at));
        let mut both = self.0.iter().zip(other.0.iter()).enumerate();
        self.0.len() == other.0.len()
            && both.all(|(at, (mine, theirs))| mine == theirs || is_counter(&at))
    }

    /// A connection to the copy, which can only be read.
    ///
    /// # Errors
    /// [`Error::Database`]. `path`: where the copy belongs, for messages.
    pub(crate) fn open(&self, path: &Path) -> Result<Connection> {
        let open = || {
            let mut copied = Connection::open_in_memory()?;
            guard(&copied)?;
            copied.deserialize_read_exact(MAIN_DB, self.bytes(), self.0.len(), true)?;
            Ok(copied)
        };
        open().map_err(|error| from_sqlite(path, &error))
    }

    /// Replaces the whole content of the database at a path in one transaction; makes a missing one. Programs that have it open
    /// go on with the new content.
    ///
    /// # Errors
    /// [`Error::Database`]; nothing has changed then.
    pub(crate) fn put(&self, path: &Path) -> Result<()> {
        let source = self.open(path)?;
        let mut target = connect_or_create(path, BUSY_TIMEOUT)?;
        copy_all(path, &source, &mut target)
    }
}

/// All pages in one step, so that they are of one moment.
fn copy_all(path: &Path, from: &Connection, to: &mut Connection) -> Result<()> {
    let failed = |error| from_sqlite(path, &error);
    let backup = Backup::new(from, to).map_err(failed)?;
    let began = Instant::now();
    loop {
        match backup.step(-1).map_err(failed)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ if began.elapsed() < BUSY_TIMEOUT => std::thread::sleep(RETRY_DELAY),
            _ => return Err(busy(path)),
        }
    }
}

fn busy(path: &Path) -> Error {
    let reason = format!(
        "another program has locked it for over {} s",
        BUSY_TIMEOUT.as_secs()
    );
    database_error(path, libc::EBUSY, &reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, sql: &str) -> Connection {
        let database = Connection::open(path).unwrap();
        database.execute_batch(sql).unwrap();
        database
    }

    fn rows(database: &Connection) -> Vec<i64> {
        let mut select = database.prepare("SELECT a FROM t ORDER BY a").unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    }

    #[test]
    fn a_copy_has_what_is_committed_and_is_put_under_the_hands_of_another_program() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.db"), dir.path().join("b.db"));
        assert!(Copy::of(&path).unwrap().is_none());
        let begin = "PRAGMA journal_mode=WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);";
        let writer = database(&path, begin);
        writer
            .execute_batch("BEGIN; INSERT INTO t VALUES (3)")
            .unwrap();
        let copy = Copy::of(&path).unwrap().unwrap();
        assert_eq!(rows(&copy.open(&path).unwrap()), [1, 2]);
        writer.execute_batch("COMMIT").unwrap();
        assert!(!Copy::of(&path).unwrap().unwrap().is_same_as(&copy));
        let reader = database(&path, "");
        assert_eq!(rows(&reader), [1, 2, 3]);
        copy.put(&path).unwrap();
        assert_eq!((rows(&reader), rows(&writer)), (vec![1, 2], vec![1, 2]));
        assert!(Copy::of(&path).unwrap().unwrap().is_same_as(&copy));
        writer.execute_batch("INSERT INTO t VALUES (9)").unwrap();
        assert_eq!(rows(&reader), [1, 2, 9]);
        copy.put(&other).unwrap();
        assert_eq!(rows(&database(&other, "")), [1, 2]);
        let mode = std::fs::metadata(&other).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
            0o600
        );
    }

    #[test]
    fn what_is_no_database_or_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let rows: String = (0..2000)
            .map(|n| format!("INSERT INTO t VALUES ({n}, 'text {n}');"))
            .collect();
        database(
            &path,
            &format!("CREATE TABLE t (a, b); CREATE INDEX i ON t (a); BEGIN; {rows} COMMIT"),
        );
        let whole = Copy::of(&path).unwrap().unwrap();
        let check = |bytes: Vec<u8>| Copy::checked(Zeroizing::new(bytes), &path);
        assert!(check(whole.bytes().to_vec()).is_ok());
        for broken in [
            b"".to_vec(),
            b"SQLite format 3\0".to_vec(),
            vec![b'x'; 8192],
        ] {
            assert!(check(broken).is_err());
        }
        let mut damaged = whole.bytes().to_vec();
        damaged[4096..8192].fill(0xa5);
        assert!(check(damaged).is_err());
    }
}
