//! Writing: buffers, and the handles through which they are written.

use std::time::SystemTime;

use super::inode::{Buffer, Handle, Inode, Opener, Unavailable, WriteInode};
use super::record::{BufferRecord, HandleRecord, Record};
use super::state::State;
use crate::secret::{SecretBuffer, SecretValue};

impl State {
    /// The write inode of this number.
    pub fn write_inode(&self, ino: u64) -> Option<&WriteInode> {
        match self.inodes.get(&ino)? {
            Inode::Write(inode) => Some(inode),
            Inode::Version(_) => None,
        }
    }

    pub(super) fn write_inode_mut(&mut self, ino: u64) -> Option<&mut WriteInode> {
        match self.inodes.get_mut(&ino)? {
            Inode::Write(inode) => Some(inode),
            Inode::Version(_) => None,
        }
    }

    /// What was written to an inode.
    pub fn buffer(&self, ino: u64) -> Option<&Buffer> {
        self.write_inode(ino)?.buffer.as_ref()
    }

    pub(super) fn buffer_mut(&mut self, ino: u64) -> Option<&mut Buffer> {
        self.write_inode_mut(ino)?.buffer.as_mut()
    }

    /// A new write inode of a file for one opener, who may write, or only read what the file holds now.
    pub fn new_write_inode(&mut self, file: u64, base: Result<SecretValue, Unavailable>) -> u64 {
        let ino = self.next_number();
        self.record(Record::WriteInode {
            ino,
            file,
            base: base.clone().ok(),
        });
        self.put_write_inode(ino, file, base);
        ino
    }

    pub(super) fn put_write_inode(
        &mut self,
        ino: u64,
        file: u64,
        base: Result<SecretValue, Unavailable>,
    ) {
        let inode = WriteInode {
            file,
            base,
            buffer: None,
            writers: 0,
            commits: 0,
            is_read: false,
            is_viewed: false,
            changed_at: SystemTime::now(),
        };
        self.add_inode(ino, file, Inode::Write(inode));
    }

    /// A write inode without a buffer is opened to read: it gives its base, and is never written to.
    pub fn read_base(&mut self, ino: u64) {
        if let Some(inode) = self.write_inode_mut(ino) {
            inode.is_read = true;
        }
    }

    /// A write inode with a buffer is opened to read: the reader sees what is written.
    pub fn view(&mut self, ino: u64) {
        if let Some(inode) = self.write_inode_mut(ino)
            && !inode.is_viewed
        {
            inode.is_viewed = true;
            self.record(Record::Viewed(ino));
        }
    }

    // Buffers.

    pub(super) fn start_buffer(&mut self, ino: u64, opener: &Opener) {
        let Some(inode) = self.write_inode_mut(ino) else {
            return;
        };
        match &mut inode.buffer {
            None => {
                inode.buffer = Some(Buffer {
                    data: inode
                        .base
                        .as_ref()
                        .map(|base| SecretBuffer::new(base.as_bytes()))
                        .map_err(|missing| *missing),
                    changes: 0,
                    committed: 0,
                    opener: opener.clone(),
                    is_flushed: false,
                    is_closed: false,
                    is_killed: false,
                    synced: None,
                    mtime: None,
                });
            }
            // Nobody else has it open to write, so it belongs to this opener from now on.
            Some(buffer) if buffer.is_closed || buffer.is_killed || inode.writers == 0 => {
                buffer.opener = opener.clone();
                buffer.is_flushed = false;
                buffer.is_closed = false;
                buffer.is_killed = false;
            }
            Some(_) => {}
        }
        self.record_buffer(ino);
    }

    pub(super) fn record_buffer(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer(ino) {
            let record = BufferRecord::of(ino, buffer);
            self.record(Record::Buffer(record));
        }
    }

    /// Opens an inode to write.
    pub fn open_writer(&mut self, ino: u64, opener: &Opener, request: u64) -> u64 {
        self.start_buffer(ino, opener);
        let vanished = self.file_of(ino).filter(|number| {
            let file = self.files.get(number);
            file.is_some_and(|file| file.has_vanished && file.dir_entry.is_none())
        });
        if let Some(file) = vanished
            && let Some(dir_entry) = self.last_dir_entry(ino).cloned()
        {
            if self.buffer(ino).is_some_and(Buffer::is_unknown) {
                self.supply_base(ino, Ok(SecretValue::new("")));
            }
            self.make_pending(file, &dir_entry, ino, opener.process);
        }
        let handle = Handle::Write {
            ino,
            request,
            last_write: None,
        };
        self.open(handle)
    }

    /// Opens what a generated file holds now.
    pub fn open_snapshot(&mut self, value: SecretValue, request: u64) -> u64 {
        self.open(Handle::Snapshot { request, value })
    }

    fn open(&mut self, handle: Handle) -> u64 {
        let number = self.next_number();
        self.record(Record::Handle(number, HandleRecord::of(&handle)));
        self.put_handle(number, handle);
        number
    }

    pub(super) fn put_handle(&mut self, number: u64, handle: Handle) {
        if let Handle::Write { ino, .. } = handle
            && let Some(inode) = self.write_inode_mut(ino)
        {
            inode.writers += 1;
            let file = inode.file;
            self.written.insert((file, ino));
        }
        self.handles.insert(number, handle);
    }

    /// A handle that wrote to the inode is gone; returns how many are left.
    pub(super) fn remove_writer(&mut self, ino: u64) -> Option<u32> {
        let inode = self.write_inode_mut(ino)?;
        inode.writers = inode.writers.saturating_sub(1);
        let (file, left) = (inode.file, inode.writers);
        if left == 0 {
            self.written.remove(&(file, ino));
        }
        Some(left)
    }

    /// An open file.
    pub fn handle(&self, number: u64) -> Option<&Handle> {
        self.handles.get(&number)
    }

    /// The open file of a request that the kernel sends again.
    pub fn opened_by(&self, request: u64) -> Option<(u64, &Handle)> {
        let mut handles = self.handles.iter();
        handles.find_map(|(number, handle)| {
            let (Handle::Write { request: by, .. } | Handle::Snapshot { request: by, .. }) = handle;
            (*by == request).then_some((*number, handle))
        })
    }

    /// The inode that a handle writes to.
    pub fn written_by(&self, handle: u64) -> Option<u64> {
        match self.handles.get(&handle)? {
            Handle::Write { ino, .. } => Some(*ino),
            Handle::Snapshot { .. } => None,
        }
    }

    pub(super) fn mark_dirty(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.changes += 1;
            self.record_buffer(ino);
        }
    }

    /// Sets what a writer's file held, which was not known at its open. A buffer that was truncated to nothing before
    /// keeps what was written since.
    pub fn supply_base(&mut self, ino: u64, base: Result<SecretValue, Unavailable>) {
        let Some(inode) = self.write_inode_mut(ino) else {
            return;
        };
        inode.base = base.clone();
        let is_missing = inode
            .buffer
            .as_ref()
            .is_some_and(|buffer| buffer.data.is_err());
        if is_missing {
            let data = base.map(|base| SecretBuffer::new(base.as_bytes()));
            if let Ok(data) = &data {
                let bytes = SecretBuffer::new(data.as_bytes());
                self.record(Record::Write { ino, at: 0, bytes });
            }
            if let Some(buffer) = self.buffer_mut(ino) {
                buffer.data = data;
            }
        }
    }

    /// Writes into an inode's buffer, and remembers the request, so that a resend is not written twice.
    pub fn write(&mut self, handle: u64, request: u64, at: usize, bytes: &[u8]) {
        let Some(ino) = self.written_by(handle) else {
            return;
        };
        self.write_bytes(ino, at, bytes);
        let count = bytes.len() as u32;
        if let Some(Handle::Write { last_write, .. }) = self.handles.get_mut(&handle) {
            *last_write = Some((request, count));
            self.record(Record::Wrote {
                handle,
                request,
                count,
            });
        }
    }

    pub(super) fn write_bytes(&mut self, ino: u64, at: usize, bytes: &[u8]) {
        if let Some(inode) = self.write_inode_mut(ino)
            && let Some(buffer) = &mut inode.buffer
            && let Ok(data) = &mut buffer.data
        {
            data.write_at(at, bytes);
            buffer.changes += 1;
            buffer.is_flushed = false;
            inode.changed_at = SystemTime::now();
            let bytes = SecretBuffer::new(bytes);
            self.record(Record::Write {
                ino,
                at: at as u64,
                bytes,
            });
        }
    }

    /// Cuts a buffer, or extends it with zeros. For length 0 what the file held need not be known.
    ///
    /// # Errors
    /// Why the bytes before that are not known.
    pub fn set_len(&mut self, ino: u64, len: usize) -> Result<(), Unavailable> {
        let Some(buffer) = self.buffer_mut(ino) else {
            return Ok(());
        };
        match &mut buffer.data {
            Ok(data) => data.set_len(len),
            data if len == 0 => *data = Ok(SecretBuffer::new(b"")),
            Err(missing) => return Err(*missing),
        }
        buffer.changes += 1;
        buffer.is_flushed = false;
        if let Some(inode) = self.write_inode_mut(ino) {
            inode.changed_at = SystemTime::now();
        }
        self.record(Record::SetLen {
            ino,
            len: len as u64,
        });
        Ok(())
    }

    /// Marks a buffer as failed: nothing of it may be committed unless it is truncated to nothing.
    pub fn taint(&mut self, ino: u64, errno: i32) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.data = Err(Unavailable::Failed(errno));
            buffer.changes += 1;
            self.record(Record::Tainted(ino, errno));
        }
    }

    /// Remembers what a buffer holds at fsync, so that a rename can commit it at once.
    pub fn sync(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino)
            && buffer.is_dirty()
            && let Ok(data) = &buffer.data
        {
            buffer.synced = Some(SecretBuffer::new(data.as_bytes()));
            self.record(Record::Synced(ino));
        }
    }

    /// Sets the modification time that the content gets when it is committed.
    pub fn set_buffer_mtime(&mut self, ino: u64, mtime: SystemTime) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.mtime = Some(mtime);
            self.record_buffer(ino);
        }
    }
}
