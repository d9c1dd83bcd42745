//! Which buffers a close commits, and what becomes of a writer's inode after its last handle is gone.

use super::inode::{Handle, Inode, Unavailable, WriteInode};
use super::record::Record;
use super::state::State;
use crate::process::Process;

impl State {
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
        let Some((file, process)) = self
            .write_inode(ino)
            .and_then(|inode| Some((inode.file, inode.buffer.as_ref()?.opener.process)))
        else {
            return Vec::new();
        };
        let is_its = |inode: &WriteInode| {
            let buffer = inode.buffer.as_ref();
            buffer.is_some_and(|buffer| buffer.opener.process == process && buffer.is_flushed)
        };
        let mut closed: Vec<u64> = self
            .written_inodes(file)
            .filter(|ino| self.write_inode(*ino).is_some_and(is_its))
            .collect();
        for ino in &closed {
            if let Some(buffer) = self.buffer_mut(*ino) {
                buffer.is_closed = true;
                self.record_buffer(*ino);
            }
        }
        let is_dirty = |ino: &u64| {
            self.buffer(*ino)
                .is_some_and(|b| b.is_dirty() && !b.is_killed)
        };
        closed.retain(is_dirty);
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
        if self.remove_writer(ino)? > 0 {
            return None;
        }
        let is_scratch = self.is_scratch_inode(ino);
        // An opener that is gone and never closed was killed while its close was on the way.
        let is_left = self.buffer(ino).is_some_and(|buffer| {
            buffer.is_dirty()
                && !buffer.is_killed
                && (buffer.is_closed || buffer.is_flushed || is_alive(buffer.opener.process))
        });
        if is_left && !is_scratch {
            // If this server ends before the commit is done, the next one continues it.
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

    /// Drops what a write inode holds once it has no writer and nothing to commit.
    fn retire(&mut self, ino: u64) {
        let Some(inode) = self.write_inode(ino) else {
            return;
        };
        if inode.is_held() {
            return;
        }
        let file = inode.file;
        let is_pending = self
            .files
            .get(&file)
            .is_some_and(|file| file.pending.is_some() && file.write_ino == Some(ino));
        if is_pending {
            // A name that never got a value is gone with its last writer.
            self.abandon(file);
        }
        let is_own = self
            .files
            .get(&file)
            .is_some_and(|file| file.write_ino == Some(ino) && file.dir_entry.is_some());
        if !is_own && let Some(inode) = self.write_inode_mut(ino) {
            // The kernel may remember the inode for long, but no name leads to it any more.
            match inode.is_viewed {
                true => inode.is_read = true,
                false => {
                    let bytes = inode.bytes_held();
                    inode.buffer = None;
                    inode.base = Err(Unavailable::Failed(libc::ESTALE));
                    self.shrunk_by(bytes);
                }
            }
        }
        self.drop_if_unused(ino);
    }

    /// Begins a commit of the inode, which lasts until [`end_commit`](Self::end_commit).
    pub fn begin_commit(&mut self, ino: u64) {
        if let Some(inode) = self.write_inode_mut(ino) {
            inode.commits += 1;
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
        if let Some(inode) = self.write_inode_mut(ino) {
            inode.commits = inode.commits.saturating_sub(1);
        }
        if self
            .write_inode(ino)
            .is_some_and(|inode| inode.writers == 0)
        {
            self.retire(ino);
        }
    }

    /// Begins the commits that an earlier server left: inodes that no process has open and that have something to commit, in
    /// the order of opening.
    pub(super) fn resume_commits(&mut self) -> Vec<u64> {
        let is_left = |ino: u64, inode: &Inode| match inode {
            Inode::Write(inode) => {
                inode.writers == 0
                    && !self.is_scratch_inode(ino)
                    && inode.buffer.as_ref().is_some_and(|buffer| {
                        buffer.is_dirty() && buffer.is_closed && !buffer.is_killed
                    })
            }
            Inode::Version(_) => false,
        };
        let inodes = self
            .inodes
            .iter()
            .filter(|(ino, inode)| is_left(**ino, inode));
        let mut left: Vec<u64> = inodes.map(|(ino, _)| *ino).collect();
        left.sort_unstable();
        left.iter().for_each(|ino| self.begin_commit(*ino));
        left
    }
}
