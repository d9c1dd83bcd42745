//! FLUSH and RELEASE: a buffer is committed when the process that opened the file closes its last writable descriptor of it.
//! `/proc` shows which process closes.

use super::commit::Commits;
use super::{Caller, Tree};
use crate::files::reserve;
use crate::process::{ExitState, WritableDescriptor};
use crate::versions::DirEntry;

impl Tree {
    /// A descriptor of the handle was closed (close(2), dup2(2), exec, exit). Returns what is to be committed before the
    /// answer; an error of the commit is what close(2) returns. It reads `/proc`, so it must not run on the thread that
    /// answers.
    pub fn close(&self, caller: &Caller, handle: u64) -> Commits {
        reserve::with(|| self.closed(caller, handle))
    }

    fn closed(&self, caller: &Caller, handle: u64) -> Commits {
        let (ino, file, opener) = {
            let state = self.state();
            let Some(ino) = state.written_by(handle) else {
                return Commits::default();
            };
            let Some(inode) = state.write_inode(ino) else {
                return Commits::default();
            };
            let Some(buffer) = &inode.buffer else {
                return Commits::default();
            };
            (ino, inode.file, buffer.opener.process.pid)
        };
        let closer = self.processes.process_of(caller.tid);
        if closer.is_some_and(|closer| closer != opener) {
            // A child closed what it inherited, which delays nothing and commits nothing.
            return Commits::default();
        }
        let has_exited = match self.processes.exit_state(caller.tid) {
            ExitState::Killed => {
                self.state().kill(ino);
                return Commits::default();
            }
            // RELEASE commits it.
            ExitState::Hidden | ExitState::Gone => return Commits::default(),
            ExitState::Running => false,
            ExitState::Exited => true,
        };
        // After CREATE, and before the first GETATTR, the kernel shows the inode's number.
        let filesystem = self.mount.lock().filesystem.clone();
        let inodes = [ino, file];
        let writable = self
            .processes
            .writable_descriptor(caller.tid, inodes, filesystem.as_ref());
        let mut state = self.state();
        match writable {
            WritableDescriptor::None => {}
            // It has written, and is no child: so it probably closes its only descriptor, and must learn whether the write
            // fails. If it writes more, its next close or RELEASE commits that.
            WritableDescriptor::Hidden if !has_exited => {
                let data = state.buffer(ino).map(|buffer| &buffer.data);
                if !matches!(data, Some(Ok(data)) if !data.is_empty()) {
                    return Commits::default();
                }
            }
            WritableDescriptor::Open | WritableDescriptor::Hidden => {
                state.flushed(ino);
                return Commits::default();
            }
        }
        let closed = state.close(ino);
        drop(state);
        Commits::of_buffers(closed)
    }

    /// close(2) returns an error before anything was committed, so what was written so far is not tried again.
    pub fn refuse_close(&self, handle: u64) {
        let mut state = self.state();
        if let Some(ino) = state.written_by(handle) {
            let changes = state.buffer(ino).map_or(0, |buffer| buffer.changes);
            state.committed(ino, changes);
        }
    }

    /// RELEASE arrived, which is answered later. If the handle may have writes that are not committed (`/proc` does not show its
    /// writer, or others went on writing), readers of the name wait from now on until [`end_release`](Self::end_release).
    pub fn begin_release(&self, handle: u64) -> Option<DirEntry> {
        let state = self.state();
        let inode = state.write_inode(state.written_by(handle)?)?;
        let buffer = inode.buffer.as_ref()?;
        let file = state.file(inode.file)?;
        if !buffer.is_dirty() || buffer.is_killed || file.is_scratch {
            return None;
        }
        let dir_entry = file.dir_entry.clone()?;
        *self.releasing.lock().entry(dir_entry.clone()).or_default() += 1;
        // The kernel must ask again for the name, so that those readers come here.
        self.names.next_epoch();
        Some(dir_entry)
    }

    /// Ends what [`begin_release`](Self::begin_release) began.
    pub fn end_release(&self, dir_entry: &DirEntry) {
        let mut releasing = self.releasing.lock();
        if let Some(count) = releasing.get_mut(dir_entry) {
            *count -= 1;
            if *count == 0 {
                releasing.remove(dir_entry);
            }
        }
    }

    /// Whether a write of the name may still be under way although its writer's close has returned.
    pub(super) fn is_releasing(&self, dir_entry: &DirEntry) -> bool {
        let releasing = self.releasing.lock();
        !releasing.is_empty() && releasing.contains_key(dir_entry)
    }

    /// Drops the handle, and returns what no close could commit. Reads `/proc`, as [`close`](Self::close) does.
    pub fn release(&self, handle: u64) -> Commits {
        self.layout.released(handle);
        let mut state = self.state();
        let is_alive = |pid| reserve::with(|| self.processes.is_alive(pid));
        let released = state.release(handle, |process| is_alive(process.pid));
        Commits::of_buffers(released)
    }
}
