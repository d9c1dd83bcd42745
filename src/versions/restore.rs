//! Turns a state into records, for a checkpoint, and records into a state, when the next server starts.

use super::inode::{Buffer, Handle, Inode, Unavailable, Version, WriteInode};
use super::record::{BufferRecord, FileRecord, HandleRecord, Record};
use super::state::State;
use crate::secret::SecretBuffer;

/// The state that earlier servers left in the journal.
pub struct Restored {
    /// The state to continue from.
    pub state: State,
    /// Inodes whose commits an earlier server did not finish, in the order of opening. Their commits count as begun.
    pub unfinished: Vec<u64>,
    /// The records of the tree above (events, prices, bundle bases), in order.
    pub others: Vec<SecretBuffer>,
}

impl Restored {
    /// Nothing restored yet. Numbers as for [`State::new`].
    pub fn new(numbers_from: u64) -> Self {
        Self {
            state: State::new(numbers_from),
            unfinished: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Applies a record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Other(bytes) => self.others.push(bytes),
            record => self.state.apply(record),
        }
    }

    /// Ends the reading, and finds unfinished commits.
    pub fn finish(&mut self) {
        let state = &mut self.state;
        let inodes: Vec<u64> = state.inodes.keys().copied().collect();
        for ino in inodes {
            // How many lookups of it the kernel counts is not known.
            state.restored(ino);
            let file = state.file_of(ino);
            if !file.is_some_and(|file| state.files.contains_key(&file)) {
                tracing::error!("the journal has an inode without a file");
                state.inodes.remove(&ino);
            }
        }
        self.unfinished = state.resume_commits();
        drop(state.take_records());
    }
}

impl State {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Numbers(number) => self.next_after(number),
            Record::File(file) => self.apply_file(file),
            Record::FileGone(number) => {
                self.unname(number);
                self.remove_file(number);
            }
            Record::Version {
                ino,
                file,
                value,
                mtime,
                changed_at,
            } => {
                self.next_after(ino);
                let version = Version {
                    file,
                    value,
                    mtime: mtime.into(),
                    changed_at: changed_at.into(),
                };
                self.add_inode(ino, file, Inode::Version(version));
            }
            Record::WriteInode { ino, file, base } => {
                self.next_after(ino);
                self.put_write_inode(ino, file, base.ok_or(Unavailable::Unknown));
            }
            Record::InodeGone(ino) => {
                if let Some(file) = self.file_of(ino)
                    && let Some(file) = self.files.get_mut(&file)
                {
                    file.inodes = file.inodes.saturating_sub(1);
                }
                self.inodes.remove(&ino);
            }
            Record::Buffer(buffer) => self.apply_buffer(buffer),
            Record::Write { ino, at, bytes } => self.apply_write(ino, at as usize, &bytes),
            Record::SetLen { ino, len } => drop(self.set_len(ino, len as usize)),
            Record::Tainted(ino, errno) => self.taint(ino, errno),
            Record::Synced(ino) => self.sync(ino),
            Record::Handle(number, handle) => {
                self.next_after(number);
                self.put_handle(number, handle.into_handle());
            }
            Record::HandleGone(number) => {
                if let Some(Handle::Write { ino, .. }) = self.handles.remove(&number) {
                    self.remove_writer(ino);
                }
            }
            Record::Wrote {
                handle,
                request,
                count,
            } => {
                if let Some(Handle::Write { last_write, .. }) = self.handles.get_mut(&handle) {
                    *last_write = Some((request, count));
                }
            }
            Record::Placeholder(ino, dir_entry) => self.put_placeholder(ino, dir_entry),
            Record::Retry(tid, dir_entry, to_write) => self.put_retry(tid, dir_entry, to_write),
            Record::RetryEnded(tid, dir_entry) => self.drop_retry(tid, &dir_entry),
            Record::Other(_) => {}
            Record::Vanished(number) => {
                if let Some(file) = self.files.get_mut(&number) {
                    file.has_vanished = true;
                }
            }
            Record::Viewed(ino) => self.view(ino),
            Record::Earlier(number, dir_entry) => {
                if let Some(file) = self.files.get_mut(&number) {
                    file.earlier = Some(dir_entry);
                }
            }
        }
        // These changes are in the journal already.
        drop(self.take_records());
    }

    fn unname(&mut self, number: u64) {
        self.leave_name(number);
        self.unlist_pending(number);
    }

    fn apply_file(&mut self, record: FileRecord) {
        let number = record.number;
        self.unname(number);
        let mut file = record.into_file();
        file.inodes = self.files.get(&number).map_or(0, |file| file.inodes);
        if let Some(dir_entry) = file.dir_entry.clone() {
            match file.pending {
                Some(_) => self.pending.entry(dir_entry).or_default().push(number),
                None => drop(self.names.insert(dir_entry, number)),
            }
        }
        self.put_file(number, file);
    }

    fn apply_buffer(&mut self, record: BufferRecord) {
        let opener = record.opener();
        let Some(inode) = self.write_inode_mut(record.ino) else {
            return;
        };
        let data = || match &inode.base {
            Ok(base) => Ok(SecretBuffer::new(base.as_bytes())),
            Err(missing) => Err(*missing),
        };
        let data = match inode.buffer.take() {
            Some(buffer) => (buffer.data, buffer.synced),
            None => (data(), None),
        };
        let synced = data.1.filter(|_| record.changes != record.committed);
        inode.buffer = Some(Buffer {
            data: data.0,
            changes: record.changes,
            committed: record.committed,
            opener,
            is_flushed: record.is_closed,
            is_closed: record.is_closed,
            is_killed: record.is_killed,
            synced,
            mtime: record.mtime.map(Into::into),
        });
    }

    fn apply_write(&mut self, ino: u64, at: usize, bytes: &SecretBuffer) {
        if let Some(buffer) = self
            .write_inode_mut(ino)
            .and_then(|inode| inode.buffer.as_mut())
        {
            match &mut buffer.data {
                Ok(data) => {
                    data.write_at(at, bytes.as_bytes());
                    buffer.changes += 1;
                }
                // What the file held came to be known, which is no change.
                data => *data = Ok(SecretBuffer::new(bytes.as_bytes())),
            }
        }
    }

    /// The whole state as records.
    pub fn checkpoint(&self) -> Vec<Record> {
        let mut records = vec![Record::Numbers(self.last_number())];
        for (number, file) in &self.files {
            records.extend(FileRecord::all_of(*number, file));
        }
        let vanished = self.files.iter().filter(|(_, file)| file.has_vanished);
        records.extend(vanished.map(|(number, _)| Record::Vanished(*number)));
        for (ino, inode) in &self.inodes {
            match inode {
                Inode::Version(version) => records.push(Record::Version {
                    ino: *ino,
                    file: version.file,
                    value: version.value.clone(),
                    mtime: version.mtime.into(),
                    changed_at: version.changed_at.into(),
                }),
                Inode::Write(inode) => write_inode(*ino, inode, &mut records),
            }
        }
        for (number, handle) in &self.handles {
            records.push(Record::Handle(*number, HandleRecord::of(handle)));
            if let Handle::Write {
                last_write: Some((request, count)),
                ..
            } = handle
            {
                records.push(Record::Wrote {
                    handle: *number,
                    request: *request,
                    count: *count,
                });
            }
        }
        let placeholders = self.placeholders();
        records.extend(
            placeholders.map(|(ino, dir_entry)| Record::Placeholder(ino, dir_entry.clone())),
        );
        let retries = self.retries();
        records.extend(
            retries
                .map(|(tid, dir_entry, to_write)| Record::Retry(tid, dir_entry.clone(), to_write)),
        );
        records
    }
}

fn write_inode(ino: u64, inode: &WriteInode, records: &mut Vec<Record>) {
    records.push(Record::WriteInode {
        ino,
        file: inode.file,
        base: inode.base.clone().ok(),
    });
    let Some(buffer) = &inode.buffer else {
        return;
    };
    records.push(Record::Buffer(BufferRecord::of(ino, buffer)));
    if inode.is_viewed {
        records.push(Record::Viewed(ino));
    }
    let holds = |bytes: &SecretBuffer, records: &mut Vec<Record>| {
        records.push(Record::SetLen { ino, len: 0 });
        let bytes = SecretBuffer::new(bytes.as_bytes());
        records.push(Record::Write { ino, at: 0, bytes });
    };
    if let Some(synced) = &buffer.synced {
        holds(synced, records);
        records.push(Record::Synced(ino));
    }
    match &buffer.data {
        Ok(data) => holds(data, records),
        Err(Unavailable::Failed(errno)) => records.push(Record::Tainted(ino, *errno)),
        Err(Unavailable::Unknown) => {}
    }
    // What the bytes count as is as it was.
    records.push(Record::Buffer(BufferRecord::of(ino, buffer)));
}
