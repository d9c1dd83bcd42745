//! SETATTR: truncate(2) and ftruncate(2), utimensat(2), chmod(2) and chown(2).

use std::time::SystemTime;

use super::commit::{Commit, Commits};
use super::kind::FileKind;
use super::lookup::freshness_after;
use super::resolved::{Freshness, Resolved};
use super::write::{MAX_SCRATCH, scratch_is_full};
use super::{Attr, Caller, OpError, Tree};
use crate::secret::SecretBuffer;
use crate::versions::{Inode, State, Unavailable};

/// What setattr is to change; `None`: leave it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Modification time.
    pub mtime: Option<SystemTime>,
}

/// The outcome of [`Tree::set_attr`].
#[derive(Debug)]
pub enum AttrChanged {
    /// It is done.
    Done(Attr),
    /// A truncation by name is a whole write: it is done when this is committed, and these attributes are its answer.
    Commit(Commits, Attr),
}

impl Tree {
    /// Changes the length or the modification time. A mode or an owner may only be set to the present one; for a file that
    /// its maker is still writing any is accepted, and the present one stays.
    ///
    /// # Errors
    /// EPERM for other modes and owners; EFBIG; EACCES; why the content to truncate cannot be read.
    pub fn set_attr(
        &self,
        caller: &Caller,
        ino: u64,
        handle: Option<u64>,
        change: AttrChange,
        has_waited: bool,
    ) -> Result<AttrChanged, OpError> {
        self.check_caller_of(caller, ino)?;
        let present = self.attr(caller, ino, has_waited);
        let mut state = self.state();
        if !self.is_being_written(&state, ino) {
            let mode = match (&present, self.layout.dir(ino)) {
                (Ok(attr), _) => attr.mode,
                (_, Some(dir)) => dir.mode(),
                _ => 0o600,
            };
            let differs = change.mode.is_some_and(|to| to & 0o7777 != u32::from(mode))
                || change.uid.is_some_and(|uid| uid != self.owner.uid)
                || change.gid.is_some_and(|gid| gid != self.owner.gid);
            if differs {
                return Err(OpError::Errno(libc::EPERM));
            }
        }
        if let Some(size) = change.size
            && let Some(commit) =
                self.set_size(&mut state, caller, ino, handle, size, has_waited)?
        {
            let attr = match state.inode(ino) {
                Some(_) => self.inode_attr(&state, ino),
                None => self.file_attr(ino, 0o600, 0, self.started_at()),
            };
            return Ok(AttrChanged::Commit(commit, attr));
        }
        if let Some(mtime) = change.mtime {
            self.set_mtime(&mut state, ino, mtime);
        }
        drop(state);
        Ok(AttrChanged::Done(self.attr(caller, ino, has_waited)?))
    }

    /// Whether an inode's file is a scratch file, or a process is still writing it.
    fn is_being_written(&self, state: &State, ino: u64) -> bool {
        let Some(inode) = state.write_inode(ino) else {
            return false;
        };
        let file = state.file(inode.file);
        inode.writers > 0 || file.is_some_and(|file| file.is_scratch || file.pending.is_some())
    }

    fn set_mtime(&self, state: &mut State, ino: u64, mtime: SystemTime) {
        let fingerprint = match state.inode(ino) {
            Some(Inode::Version(version)) => version.value.fingerprint(),
            Some(Inode::Write(inode)) => {
                let is_scratch = state.file(inode.file).is_some_and(|file| file.is_scratch);
                match &inode.buffer {
                    Some(buffer) if is_scratch || buffer.is_dirty() => {
                        return state.set_buffer_mtime(ino, mtime);
                    }
                    // There is no uncommitted write, so the time of the present content is set (`touch`).
                    buffer => {
                        let data = buffer.as_ref().and_then(|buffer| buffer.data.as_ref().ok());
                        let value = match data {
                            Some(data) => data.to_value("").ok(),
                            None => inode.base.as_ref().ok().cloned(),
                        };
                        let Some(value) = value else { return };
                        value.fingerprint()
                    }
                }
            }
            None => {
                let Some(dir_entry) = state
                    .placeholder_at(ino)
                    .map(|placeholder| placeholder.dir_entry.clone())
                else {
                    return;
                };
                let kind = self.layout.kind_at(&dir_entry);
                if let Some(Resolved::Content(content)) =
                    kind.map(|kind| self.resolve(&kind, Freshness::LastKnown))
                {
                    let file = state.file_at(&dir_entry);
                    state.set_mtime(file, content.value.fingerprint(), mtime);
                    self.changed();
                }
                return;
            }
        };
        if let Some(file) = state.file_of(ino) {
            state.set_mtime(file, fingerprint, mtime);
            // The kernel may keep the old time for another inode of the same file.
            self.changed();
        }
    }

    /// Sets a length. A truncation by name without an open writer is a write of its own, and is committed at once.
    fn set_size(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        handle: Option<u64>,
        size: u64,
        has_waited: bool,
    ) -> Result<Option<Commits>, OpError> {
        if self.layout.dir(ino).is_some() {
            return Err(OpError::Errno(libc::EISDIR));
        }
        // A caller that the daemon cannot see may not write.
        self.opener(caller)?;
        // ftruncate(2) has a handle. O_TRUNC comes after OPEN, and without one.
        let by_handle = handle.and_then(|handle| state.written_by(handle));
        let write_ino = by_handle.or_else(|| self.is_being_written(state, ino).then_some(ino));
        let Some(write_ino) = write_ino else {
            return self
                .truncate(state, caller, ino, size, has_waited)
                .map(Some);
        };
        let kind = self.kind_of_inode(state, write_ino)?;
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len <= kind.limit());
        let len = len.ok_or(OpError::Errno(libc::EFBIG))?;
        if len > 0 {
            self.supply_base(state, write_ino, has_waited)?;
        }
        if kind == FileKind::Scratch {
            let present = state.write_inode(write_ino).map_or(0, |inode| inode.len());
            if len > present && state.scratch_bytes() + (len - present) > MAX_SCRATCH {
                return Err(OpError::Error(scratch_is_full(state, write_ino)));
            }
        }
        match state.set_len(write_ino, len) {
            Ok(()) => Ok(None),
            Err(Unavailable::Failed(errno)) => Err(OpError::Errno(errno)),
            Err(Unavailable::Unknown) => Err(OpError::unexpected("a truncation of unknown bytes")),
        }
    }

    /// truncate(2) by name: a write that is committed at once.
    fn truncate(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        size: u64,
        has_waited: bool,
    ) -> Result<Commits, OpError> {
        let stale = || OpError::Errno(libc::ESTALE);
        let (dir_entry, kind) = match self.layout.generated(ino) {
            Some(generated) => (generated.dir_entry.clone(), generated.kind.clone()),
            None => {
                let dir_entry = match state.last_dir_entry(ino) {
                    Some(dir_entry) => dir_entry.clone(),
                    None => state
                        .placeholder_at(ino)
                        .ok_or_else(stale)?
                        .dir_entry
                        .clone(),
                };
                let kind = self.layout.kind_at(&dir_entry).ok_or_else(stale)?;
                (dir_entry, kind)
            }
        };
        if !kind.is_writable() {
            return Err(OpError::Errno(libc::EACCES));
        }
        let file = state.file_of(ino).and_then(|file| state.file(file));
        if file.is_some_and(|file| file.dir_entry.is_none()) {
            // No file would show it.
            return Ok(Commits::default());
        }
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len <= kind.limit());
        let len = len.ok_or(OpError::Errno(libc::EFBIG))?;
        let mut data = match self.resolve(&kind, freshness_after(has_waited)) {
            Resolved::Content(content) => SecretBuffer::new(content.value.as_bytes()),
            Resolved::Missing => return Err(OpError::Errno(libc::ENOENT)),
            // Of what cannot be read nothing is left.
            Resolved::Failed(_) if len == 0 => SecretBuffer::new(b""),
            Resolved::Failed(error) => return Err(OpError::Error(error.at(&dir_entry.name))),
            Resolved::Blocked(on) => return Err(OpError::Blocked(on)),
        };
        data.set_len(len);
        let writer = self.writer(caller);
        Ok(Commits::one(Commit::of_truncation(dir_entry, data, writer)))
    }
}
