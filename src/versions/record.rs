//! The journal's records. One version of the program reads what another one wrote, so a variant or a field is only ever
//! added behind the last one; `golden.in` has each in bytes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::DirEntry;
use super::file::File;
use super::inode::{Buffer, Handle, Opener};
use crate::process::Process;
use crate::secret::{SecretBuffer, SecretValue};

/// One change of the state, as the journal records it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Record {
    /// Numbers up to this one have been given out.
    Numbers(u64),
    /// A file, as it is now.
    File(FileRecord),
    /// A file that nothing needs any more.
    FileGone(u64),
    /// A version, before the kernel gets its inode number.
    Version {
        /// Its inode number.
        ino: u64,
        /// Its file.
        file: u64,
        /// Its bytes.
        #[serde(with = "value")]
        value: SecretValue,
        /// Its modification time.
        mtime: Timestamp,
        /// When its bytes became the file's content.
        changed_at: Timestamp,
    },
    /// An inode for a writer.
    WriteInode {
        /// Its inode number.
        ino: u64,
        /// Its file.
        file: u64,
        /// What the file held, where that was known.
        #[serde(with = "optional_value")]
        base: Option<SecretValue>,
    },
    /// An inode that nothing needs any more.
    InodeGone(u64),
    /// A writer's buffer, without its bytes.
    Buffer(BufferRecord),
    /// Bytes written into a buffer.
    Write {
        /// The inode.
        ino: u64,
        /// Where, in bytes from the beginning.
        at: u64,
        /// The bytes.
        #[serde(with = "bytes")]
        bytes: SecretBuffer,
    },
    /// A buffer's new length.
    SetLen {
        /// The inode.
        ino: u64,
        /// The length in bytes.
        len: u64,
    },
    /// Nothing of this inode's buffer may take effect; its close fails with this errno.
    Tainted(u64, i32),
    /// A buffer was fsynced.
    Synced(u64),
    /// An open file.
    Handle(u64, HandleRecord),
    /// The kernel has released an open file.
    HandleGone(u64),
    /// The last write through a handle: the request, and how many bytes it wrote.
    Wrote {
        /// The handle.
        handle: u64,
        /// The request.
        request: u64,
        /// How many bytes it wrote.
        count: u32,
    },
    /// A placeholder for a name.
    Placeholder(u64, DirEntry),
    /// A thread got ESTALE for a name; `true`: it opens to write.
    Retry(u32, DirEntry, bool),
    /// That retry is over.
    RetryEnded(u32, DirEntry),
    /// A record of the tree above: events, prices, bundle bases.
    Other(#[serde(with = "bytes")] SecretBuffer),
    /// A lookup found no value under the name of this file.
    Vanished(u64),
    /// An inode with a buffer was opened to read.
    Viewed(u64),
    /// The name of a file before its last rename. It follows each [`Record::File`] of a file that has one.
    Earlier(u64, DirEntry),
}

/// A [`File`].
#[derive(Debug, Serialize, Deserialize)]
pub struct FileRecord {
    pub(super) number: u64,
    pub(super) dir_entry: Option<DirEntry>,
    pub(super) last: DirEntry,
    pub(super) current: Option<u64>,
    pub(super) write_ino: Option<u64>,
    pub(super) pending: Option<ProcessRecord>,
    pub(super) is_scratch: bool,
    pub(super) mtime: Option<(u64, Timestamp)>,
}

impl FileRecord {
    /// The records of a file, but for [`Record::Vanished`].
    pub(super) fn all_of(number: u64, file: &File) -> impl Iterator<Item = Record> + use<> {
        let earlier = file.earlier.clone();
        let earlier = earlier.map(|dir_entry| Record::Earlier(number, dir_entry));
        [Record::File(Self::of(number, file))]
            .into_iter()
            .chain(earlier)
    }

    fn of(number: u64, file: &File) -> Self {
        Self {
            number,
            dir_entry: file.dir_entry.clone(),
            last: file.last.clone(),
            current: file.current,
            write_ino: file.write_ino,
            pending: file.pending.map(ProcessRecord::from),
            is_scratch: file.is_scratch,
            mtime: file.mtime.map(|(fingerprint, at)| (fingerprint, at.into())),
        }
    }

    pub(super) fn into_file(self) -> File {
        File {
            dir_entry: self.dir_entry,
            last: self.last,
            earlier: None,
            has_vanished: false,
            current: self.current,
            write_ino: self.write_ino,
            pending: self.pending.map(Process::from),
            is_scratch: self.is_scratch,
            mtime: self.mtime.map(|(fingerprint, at)| (fingerprint, at.into())),
            inodes: 0,
        }
    }
}

/// A process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProcessRecord {
    pid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl From<Process> for ProcessRecord {
    fn from(process: Process) -> Self {
        Self {
            pid: process.pid,
            started: process.started,
        }
    }
}

impl From<ProcessRecord> for Process {
    fn from(record: ProcessRecord) -> Self {
        Self {
            pid: record.pid,
            started: record.started,
        }
    }
}

/// A [`Buffer`], without its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct BufferRecord {
    pub(super) ino: u64,
    pub(super) changes: u64,
    pub(super) committed: u64,
    opener: ProcessRecord,
    uid: u32,
    program: Option<String>,
    pub(super) is_closed: bool,
    pub(super) is_killed: bool,
    pub(super) mtime: Option<Timestamp>,
}

impl BufferRecord {
    pub(super) fn of(ino: u64, buffer: &Buffer) -> Self {
        Self {
            ino,
            changes: buffer.changes,
            committed: buffer.committed,
            opener: buffer.opener.process.into(),
            uid: buffer.opener.uid,
            program: buffer.opener.program.clone(),
            is_closed: buffer.is_closed,
            is_killed: buffer.is_killed,
            mtime: buffer.mtime.map(Timestamp::from),
        }
    }

    pub(super) fn opener(&self) -> Opener {
        Opener {
            process: self.opener.into(),
            uid: self.uid,
            program: self.program.clone(),
        }
    }
}

/// A [`Handle`].
#[derive(Debug, Serialize, Deserialize)]
pub enum HandleRecord {
    /// It writes to an inode; the request that opened it.
    Write(u64, u64),
    /// It reads these bytes; the request that opened it.
    Snapshot(u64, #[serde(with = "value")] SecretValue),
}

impl HandleRecord {
    pub(super) fn of(handle: &Handle) -> Self {
        match handle {
            Handle::Write { ino, request, .. } => HandleRecord::Write(*ino, *request),
            Handle::Snapshot { request, value } => HandleRecord::Snapshot(*request, value.clone()),
        }
    }

    pub(super) fn into_handle(self) -> Handle {
        match self {
            HandleRecord::Write(ino, request) => Handle::Write {
                ino,
                request,
                last_write: None,
            },
            HandleRecord::Snapshot(request, value) => Handle::Snapshot { request, value },
        }
    }
}

/// A time on the wall clock, which may lie before 1970: seconds since then, rounded down, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        match at.duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: since.as_secs() as i64,
                nanos: since.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Self {
                        seconds: -(before.as_secs() as i64),
                        nanos: 0,
                    },
                    nanos => Self {
                        seconds: -(before.as_secs() as i64) - 1,
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        let seconds = Duration::from_secs(at.seconds.unsigned_abs());
        let whole = match at.seconds >= 0 {
            true => UNIX_EPOCH.checked_add(seconds),
            false => UNIX_EPOCH.checked_sub(seconds),
        };
        let at = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(at.nanos.into())));
        at.unwrap_or(UNIX_EPOCH)
    }
}

/// A value's bytes. Reading borrows them from the record, and copies them only into locked memory.
mod value {
    use super::*;
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(value: &SecretValue, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(value.as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretValue, D::Error> {
        SecretValue::from_bytes("", <&[u8]>::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod optional_value {
    use super::*;
    use serde::de::Error;

    /// The bytes of a value, on their way into a record.
    struct Bytes<'a>(&'a [u8]);

    impl Serialize for Bytes<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_bytes(self.0)
        }
    }

    pub(super) fn serialize<S: Serializer>(
        value: &Option<SecretValue>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .map(|value| Bytes(value.as_bytes()))
            .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SecretValue>, D::Error> {
        let bytes = Option::<&[u8]>::deserialize(from)?;
        let value = bytes.map(|bytes| SecretValue::from_bytes("", bytes));
        value.transpose().map_err(D::Error::custom)
    }
}

mod bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &SecretBuffer, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes.as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SecretBuffer, D::Error> {
        Ok(SecretBuffer::new(<&[u8]>::deserialize(from)?))
    }
}
