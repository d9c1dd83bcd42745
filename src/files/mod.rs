//! Files on the disk: [`place`] opens only what this user or root can have put there; `read_file` reads a whole regular
//! file, at most so many bytes, never blocking; [`notifier`] waits for changes; [`open_events`] is the kernel's report of
//! opens; [`reserve`] keeps descriptors for what must not
//! fail; [`output`]: files that commands
//! write for their users; [`base_folder`]: the daemon makes nothing anew in a folder that was moved away. [`memory_folder`]: folders that are on no
//! disk. Knows no content.

pub(crate) mod base_folder;
mod groups;
pub(crate) mod memory_folder;
pub(crate) mod names;
pub(crate) mod notifier;
pub(crate) mod open_events;
pub(crate) mod output;
pub(crate) mod place;
pub(crate) mod reserve;
pub(crate) mod writable;

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

pub(crate) use groups::ACL_ATTRIBUTE;
use place::Place;

/// The kernel's timestamps have the resolution of its tick (4 to 10 ms), so two edits within a tick have the same one.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_millis(20);

/// A name beside `path`: `secrets.json` is `.secrets.json.tmp`.
pub(crate) fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(after);
    path.with_file_name(name)
}

/// The files beside `path` whose names are `before`, its name, `after` and something more.
pub(crate) fn all_beside(path: &Path, before: &str, after: &str) -> Vec<PathBuf> {
    let start = beside(path, before, after);
    let start = start.file_name().unwrap_or_default().as_encoded_bytes();
    let is_one = |name: &[u8]| name.len() > start.len() && name.starts_with(start);
    let entries = std::fs::read_dir(path.parent().unwrap_or(Path::new("/")));
    let entries = entries.into_iter().flatten().flatten();
    let found = entries.filter(|entry| is_one(entry.file_name().as_encoded_bytes()));
    found.map(|entry| entry.path()).collect()
}

/// The hidden files that writers of this program had beside `path` until they were killed, with `part` in their names: files on the
/// way to be `path`, or a copy of it. Some may be those of writers that go on.
pub(crate) fn remains_of(path: &Path, part: &str) -> Vec<PathBuf> {
    let mut all = all_beside(path, ".", ".");
    all.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let end = name.rsplit_once('.').map_or("", |(_, end)| end);
        // As `place::create_whole` names them, and `Replacement`.
        let is_random = end.len() == 16 && end.bytes().all(|byte| byte.is_ascii_hexdigit());
        name.contains(part) && (is_random || end == "tmp")
    });
    all
}

/// Identifies a state of a file: it differs after an edit or a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    #[allow(clippy::unnecessary_cast)] // the fields differ in width between architectures
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// The file's modification time.
    pub(crate) fn modified(&self) -> SystemTime {
        time_of(self.modified)
    }

    /// Whether the file changed so recently that another change could leave the same stamp.
    pub(crate) fn may_repeat(&self) -> bool {
        let (now, changed) = (SystemTime::now(), time_of(self.changed));
        match now.duration_since(changed) {
            Ok(age) => age <= TIMESTAMP_RESOLUTION,
            Err(ahead) => ahead.duration() <= TIMESTAMP_RESOLUTION,
        }
    }

    /// Whether the file changed within the last `span`.
    pub(crate) fn is_younger_than(&self, span: Duration) -> bool {
        SystemTime::now()
            .duration_since(time_of(self.changed))
            .is_ok_and(|age| age < span)
    }
}

/// Also for times before 1970, which a file may have.
fn time_of((seconds, nanoseconds): (i64, i64)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds >= 0 {
        true => UNIX_EPOCH.checked_add(whole),
        false => UNIX_EPOCH.checked_sub(whole),
    };
    let rest = Duration::from_nanos(nanoseconds.unsigned_abs());
    time.and_then(|time| time.checked_add(rest))
        .unwrap_or(UNIX_EPOCH)
}

/// A file's content, and the state and mode of the file.
pub(crate) struct Content {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) stamp: Stamp,
    pub(crate) mode: u32,
}

impl Content {
    /// Whether the group or others may read it.
    pub(crate) fn is_open_to_others(&self) -> bool {
        self.mode & 0o044 != 0
    }
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file does not exist.
    Missing,
    /// It is not a regular file, but this.
    NotAFile(&'static str),
    /// It has more bytes than the limit.
    TooLarge,
    /// The system call failed.
    Io(std::io::Error),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::Missing,
            _ => ReadError::Io(error),
        }
    }
}
impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        std::io::Error::from(errno).into()
    }
}

/// What a file is that is not a regular one; `None` for a regular file.
pub(crate) fn not_a_file(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("it is a folder"),
        FileType::Fifo => Some("it is a named pipe"),
        FileType::Socket => Some("it is a socket"),
        _ => Some("it is not a regular file"),
    }
}

/// Reads a whole regular file of at most `limit` bytes. Reads again if it changes meanwhile, up to four times.
pub(crate) fn read_file(path: &Path, limit: usize) -> Result<Content, ReadError> {
    read_place(&place::find(path)?, limit)
}

/// Like [`read_file`], for a file that was found already.
pub(crate) fn read_place(place: &Place, limit: usize) -> Result<Content, ReadError> {
    let stat = place.stat().ok_or(ReadError::Missing)?;
    if let Some(what) = not_a_file(stat) {
        return Err(ReadError::NotAFile(what));
    }
    read_open(place.open(OFlags::RDONLY)?, limit)
}

/// Like [`read_file`], for a file that anybody may have put there.
pub(crate) fn read_file_of_anybody(path: &Path, limit: usize) -> Result<Content, ReadError> {
    // Before the open, too, because opening a device can have effects.
    if let Some(what) = not_a_file(&rustix::fs::stat(path)?) {
        return Err(ReadError::NotAFile(what));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    read_open(file.into(), limit)
}

/// Whether the file itself is a mount point: a bind mount of this one file. `false` where the kernel cannot say (before
/// Linux 5.8).
pub(crate) fn is_mounted(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let statx = rustix::fs::statx(CWD, path, flags, StatxFlags::empty());
    statx.is_ok_and(|statx| {
        let attributes = statx.stx_attributes & statx.stx_attributes_mask;
        attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

/// Waits until the entries of a folder are on the disk. Some filesystems cannot do that, and return EINVAL.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match std::fs::File::open(folder)?.sync_all() {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

fn read_open(mut file: std::fs::File, limit: usize) -> Result<Content, ReadError> {
    for attempt in 1.. {
        let before = rustix::fs::fstat(&file)?;
        if let Some(what) = not_a_file(&before) {
            return Err(ReadError::NotAFile(what));
        }
        let size = usize::try_from(before.st_size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(ReadError::TooLarge);
        }
        // Allocated at its full size, because a vector that grows leaves unzeroed copies.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
        std::io::Seek::rewind(&mut file)?;
        (&mut file).take(size as u64 + 1).read_to_end(&mut bytes)?;
        let after = rustix::fs::fstat(&file)?;
        if Stamp::of(&before) == Stamp::of(&after) || attempt == 4 {
            return Ok(Content {
                bytes,
                stamp: Stamp::of(&after),
                mode: after.st_mode,
            });
        }
    }
    Err(ReadError::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(matches!(read_file(&path, 10), Err(ReadError::Missing)));
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(&**read_file(&path, 10).unwrap().bytes, b"0123456789");
        assert!(matches!(read_file(&path, 9), Err(ReadError::TooLarge)));
        assert!(matches!(
            read_file(dir.path(), 10),
            Err(ReadError::NotAFile("it is a folder"))
        ));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
        assert!(matches!(
            read_file(&fifo, 10),
            Err(ReadError::NotAFile("it is a named pipe"))
        ));
        for read in [read_file, read_file_of_anybody] {
            assert!(read(Path::new("/dev/zero"), 10).is_err());
        }
    }

    #[test]
    fn a_modification_time_before_1970_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "a").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for before in [Duration::from_millis(500), Duration::from_secs(3600)] {
            file.set_modified(UNIX_EPOCH - before).unwrap();
            let stamp = read_file(&path, 10).unwrap().stamp;
            assert_eq!(stamp.modified(), UNIX_EPOCH - before);
        }
    }

    #[test]
    fn a_stamp_differs_after_an_edit_and_after_a_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "a").unwrap();
        let first = read_file(&path, 10).unwrap().stamp;
        assert_eq!(first, read_file(&path, 10).unwrap().stamp);
        std::fs::write(&path, "ab").unwrap();
        assert_ne!(first, read_file(&path, 10).unwrap().stamp);
        let second = read_file(&path, 10).unwrap().stamp;
        std::fs::write(dir.path().join("g"), "ab").unwrap();
        std::fs::rename(dir.path().join("g"), &path).unwrap();
        assert_ne!(second, read_file(&path, 10).unwrap().stamp);
    }
}
