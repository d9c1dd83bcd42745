//! OPEN and READ. An open checks the caller and records the read. It never checks whether a version is current.

use super::files::ReadMode;
use super::kind::FileKind;
use super::layout::Generated;
use super::lookup::freshness_after;
use super::resolved::{Freshness, Resolved};
use super::{Caller, OpError, Tree, WaitOn};
use crate::secret::SecretValue;
use crate::versions::{DirEntry, Handle, Inode, State, Unavailable};

/// An open file, and what the kernel may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The handle's number; 0: the inode is enough.
    pub handle: u64,
    /// The kernel may keep the inode's pages, and need not say when the file is closed.
    pub keeps_pages: bool,
}

impl Opened {
    /// Pages that never change.
    const VERSION: Self = Self {
        handle: 0,
        keeps_pages: true,
    };

    /// Read and written past the kernel's cache.
    pub(super) fn direct(handle: u64) -> Self {
        Self {
            handle,
            keeps_pages: false,
        }
    }
}

/// Whether open(2)'s flags ask for writing.
pub(super) fn to_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

const ESTALE: OpError = OpError::Errno(libc::ESTALE);

impl Tree {
    /// Opens an inode with open(2)'s flags. After a wait (`has_waited`) the last known content is good enough.
    ///
    /// # Errors
    /// ESTALE has the kernel look the name up once more. Else why the content cannot be read, or why a write cannot
    /// succeed; EACCES; EISDIR; EPERM for a writer that the daemon cannot see.
    pub fn open(
        &self,
        caller: &Caller,
        ino: u64,
        flags: i32,
        has_waited: bool,
    ) -> Result<Opened, OpError> {
        self.check_caller_of(caller, ino)?;
        if self.layout.dir(ino).is_some() {
            return Err(OpError::Errno(libc::EISDIR));
        }
        if let Some(generated) = self.layout.generated(ino) {
            return self.open_generated(caller, ino, generated, flags);
        }
        let mut state = self.state();
        if caller.is_resend
            && let Some((handle, _)) = state.opened_by(caller.request)
        {
            return Ok(Opened::direct(handle));
        }
        let is_checked = has_waited;
        // A thread is asked to retry only once: the kernel would pass a second ESTALE on to the program.
        let dir_entry = state.last_dir_entry(ino).cloned();
        let has_waited = match &dir_entry {
            Some(dir_entry) => {
                let is_retrying = state.expects_retry(caller.tid, ino);
                state.end_retries(caller.tid);
                let is_releasing = !is_retrying && self.is_releasing(dir_entry);
                if is_releasing && !has_waited && !to_write(flags) {
                    return Err(OpError::Blocked(WaitOn::Write(dir_entry.clone())));
                }
                if has_waited && !is_retrying && matches!(state.inode(ino), Some(Inode::Version(_)))
                {
                    // The write that it waited for may have made another version.
                    state.expect_retry_of_file(caller.tid, ino, dir_entry, to_write(flags));
                    return Err(ESTALE);
                }
                has_waited || is_retrying
            }
            None => has_waited,
        };
        match state.inode(ino) {
            Some(Inode::Version(version)) => {
                let value = version.value.clone();
                let dir_entry = dir_entry.ok_or(ESTALE)?;
                let kind = self.layout.kind_at(&dir_entry).ok_or(ESTALE)?;
                if to_write(flags) {
                    return Err(
                        self.ask_writer_to_retry(&mut state, caller, ino, &dir_entry, &kind)
                    );
                }
                drop(state);
                self.record_reader(caller, &kind, &value);
                Ok(Opened::VERSION)
            }
            Some(Inode::Write(_)) => {
                self.open_write_inode(&mut state, caller, ino, flags, is_checked, has_waited)
            }
            None => self.open_placeholder(&mut state, caller, ino, flags, has_waited),
        }
    }

    /// Answers a writer with ESTALE, so that its second lookup makes a write inode. A write through a version's inode would
    /// change the size for its readers.
    fn ask_writer_to_retry(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        dir_entry: &DirEntry,
        kind: &FileKind,
    ) -> OpError {
        if !kind.is_writable() {
            return OpError::Errno(libc::EACCES);
        }
        if let Err(unseen) = self.opener(caller) {
            return unseen;
        }
        state.expect_retry_of_file(caller.tid, ino, dir_entry, true);
        ESTALE
    }

    fn open_write_inode(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        flags: i32,
        is_checked: bool,
        has_waited: bool,
    ) -> Result<Opened, OpError> {
        let dir_entry = state.last_dir_entry(ino).cloned().ok_or(ESTALE)?;
        let inode = state.write_inode(ino).ok_or(ESTALE)?;
        let (has_buffer, is_read) = (inode.buffer.is_some(), inode.is_read);
        let file = state.file_of(ino).and_then(|file| state.file(file));
        let is_scratch = file.is_some_and(|file| file.is_scratch);
        let kind = match is_scratch {
            true => FileKind::Scratch,
            false => self.layout.kind_at(&dir_entry).ok_or(ESTALE)?,
        };
        if to_write(flags) {
            if is_read {
                return Err(self.ask_writer_to_retry(state, caller, ino, &dir_entry, &kind));
            }
            let opener = self.opener(caller)?;
            self.check_write(caller, &dir_entry, &kind, false, is_checked)?;
            if flags & libc::O_ACCMODE == libc::O_RDWR && flags & libc::O_TRUNC == 0 {
                self.record_read(caller, &kind);
            }
            let handle = state.open_writer(ino, &opener, caller.request);
            return Ok(Opened::direct(handle));
        }
        if has_buffer {
            // The writer, or a reader of a scratch file, sees what was written so far.
            state.view(ino);
            return Ok(Opened::direct(0));
        }
        self.supply_base(state, ino, has_waited)?;
        let value = match state.write_inode(ino).map(|inode| inode.base.clone()) {
            Some(Ok(value)) => value,
            Some(Err(Unavailable::Failed(errno))) => return Err(OpError::Errno(errno)),
            _ => return Err(ESTALE),
        };
        state.read_base(ino);
        self.record_reader(caller, &kind, &value);
        Ok(Opened::VERSION)
    }

    /// Opens a placeholder: waits for the content, makes its version, and answers ESTALE, so that the second lookup finds it. Who
    /// comes back without a lookup reads the content here.
    fn open_placeholder(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        flags: i32,
        has_waited: bool,
    ) -> Result<Opened, OpError> {
        let Some(dir_entry) = state
            .placeholder_at(ino)
            .map(|placeholder| placeholder.dir_entry.clone())
        else {
            state.expect_retry_of_any_name(caller.tid, to_write(flags));
            return Err(ESTALE);
        };
        let kind = self.layout.kind_at(&dir_entry).ok_or(ESTALE)?;
        if to_write(flags) {
            return Err(self.ask_writer_to_retry(state, caller, ino, &dir_entry, &kind));
        }
        if !has_waited && self.is_releasing(&dir_entry) {
            return Err(OpError::Blocked(WaitOn::Write(dir_entry)));
        }
        // It was told to look the name up, and did not: it has no name, but a descriptor that is only a path, or the mount of
        // one file. (Callers who share the number 0 cannot be told apart.)
        let retry = state.retry(caller.tid, &dir_entry);
        let is_back = caller.tid != 0 && retry.is_some_and(|retry| !retry.to_write);
        match self.resolve(&kind, freshness_after(has_waited || is_back)) {
            Resolved::Content(content) if is_back => {
                state.end_retries(caller.tid);
                let handle = state.open_snapshot(content.value.clone(), caller.request);
                self.record_reader(caller, &kind, &content.value);
                Ok(Opened::direct(handle))
            }
            resolved @ (Resolved::Content(_) | Resolved::Missing) => {
                // If there is no content, the second lookup gives ENOENT, and an open with O_CREAT creates.
                if let Resolved::Content(content) = resolved {
                    state.version(&dir_entry, &content.value, content.changed_at);
                }
                state.expect_retry(caller.tid, &dir_entry, false);
                Err(ESTALE)
            }
            Resolved::Failed(error) => Err(OpError::Error(error.at(&dir_entry.name))),
            Resolved::Blocked(on) => Err(OpError::Blocked(on)),
        }
    }

    fn open_generated(
        &self,
        caller: &Caller,
        ino: u64,
        generated: &Generated,
        flags: i32,
    ) -> Result<Opened, OpError> {
        let Generated {
            dir_entry,
            kind,
            read_mode,
            ..
        } = generated;
        if to_write(flags) {
            return Err(self.ask_writer_to_retry(&mut self.state(), caller, ino, dir_entry, kind));
        }
        if kind.mode() & 0o400 == 0 && caller.uid != 0 {
            return Err(OpError::Errno(libc::EACCES));
        }
        if *read_mode == ReadMode::Live {
            return Ok(Opened::direct(0));
        }
        let mut state = self.state();
        if caller.is_resend
            && let Some((handle, Handle::Snapshot { .. })) = state.opened_by(caller.request)
        {
            return Ok(Opened::direct(handle));
        }
        match self.resolve(kind, Freshness::Fresh) {
            Resolved::Content(content) => {
                let size = content.value.len();
                let handle = state.open_snapshot(content.value, caller.request);
                self.layout.opened(ino, handle, size);
                Ok(Opened::direct(handle))
            }
            Resolved::Missing => Err(OpError::Errno(libc::ENOENT)),
            Resolved::Failed(error) => Err(OpError::Error(error)),
            Resolved::Blocked(on) => Err(OpError::Blocked(on)),
        }
    }

    /// Records the read, and for a bundle, what the reader has seen of it.
    fn record_reader(&self, caller: &Caller, kind: &FileKind, value: &SecretValue) {
        self.record_read(caller, kind);
        if let FileKind::Secret(name) = kind {
            // Counts the read, and has the key refreshed before it expires.
            let _ = self.manager.look_up(name);
        }
        if let FileKind::Bundle(format) = kind
            && let Some(base) = self.base_of_document(*format, value)
            && let Some(process) = self.processes.of_thread(caller.tid)
        {
            self.put_base(process, base);
        }
    }

    /// Gives a writer's inode what its file held, if that was not known at its open.
    pub(super) fn supply_base(
        &self,
        state: &mut State,
        ino: u64,
        has_waited: bool,
    ) -> Result<(), OpError> {
        let Some(inode) = state.write_inode(ino) else {
            return Ok(());
        };
        let is_unknown = match &inode.buffer {
            Some(buffer) => matches!(buffer.data, Err(Unavailable::Unknown)),
            None => inode.base == Err(Unavailable::Unknown),
        };
        if !is_unknown {
            return Ok(());
        }
        let dir_entry = state.last_dir_entry(ino).cloned().ok_or(ESTALE)?;
        let kind = self.layout.kind_at(&dir_entry).ok_or(ESTALE)?;
        let base = match self.resolve(&kind, freshness_after(has_waited)) {
            Resolved::Content(content) => Ok(content.value),
            Resolved::Missing => Ok(SecretValue::new("")),
            Resolved::Failed(error) => Err(Unavailable::Failed(error.errno())),
            Resolved::Blocked(on) => return Err(OpError::Blocked(on)),
        };
        state.supply_base(ino, base);
        Ok(())
    }

    /// Gives `take` at most `size` bytes of an open file from `offset` on.
    ///
    /// # Errors
    /// EBADF, or why a writer's file cannot be read.
    pub fn read<T>(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        size: u32,
        has_waited: bool,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, OpError> {
        if let Some(generated) = self.layout.generated(ino)
            && generated.read_mode == ReadMode::Live
            && let Resolved::Content(content) = self.resolve(&generated.kind, Freshness::Fresh)
        {
            return Ok(take(part(content.value.as_bytes(), offset, size)));
        }
        let mut state = self.state();
        if let Some(Handle::Snapshot { value, .. }) = state.handle(handle) {
            return Ok(take(part(value.as_bytes(), offset, size)));
        }
        let ino = state.written_by(handle).unwrap_or(ino);
        self.supply_base(&mut state, ino, has_waited)?;
        match state.inode(ino) {
            Some(Inode::Version(version)) => {
                let value = version.value.clone();
                drop(state);
                Ok(take(part(value.as_bytes(), offset, size)))
            }
            Some(Inode::Write(inode)) => {
                let bytes = match &inode.buffer {
                    Some(buffer) => buffer.data.as_ref().map(|data| data.as_bytes()),
                    None => inode.base.as_ref().map(|base| base.as_bytes()),
                };
                match bytes {
                    Ok(bytes) => Ok(take(part(bytes, offset, size))),
                    Err(Unavailable::Failed(errno)) => Err(OpError::Errno(*errno)),
                    Err(Unavailable::Unknown) => {
                        Err(OpError::unexpected("a read of unknown bytes"))
                    }
                }
            }
            None if self.layout.generated(ino).is_some() => Err(OpError::unexpected(
                "a handle that was lost with a journal that could not be written",
            )),
            None => Err(OpError::Errno(libc::EBADF)),
        }
    }
}

fn part(bytes: &[u8], offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    &bytes[start..start.saturating_add(size as usize).min(bytes.len())]
}
