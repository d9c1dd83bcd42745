//! All files and inodes of a mount, and the records of their changes. `State` is one type, because each operation changes
//! several of its maps at once; `names`, `writers`, `closing` and `restore` have the rest of its methods.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::time::SystemTime;

use lru::LruCache;

use super::file::File;
use super::inode::{Handle, Inode, Version};
use super::lookups::Lookups;
use super::record::{FileRecord, Record};
use super::retries::{self, Retries, Retry};
use super::{DirEntry, FIRST_FILE, Placeholder};
use crate::secret::SecretValue;

/// The most placeholders that are remembered. Opening a forgotten one returns ESTALE, and the kernel looks its name up anew.
const MAX_PLACEHOLDERS: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();

/// All files and inodes of a mount.
pub struct State {
    pub(super) files: HashMap<u64, File>,
    /// Names that everybody sees and that have an inode.
    pub(super) names: HashMap<DirEntry, u64>,
    pub(super) pending: HashMap<DirEntry, Vec<u64>>,
    pub(super) inodes: HashMap<u64, Inode>,
    /// The scratch files among them.
    pub(super) scratch: BTreeSet<u64>,
    lookups: Lookups,
    pub(super) placeholders: LruCache<u64, Placeholder>,
    pub(super) handles: HashMap<u64, Handle>,
    /// The inodes that a handle writes to, behind the number of their file.
    pub(super) written: BTreeSet<(u64, u64)>,
    retries: Retries,
    next: u64,
    /// The records of changes since [`take_records`](Self::take_records) was last called.
    records: Vec<Record>,
    has_shrunk: bool,
}

/// With so many bytes less, a checkpoint is much shorter.
const LARGE_BYTES: usize = 256 * 1024;
/// About how many bytes a record takes, without those of a value.
const RECORD: usize = 64;

fn size_of_inode(inode: &Inode) -> usize {
    match inode {
        Inode::Version(version) => RECORD + version.value.len(),
        Inode::Write(inode) => 3 * RECORD + inode.bytes_held(),
    }
}

impl State {
    /// An empty state; new inode and handle numbers begin at `numbers_from`.
    pub fn new(numbers_from: u64) -> Self {
        Self {
            files: HashMap::new(),
            names: HashMap::new(),
            pending: HashMap::new(),
            inodes: HashMap::new(),
            scratch: BTreeSet::new(),
            lookups: Lookups::default(),
            placeholders: LruCache::new(MAX_PLACEHOLDERS),
            handles: HashMap::new(),
            written: BTreeSet::new(),
            retries: Retries::default(),
            next: numbers_from.max(FIRST_FILE),
            records: Vec::new(),
            has_shrunk: false,
        }
    }

    /// About how many bytes the [checkpoint](Self::checkpoint) takes.
    pub fn size(&self) -> u64 {
        let few = self.files.len() + self.placeholders.len() + self.handles.len();
        (few * RECORD + self.inodes.values().map(size_of_inode).sum::<usize>()) as u64
    }

    /// Whether a checkpoint may have become much shorter since the last call.
    pub fn take_has_shrunk(&mut self) -> bool {
        std::mem::take(&mut self.has_shrunk)
    }

    /// So many bytes are not held any more.
    pub(super) fn shrunk_by(&mut self, bytes: usize) {
        self.has_shrunk |= bytes > LARGE_BYTES;
    }

    /// The records of all changes since the last call.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    /// A new inode or handle number.
    pub fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn next_after(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    pub(super) fn last_number(&self) -> u64 {
        self.next
    }

    /// A file.
    pub fn file(&self, number: u64) -> Option<&File> {
        self.files.get(&number)
    }

    pub(super) fn put_file(&mut self, number: u64, file: File) {
        self.list_scratch(number, file.is_scratch);
        self.files.insert(number, file);
    }

    pub(super) fn remove_file(&mut self, number: u64) {
        self.list_scratch(number, false);
        self.files.remove(&number);
    }

    fn list_scratch(&mut self, number: u64, is_scratch: bool) {
        match is_scratch {
            true => self.scratch.insert(number),
            false => self.scratch.remove(&number),
        };
    }

    pub(super) fn record_file(&mut self, number: u64) {
        match self.files.get(&number) {
            Some(file) => self.records.extend(FileRecord::all_of(number, file)),
            None => self.record(Record::FileGone(number)),
        }
    }

    pub(super) fn change_file(&mut self, number: u64, change: impl FnOnce(&mut File)) {
        if let Some(file) = self.files.get_mut(&number) {
            change(file);
            let is_scratch = file.is_scratch;
            self.list_scratch(number, is_scratch);
            self.record_file(number);
        }
    }

    /// Sets the modification time of the content with this fingerprint, and of its version.
    pub fn set_mtime(&mut self, file: u64, fingerprint: u64, mtime: SystemTime) {
        self.change_file(file, |file| file.mtime = Some((fingerprint, mtime)));
        let current = self.files.get(&file).and_then(|file| file.current);
        if let Some(ino) = current
            && let Some(Inode::Version(version)) = self.inodes.get_mut(&ino)
            && version.value.fingerprint() == fingerprint
        {
            version.mtime = mtime;
            version.changed_at = SystemTime::now();
        }
    }

    // Inodes.

    /// An inode.
    pub fn inode(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// The file that an inode belongs to.
    pub fn file_of(&self, ino: u64) -> Option<u64> {
        Some(match self.inodes.get(&ino)? {
            Inode::Version(version) => version.file,
            Inode::Write(inode) => inode.file,
        })
    }

    /// The last name of an inode's file.
    pub fn last_dir_entry(&self, ino: u64) -> Option<&DirEntry> {
        let file = self.file_of(ino)?;
        Some(&self.files.get(&file)?.last)
    }

    pub(super) fn add_inode(&mut self, ino: u64, file: u64, inode: Inode) {
        self.inodes.insert(ino, inode);
        if let Some(file) = self.files.get_mut(&file) {
            file.inodes += 1;
        }
    }

    /// The inode of a name's content: the current version if it has these bytes, else a new one.
    pub fn version(
        &mut self,
        dir_entry: &DirEntry,
        value: &SecretValue,
        changed_at: SystemTime,
    ) -> u64 {
        let file = self.file_at(dir_entry);
        let current = self.files.get(&file).and_then(|file| file.current);
        if let Some(ino) = current
            && let Some(Inode::Version(version)) = self.inodes.get(&ino)
            && version.value == *value
        {
            return ino;
        }
        let set = self.files.get(&file).and_then(|file| file.mtime);
        let set = set.filter(|(fingerprint, _)| *fingerprint == value.fingerprint());
        let version = Version {
            file,
            value: value.clone(),
            mtime: set.map_or(changed_at, |(_, mtime)| mtime),
            changed_at,
        };
        let ino = self.next_number();
        self.record(Record::Version {
            ino,
            file,
            value: value.clone(),
            mtime: version.mtime.into(),
            changed_at: changed_at.into(),
        });
        self.add_inode(ino, file, Inode::Version(version));
        self.change_file(file, |file| file.current = Some(ino));
        if let Some(old) = current {
            self.drop_if_unused(old);
        }
        ino
    }

    /// The inode of a name's current version, if one is known.
    pub fn current_version(&self, dir_entry: &DirEntry) -> Option<u64> {
        self.file(self.named(dir_entry)?)?.current
    }

    /// The placeholder of a name: LOOKUP gives it if a provider must be asked first, READDIRPLUS for every name. A name has the
    /// same placeholder each time, so that concurrent lookups get one inode. Opening it returns ESTALE.
    pub fn placeholder_for(&mut self, dir_entry: &DirEntry) -> u64 {
        let ino = self.st_ino_of(dir_entry);
        if self
            .placeholders
            .get(&ino)
            .is_none_or(|known| known.dir_entry != *dir_entry)
        {
            self.record(Record::Placeholder(ino, dir_entry.clone()));
            self.put_placeholder(ino, dir_entry.clone());
        }
        ino
    }

    pub(super) fn put_placeholder(&mut self, ino: u64, dir_entry: DirEntry) {
        let st_ino = self.st_ino_of(&dir_entry);
        self.placeholders
            .push(ino, Placeholder { dir_entry, st_ino });
    }

    /// The placeholder of this inode number.
    pub fn placeholder_at(&mut self, ino: u64) -> Option<&Placeholder> {
        self.placeholders.get(&ino)
    }

    /// Counts a lookup of an inode that is answered.
    pub fn count_lookup(&mut self, ino: u64) {
        if self.inodes.contains_key(&ino) {
            self.lookups.add(ino);
        }
    }

    /// The kernel forgets `count` lookups of an inode.
    pub fn forget(&mut self, ino: u64, count: u64) {
        // Another lookup may have given the same number before this FORGET has arrived: GETATTR of a lost placeholder would be
        // ESTALE, and the kernel looks a name up anew only once.
        if self.placeholders.contains(&ino) {
            return;
        }
        if let Some(ino) = self.lookups.forget(ino, count) {
            self.drop_if_unused(ino);
        }
    }

    pub(super) fn restored(&mut self, ino: u64) {
        self.lookups.restored(ino);
    }

    /// An inode goes when the kernel has forgotten it and no name leads to it.
    pub(super) fn drop_if_unused(&mut self, ino: u64) {
        if self.lookups.is_known(ino) {
            return;
        }
        let Some(number) = self.file_of(ino) else {
            return;
        };
        let is_held = match self.inodes.get(&ino) {
            Some(Inode::Write(inode)) => inode.is_held(),
            _ => false,
        };
        let is_own = |file: &File| {
            file.write_ino == Some(ino)
                && (file.is_scratch && file.dir_entry.is_some() || file.pending.is_some())
        };
        if is_held || self.files.get(&number).is_some_and(is_own) {
            return;
        }
        if let Some(inode) = self.inodes.remove(&ino) {
            self.shrunk_by(size_of_inode(&inode));
        }
        self.lookups.remove(ino);
        self.record(Record::InodeGone(ino));
        if let Some(file) = self.files.get_mut(&number) {
            file.inodes = file.inodes.saturating_sub(1);
            if file.current == Some(ino) {
                file.current = None;
            }
            if file.write_ino == Some(ino) {
                file.write_ino = None;
            }
        }
        self.drop_file_if_unused(number);
    }

    /// Drops those inodes of a file that nothing needs any more, and then the file itself.
    pub(super) fn drop_unused(&mut self, number: u64) {
        let Some(file) = self.files.get(&number) else {
            return;
        };
        let of_file = [file.current, file.write_ino];
        for ino in of_file.into_iter().flatten() {
            self.drop_if_unused(ino);
        }
        self.drop_file_if_unused(number);
    }

    fn drop_file_if_unused(&mut self, number: u64) {
        let Some(file) = self.files.get(&number) else {
            return;
        };
        let keeps_time = file.mtime.is_some() && file.dir_entry.is_some();
        if file.inodes > 0 || file.pending.is_some() || keeps_time {
            return;
        }
        if let Some(dir_entry) = &file.dir_entry
            && self.names.get(dir_entry) == Some(&number)
        {
            self.names.remove(&dir_entry.clone());
        }
        self.remove_file(number);
        self.record(Record::FileGone(number));
    }

    // Retries.

    /// Expects a retry by a thread that opened an inode whose name is not known any more: its next lookup counts as the retry,
    /// whatever the name.
    pub fn expect_retry_of_any_name(&mut self, tid: u32, to_write: bool) {
        self.expect_retry(tid, &retries::anywhere(), to_write);
    }

    /// Expects a retry: the caller answers ESTALE, and the thread's next lookup of the name finds what it wanted to open.
    pub fn expect_retry(&mut self, tid: u32, dir_entry: &DirEntry, to_write: bool) {
        self.record(Record::Retry(tid, dir_entry.clone(), to_write));
        self.put_retry(tid, dir_entry.clone(), to_write);
    }

    /// Expects a retry for an inode's file. If the file was renamed since the thread looked it up, the thread looks up the
    /// old name again.
    pub fn expect_retry_of_file(
        &mut self,
        tid: u32,
        ino: u64,
        dir_entry: &DirEntry,
        to_write: bool,
    ) {
        self.expect_retry(tid, dir_entry, to_write);
        for earlier in self
            .dir_entries(ino)
            .iter()
            .filter(|earlier| *earlier != dir_entry)
        {
            self.expect_retry(tid, earlier, to_write);
        }
    }

    /// Whether the thread is expected to retry this inode's file.
    pub fn expects_retry(&self, tid: u32, ino: u64) -> bool {
        !self.retries.is_empty()
            && self
                .dir_entries(ino)
                .iter()
                .any(|dir_entry| self.retry(tid, dir_entry).is_some())
    }

    fn dir_entries(&self, ino: u64) -> Vec<DirEntry> {
        let file = self.file_of(ino).and_then(|file| self.file(file));
        let dir_entries = file.map_or([None, None], |file| {
            [Some(&file.last), file.earlier.as_ref()]
        });
        dir_entries.into_iter().flatten().cloned().collect()
    }

    pub(super) fn put_retry(&mut self, tid: u32, dir_entry: DirEntry, to_write: bool) {
        self.retries.put(tid, dir_entry, to_write);
    }

    /// The pending retry of a thread for a name.
    pub fn retry(&self, tid: u32, dir_entry: &DirEntry) -> Option<Retry> {
        self.retries.find(tid, dir_entry)
    }

    /// A retry found no file. The kernel may look the name up twice, because it first checks whether the name still leads to
    /// the same inode, so the retry ends with the second miss.
    pub fn retry_missed(&mut self, tid: u32, dir_entry: &DirEntry) {
        let Some(retry) = self.retry(tid, dir_entry).filter(|_| tid != 0) else {
            return;
        };
        self.end_retries(tid);
        if retry.missed.is_none() {
            self.expect_retry(tid, dir_entry, retry.to_write);
            self.retries.set_missed(tid, dir_entry);
        }
    }

    /// The thread has opened a file, so all its retries are over.
    pub fn end_retries(&mut self, tid: u32) {
        for dir_entry in self.retries.take_all(tid) {
            self.record(Record::RetryEnded(tid, dir_entry));
        }
    }

    pub(super) fn drop_retry(&mut self, tid: u32, dir_entry: &DirEntry) {
        self.retries.remove(tid, dir_entry);
    }

    pub(super) fn retries(&self) -> impl Iterator<Item = (u32, &DirEntry, bool)> {
        self.retries.iter()
    }

    pub(super) fn placeholders(&self) -> impl Iterator<Item = (u64, &DirEntry)> {
        let placeholders = self.placeholders.iter();
        placeholders.map(|(ino, placeholder)| (*ino, &placeholder.dir_entry))
    }
}
