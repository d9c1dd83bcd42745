//! Writers: their inodes and buffers, the handles through which they write, files that have no first value yet, and
//! which buffers a close commits.

use std::time::SystemTime;

use super::Place;
use super::record::{BufferRecord, HandleRecord, Record};
use super::state::{Missing, Node, State};
use crate::process::Process;
use crate::secret::{SecretBuffer, SecretValue};

/// Who opened a file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opener {
    /// The process.
    pub process: Process,
    /// Its user.
    pub uid: u32,
    /// Its program, for the audit trail.
    pub program: Option<String>,
}

/// What a writer has written.
#[derive(Debug)]
pub struct Buffer {
    /// The bytes.
    pub data: Result<SecretBuffer, Missing>,
    /// The number of changes made to it.
    pub changes: u64,
    /// The number of changes that have been committed.
    pub committed: u64,
    /// Who opened it.
    pub opener: Opener,
    /// The opener has closed a descriptor since it wrote last. Where it has not, another of its threads may just be
    /// opening the file.
    pub is_flushed: bool,
    /// The opener has closed its last descriptor.
    pub is_closed: bool,
    /// A signal killed the opener before it closed its last descriptor.
    pub is_killed: bool,
    /// What it held when it was last fsynced, if that was after the last commit.
    pub synced: Option<SecretBuffer>,
    /// The modification time that was set.
    pub mtime: Option<SystemTime>,
}

impl Buffer {
    /// Whether it has changes that are not committed.
    pub fn is_touched(&self) -> bool {
        self.changes != self.committed
    }

    /// Whether a provider must be asked for what it began with.
    fn is_unknown(&self) -> bool {
        matches!(self.data, Err(Missing::Unknown))
    }
}

/// A writer's inode, or a scratch file's.
#[derive(Debug)]
pub struct WriteInode {
    /// The file it belongs to.
    pub entry: u64,
    /// What the file held when the inode was made.
    pub base: Result<SecretValue, Missing>,
    /// `None`: nobody has opened it to write yet.
    pub buffer: Option<Buffer>,
    /// How many handles write to it.
    pub writers: u32,
    /// How many commits of it are under way.
    pub commits: u32,
    /// It was opened to read, and the kernel keeps pages with `base`: nobody may write to it any more.
    pub is_read: bool,
    /// Its buffer was opened to read, and stays for those readers when nobody writes to it any more.
    pub is_viewed: bool,
    /// When its bytes last changed.
    pub changed_at: SystemTime,
}

impl WriteInode {
    /// Whether a handle or a commit needs it.
    pub(super) fn is_held(&self) -> bool {
        self.writers > 0 || self.commits > 0
    }

    /// How many bytes it keeps.
    pub(super) fn bytes_held(&self) -> usize {
        let base = self.base.as_ref().map_or(0, SecretValue::len);
        let buffer = self.buffer.as_ref().map_or(0, |buffer| {
            let data = buffer.data.as_ref().map_or(0, SecretBuffer::len);
            data + buffer.synced.as_ref().map_or(0, SecretBuffer::len)
        });
        base + buffer
    }

    /// Its length in bytes; 0 where that is not known.
    pub fn len(&self) -> usize {
        match &self.buffer {
            Some(buffer) => buffer.data.as_ref().map_or(0, SecretBuffer::len),
            None => self.base.as_ref().map_or(0, SecretValue::len),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its opener has written to it and not closed it.
    pub fn is_unclosed(&self) -> bool {
        self.writers > 0
            && self
                .buffer
                .as_ref()
                .is_some_and(|buffer| !buffer.is_closed && !buffer.is_killed && buffer.is_touched())
    }
}

/// An open file with a handle number. Readers of versions have none, because the inode is enough.
#[derive(Debug)]
pub enum Handle {
    /// It writes to this inode.
    Write {
        /// The inode.
        ino: u64,
        /// The request that opened it.
        request: u64,
        /// The last write request and how many bytes it wrote, as the kernel may send it again.
        last_write: Option<(u64, u32)>,
    },
    /// It reads what a generated file held when it was opened.
    Snapshot {
        /// The request that opened it.
        request: u64,
        /// The bytes.
        value: SecretValue,
    },
}

impl State {
    /// A writer's inode.
    pub fn write_inode(&self, ino: u64) -> Option<&WriteInode> {
        match self.nodes.get(&ino)? {
            Node::Write(node) => Some(node),
            Node::Version(_) => None,
        }
    }

    pub(super) fn write_inode_mut(&mut self, ino: u64) -> Option<&mut WriteInode> {
        match self.nodes.get_mut(&ino)? {
            Node::Write(node) => Some(node),
            Node::Version(_) => None,
        }
    }

    /// What was written to an inode.
    pub fn buffer(&self, ino: u64) -> Option<&Buffer> {
        self.write_inode(ino)?.buffer.as_ref()
    }

    fn buffer_mut(&mut self, ino: u64) -> Option<&mut Buffer> {
        self.write_inode_mut(ino)?.buffer.as_mut()
    }

    /// A new inode of a file for one opener, to write or to read what the file holds now.
    pub fn new_write_inode(&mut self, entry: u64, base: Result<SecretValue, Missing>) -> u64 {
        let ino = self.number();
        self.record(Record::WriteInode {
            ino,
            entry,
            base: base.clone().ok(),
        });
        self.put_write_inode(ino, entry, base);
        ino
    }

    pub(super) fn put_write_inode(
        &mut self,
        ino: u64,
        entry: u64,
        base: Result<SecretValue, Missing>,
    ) {
        let node = WriteInode {
            entry,
            base,
            buffer: None,
            writers: 0,
            commits: 0,
            is_read: false,
            is_viewed: false,
            changed_at: SystemTime::now(),
        };
        self.add_node(ino, entry, Node::Write(node));
    }

    /// Creates a file that only its maker sees until it has a first value.
    pub fn create(&mut self, place: &Place, maker: &Opener) -> u64 {
        let entry = self.new_entry(place);
        let ino = self.new_write_inode(entry, Ok(SecretValue::new("")));
        self.pend(entry, place, ino, maker.process);
        self.start_buffer(ino, maker);
        // An empty file that is created and closed is a value, too.
        self.touch(ino);
        ino
    }

    /// Creates a scratch file that holds these bytes.
    pub fn create_scratch(&mut self, place: &Place, maker: &Opener, bytes: &[u8]) -> u64 {
        self.unlink(place);
        let entry = self.new_entry(place);
        let ino = self.new_write_inode(entry, Ok(SecretValue::new("")));
        self.start_buffer(ino, maker);
        self.write_bytes(ino, 0, bytes);
        self.names.insert(place.clone(), entry);
        self.change_entry(entry, |entry| {
            entry.place = Some(place.clone());
            entry.is_scratch = true;
            entry.own = Some(ino);
        });
        ino
    }

    /// An inode without a buffer is opened to read what its file held.
    pub fn read_base(&mut self, ino: u64) {
        if let Some(node) = self.write_inode_mut(ino) {
            node.is_read = true;
        }
    }

    /// An inode with a buffer is opened to read.
    pub fn view(&mut self, ino: u64) {
        if let Some(node) = self.write_inode_mut(ino)
            && !node.is_viewed
        {
            node.is_viewed = true;
            self.record(Record::Viewed(ino));
        }
    }

    // Files without a first value.

    /// Makes a file pending: from now on only this process sees it.
    pub fn pend(&mut self, entry: u64, place: &Place, own: u64, process: Process) {
        self.leave_name(entry);
        self.pending.entry(place.clone()).or_default().push(entry);
        let old = self.entries.get(&entry).and_then(|entry| entry.current);
        self.change_entry(entry, |entry| {
            entry.place = Some(place.clone());
            entry.go_to(place);
            entry.own = Some(own);
            entry.pending = Some(process);
            entry.has_vanished = false;
            entry.is_scratch = false;
            entry.current = None;
        });
        if let Some(old) = old {
            self.drop_if_unused(old);
        }
    }

    /// Whether a file of this name is pending.
    pub fn is_pending(&self, place: &Place) -> bool {
        self.pending.contains_key(place)
    }

    /// The file of this name that the process is making.
    pub fn pending_of(
        &self,
        place: &Place,
        process: impl FnOnce() -> Option<Process>,
    ) -> Option<u64> {
        let pending = self.pending.get(place)?;
        let process = process()?;
        let is_its = |entry: &&u64| {
            self.entries
                .get(entry)
                .is_some_and(|entry| entry.pending == Some(process))
        };
        pending.iter().find(is_its).copied()
    }

    fn unlist_pending(&mut self, entry: u64) {
        let Some(place) = self
            .entries
            .get(&entry)
            .and_then(|entry| entry.place.clone())
        else {
            return;
        };
        if let Some(pending) = self.pending.get_mut(&place) {
            pending.retain(|pending| *pending != entry);
            if pending.is_empty() {
                self.pending.remove(&place);
            }
        }
    }

    /// Gives up a pending file: it never appears.
    pub fn abandon(&mut self, entry: u64) {
        self.unlist_pending(entry);
        self.change_entry(entry, |entry| {
            entry.pending = None;
            entry.place = None;
        });
        self.drop_unused(entry);
    }

    /// Renames a pending file; it stays pending.
    pub fn move_pending(&mut self, entry: u64, to: &Place) {
        self.unlist_pending(entry);
        self.pending.entry(to.clone()).or_default().push(entry);
        self.change_entry(entry, |entry| {
            entry.place = Some(to.clone());
            entry.go_to(to);
        });
    }

    /// Takes the file out from under the name that everybody sees it by, if it has one.
    fn leave_name(&mut self, entry: u64) {
        if let Some(from) = self
            .entries
            .get(&entry)
            .and_then(|entry| entry.place.as_ref())
            && self.names.get(from) == Some(&entry)
        {
            self.names.remove(from);
        }
    }

    /// Shows the file to everybody, in the place of the one that had the name.
    pub fn publish(&mut self, entry: u64, place: &Place) {
        if self.named(place) == Some(entry)
            && self
                .entries
                .get(&entry)
                .is_some_and(|entry| entry.pending.is_none() && !entry.is_scratch)
        {
            return;
        }
        self.unlist_pending(entry);
        self.leave_name(entry);
        let is_renamed = self
            .entries
            .get(&entry)
            .is_some_and(|entry| entry.earlier.is_some() || entry.is_scratch);
        match is_renamed {
            true => self.unlink(place),
            // Two made the name at the same time: writers of the other one's file go on writing it.
            false => self.vanish(place),
        }
        self.names.insert(place.clone(), entry);
        self.change_entry(entry, |entry| {
            entry.place = Some(place.clone());
            entry.go_to(place);
            entry.own = None;
            entry.pending = None;
            entry.is_scratch = false;
        });
    }

    /// Makes a file a scratch file of this name, which keeps its buffer.
    pub fn become_scratch(&mut self, entry: u64, place: &Place) {
        let own = self.entries.get(&entry).and_then(|entry| entry.own);
        self.publish(entry, place);
        self.change_entry(entry, |entry| {
            entry.own = own;
            entry.is_scratch = true;
        });
    }

    // Buffers.

    fn start_buffer(&mut self, ino: u64, opener: &Opener) {
        let Some(node) = self.write_inode_mut(ino) else {
            return;
        };
        match &mut node.buffer {
            None => {
                node.buffer = Some(Buffer {
                    data: node
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
            Some(buffer) if buffer.is_closed || buffer.is_killed || node.writers == 0 => {
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
        let vanished = self.entry_of(ino).filter(|number| {
            let entry = self.entries.get(number);
            entry.is_some_and(|entry| entry.has_vanished && entry.place.is_none())
        });
        if let Some(entry) = vanished
            && let Some(place) = self.last_place(ino).cloned()
        {
            if self.buffer(ino).is_some_and(Buffer::is_unknown) {
                self.supply_base(ino, Ok(SecretValue::new("")));
            }
            self.pend(entry, &place, ino, opener.process);
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
        let number = self.number();
        self.record(Record::Handle(number, HandleRecord::of(&handle)));
        self.put_handle(number, handle);
        number
    }

    pub(super) fn put_handle(&mut self, number: u64, handle: Handle) {
        if let Handle::Write { ino, .. } = handle
            && let Some(node) = self.write_inode_mut(ino)
        {
            node.writers += 1;
        }
        self.handles.insert(number, handle);
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

    fn touch(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.changes += 1;
            self.record_buffer(ino);
        }
    }

    /// Sets what a writer's file held, which was not known at its open. A buffer that was truncated to nothing before
    /// keeps what was written since.
    pub fn supply_base(&mut self, ino: u64, base: Result<SecretValue, Missing>) {
        let Some(node) = self.write_inode_mut(ino) else {
            return;
        };
        node.base = base.clone();
        let is_missing = node
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

    fn write_bytes(&mut self, ino: u64, at: usize, bytes: &[u8]) {
        if let Some(node) = self.write_inode_mut(ino)
            && let Some(buffer) = &mut node.buffer
            && let Ok(data) = &mut buffer.data
        {
            data.write_at(at, bytes);
            buffer.changes += 1;
            buffer.is_flushed = false;
            node.changed_at = SystemTime::now();
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
    pub fn set_len(&mut self, ino: u64, len: usize) -> Result<(), Missing> {
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
        if let Some(node) = self.write_inode_mut(ino) {
            node.changed_at = SystemTime::now();
        }
        self.record(Record::SetLen {
            ino,
            len: len as u64,
        });
        Ok(())
    }

    /// Marks a buffer as failed: nothing of it may be committed unless it is truncated to nothing.
    pub fn spoil(&mut self, ino: u64, errno: i32) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.data = Err(Missing::Failed(errno));
            buffer.changes += 1;
            self.record(Record::Spoilt(ino, errno));
        }
    }

    /// Remembers what a buffer holds at fsync, so that a rename can commit it at once.
    pub fn sync(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino)
            && buffer.is_touched()
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

    // Closing.

    /// The opener was killed: its buffer is never committed.
    pub fn kill(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.is_killed = true;
            self.record_buffer(ino);
        }
    }

    /// The opener has closed a descriptor of this inode.
    pub fn flushed(&mut self, ino: u64) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.is_flushed = true;
        }
    }

    /// The opener has closed its last descriptor of the file of this inode: all that it has written to the file and
    /// closed is to be committed, in the order of opening.
    pub fn close(&mut self, ino: u64) -> Vec<u64> {
        self.flushed(ino);
        let Some((entry, process)) = self
            .write_inode(ino)
            .and_then(|node| Some((node.entry, node.buffer.as_ref()?.opener.process)))
        else {
            return Vec::new();
        };
        let is_its = |node: &WriteInode| {
            node.entry == entry
                && node.writers > 0
                && node
                    .buffer
                    .as_ref()
                    .is_some_and(|buffer| buffer.opener.process == process && buffer.is_flushed)
        };
        let mut closed: Vec<u64> = self
            .handles
            .values()
            .filter_map(|handle| match handle {
                Handle::Write { ino, .. } => Some(*ino),
                Handle::Snapshot { .. } => None,
            })
            .filter(|ino| self.write_inode(*ino).is_some_and(is_its))
            .collect();
        closed.sort_unstable();
        closed.dedup();
        for ino in &closed {
            if let Some(buffer) = self.buffer_mut(*ino) {
                buffer.is_closed = true;
                self.record_buffer(*ino);
            }
        }
        let is_touched = |ino: &u64| {
            self.buffer(*ino)
                .is_some_and(|b| b.is_touched() && !b.is_killed)
        };
        closed.retain(is_touched);
        closed.iter().for_each(|ino| self.begin_commit(*ino));
        closed
    }

    /// Drops a handle. If it was the last writer of an inode that has something to commit, begins that commit and returns
    /// the inode.
    pub fn release(&mut self, handle: u64, is_alive: impl FnOnce(Process) -> bool) -> Option<u64> {
        let released = self.handles.remove(&handle)?;
        self.record(Record::HandleGone(handle));
        let Handle::Write { ino, .. } = released else {
            return None;
        };
        let node = self.write_inode_mut(ino)?;
        node.writers = node.writers.saturating_sub(1);
        if node.writers > 0 {
            return None;
        }
        let entry = node.entry;
        let is_scratch = self
            .entries
            .get(&entry)
            .is_some_and(|entry| entry.is_scratch);
        // An opener that is gone and never closed was killed while its close was on the way.
        let is_left = self.buffer(ino).is_some_and(|buffer| {
            buffer.is_touched()
                && !buffer.is_killed
                && (buffer.is_closed || buffer.is_flushed || is_alive(buffer.opener.process))
        });
        if is_left && !is_scratch {
            // The next server goes on with it if this one ends before it is done.
            if let Some(buffer) = self.buffer_mut(ino) {
                buffer.is_closed = true;
                self.record_buffer(ino);
            }
            self.begin_commit(ino);
            return Some(ino);
        }
        self.retire(ino);
        None
    }

    /// Gives up an inode that nobody writes to and that has nothing to commit.
    fn retire(&mut self, ino: u64) {
        let Some(node) = self.write_inode(ino) else {
            return;
        };
        if node.is_held() {
            return;
        }
        let entry = node.entry;
        let is_pending = self
            .entries
            .get(&entry)
            .is_some_and(|entry| entry.pending.is_some() && entry.own == Some(ino));
        if is_pending {
            // A name that never got a value is gone with its last writer.
            self.abandon(entry);
        }
        let is_own = self
            .entries
            .get(&entry)
            .is_some_and(|entry| entry.own == Some(ino) && entry.place.is_some());
        if !is_own && let Some(node) = self.write_inode_mut(ino) {
            // The kernel may remember the inode for long, but no name leads to it any more.
            match node.is_viewed {
                true => node.is_read = true,
                false => {
                    node.buffer = None;
                    node.base = Err(Missing::Failed(libc::ESTALE));
                }
            }
        }
        self.drop_if_unused(ino);
    }

    /// Begins a commit of the inode, which lasts until [`end_commit`](Self::end_commit).
    pub fn begin_commit(&mut self, ino: u64) {
        if let Some(node) = self.write_inode_mut(ino) {
            node.commits += 1;
        }
    }

    /// The first `changes` changes of a buffer need no further commit: they were committed, or their commit failed and
    /// `close` returned the error.
    pub fn committed(&mut self, ino: u64, changes: u64) {
        if let Some(buffer) = self.buffer_mut(ino) {
            buffer.committed = buffer.committed.max(changes);
            if buffer.changes == changes {
                buffer.synced = None;
            }
            self.record_buffer(ino);
        }
    }

    /// Ends a commit that [`close`](Self::close) or [`release`](Self::release) began.
    pub fn end_commit(&mut self, ino: u64) {
        if let Some(node) = self.write_inode_mut(ino) {
            node.commits = node.commits.saturating_sub(1);
        }
        if self.write_inode(ino).is_some_and(|node| node.writers == 0) {
            self.retire(ino);
        }
    }

    /// The inode of this file that the process has written to and not closed; the newest if there are several.
    pub fn unclosed_by(&self, entry: u64, process: Process) -> Option<u64> {
        let inodes = self.nodes.iter().filter(|(_, node)| match node {
            Node::Write(node) => {
                node.entry == entry
                    && node.is_unclosed()
                    && node
                        .buffer
                        .as_ref()
                        .is_some_and(|buffer| buffer.opener.process == process)
            }
            Node::Version(_) => false,
        });
        inodes.map(|(ino, _)| *ino).max()
    }

    /// Takes a name away from everybody. A file that somebody is writing becomes pending: the close makes it.
    pub fn vanish(&mut self, place: &Place) {
        let Some(entry) = self.named(place) else {
            return;
        };
        let writers = self.nodes.iter().filter_map(|(ino, node)| match node {
            Node::Write(node) if node.entry == entry && node.is_held() => {
                let buffer = node.buffer.as_ref()?;
                // If its opener made it by opening it, who inherited it may still write to it.
                let is_new = node.base.as_ref().map_or(true, SecretValue::is_empty);
                let is_open = !buffer.is_closed || (is_new && buffer.changes == 0);
                let is_wanted = !buffer.is_killed && (is_open || buffer.is_touched());
                is_wanted.then_some((*ino, buffer.opener.process, buffer.is_unknown()))
            }
            _ => None,
        });
        let writers: Vec<(u64, Process, bool)> = writers.collect();
        for (ino, _, _) in writers.iter().filter(|(_, _, is_unknown)| *is_unknown) {
            // Wherever it is renamed to, it began with nothing.
            self.supply_base(*ino, Ok(SecretValue::new("")));
        }
        match writers.into_iter().max_by_key(|(ino, ..)| *ino) {
            Some((own, process, _)) => self.pend(entry, place, own, process),
            None => {
                self.unlink(place);
                if let Some(known) = self.entries.get_mut(&entry) {
                    known.has_vanished = true;
                    self.record(Record::Vanished(entry));
                }
            }
        }
    }

    /// Begins the commits that an earlier server left: inodes that nobody has open and that have something to commit, in
    /// the order of opening.
    pub(super) fn resume_commits(&mut self) -> Vec<u64> {
        let is_left = |node: &Node| match node {
            Node::Write(node) => {
                node.writers == 0
                    && !self
                        .entries
                        .get(&node.entry)
                        .is_some_and(|entry| entry.is_scratch)
                    && node.buffer.as_ref().is_some_and(|buffer| {
                        buffer.is_touched() && buffer.is_closed && !buffer.is_killed
                    })
            }
            Node::Version(_) => false,
        };
        let nodes = self.nodes.iter().filter(|(_, node)| is_left(node));
        let mut left: Vec<u64> = nodes.map(|(ino, _)| *ino).collect();
        left.sort_unstable();
        left.iter().for_each(|ino| self.begin_commit(*ino));
        left
    }
}
