//! Writing: an inode for each writer, with a buffer that nobody else sees before it is committed.

use std::time::{Duration, SystemTime};

use super::close::{Commit, Commits};
use super::content::{Freshness, Resolved};
use super::layout::{Dir, File, is_sed_name};
use super::lookup::waited;
use super::open::Opened;
use super::{Attr, Caller, Found, OpError, Tree};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::secret::{SecretBuffer, SecretName, SecretValue};
use crate::simpletuner_db::check_provider_name;
use crate::versions::{Handle, Missing, Node, Place, State};

/// The most bytes that all scratch files may hold together.
const MAX_SCRATCH: usize = 64 * 1024 * 1024;

/// What setattr is to change; `None`: leave it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
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

/// What became of a setattr.
#[derive(Debug)]
pub enum Changed {
    /// It is done.
    Done(Attr),
    /// A truncation by name is a whole write: it is done when this is committed, and these attributes are its answer.
    Commit(Commits, Attr),
}

/// Why no file of this name can be made in `config/`.
pub(super) fn not_a_config(name: &str) -> OpError {
    let problem = match name.strip_suffix(".json") {
        Some(provider) => check_provider_name(provider).err(),
        None => Some(Error::Malformed {
            what: format!("{name:?} in config/"),
            reason: "the name must be a provider's, and end in .json".into(),
        }),
    };
    problem.map_or(OpError::Errno(libc::EINVAL), OpError::Error)
}

/// Whether no UTF-8 text can contain these bytes. Characters may be cut at either end.
fn never_utf8(bytes: &[u8]) -> bool {
    let is_continuation = |byte: &&u8| **byte & 0xc0 == 0x80;
    let cut = bytes.iter().take(3).take_while(is_continuation).count();
    match std::str::from_utf8(&bytes[cut..]) {
        Ok(_) => false,
        Err(error) => error.error_len().is_some(),
    }
}

/// The bytes of an append, with the bytes before them that may belong to the same character. For any other write just its
/// bytes, because the program may still replace its neighbours.
fn in_context(state: &State, ino: u64, at: usize, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let before = match state.buffer(ino).map(|buffer| buffer.data.as_ref()) {
        Some(Ok(data)) if data.len() == at => data.as_bytes(),
        _ => return Zeroizing::new(bytes.to_vec()),
    };
    let lead = before
        .iter()
        .rev()
        .take(3)
        .position(|byte| byte & 0xc0 != 0x80);
    let from = match lead {
        Some(back) => at - back - 1,
        None => at.saturating_sub(3),
    };
    let mut all = Zeroizing::new(Vec::with_capacity(at - from + bytes.len() + 1));
    if at == 0 {
        // The first byte of a text begins a character.
        all.push(b' ');
    }
    all.extend_from_slice(&before[from..]);
    all.extend_from_slice(bytes);
    all
}

impl Tree {
    /// The file that a new file of this name would be.
    fn file_to_create(&self, place: &Place, exclusive: bool) -> Result<File, OpError> {
        let dir = self
            .layout
            .dir(place.dir)
            .ok_or(OpError::Errno(libc::ENOTDIR))?;
        match self.layout.file_at(place) {
            _ if dir.has_scratch() && exclusive && is_sed_name(&place.name) => Ok(File::Scratch),
            Some(file @ (File::Secret(_) | File::Price(_) | File::Config(_) | File::Scratch)) => {
                Ok(file)
            }
            // Such a file always exists, so creating it means opening it.
            Some(file @ (File::Bundle(_) | File::PriceTable)) if file.is_writable() => Ok(file),
            None => Err(match dir {
                Dir::Secrets => SecretName::new(&place.name)
                    .err()
                    .map_or(OpError::Errno(libc::EINVAL), OpError::Error),
                Dir::Hardware => OpError::Errno(libc::EINVAL),
                Dir::Config => not_a_config(&place.name),
                _ => OpError::Errno(libc::EPERM),
            }),
            Some(_) => Err(OpError::Errno(libc::EPERM)),
        }
    }

    /// Creates a file and opens it to write. Its maker sees it at once, everybody else when it has its first value; a
    /// scratch file is seen by all who know its name.
    ///
    /// # Errors
    /// EINVAL for a name that no secret or price can have, EPERM where nothing can be created, EEXIST where the name is
    /// there or being made and the flags say O_EXCL.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        flags: i32,
    ) -> Result<(Found, Opened), OpError> {
        self.admit(caller, name)?;
        let mut state = self.state();
        if caller.is_resend
            && let Some((handle, Handle::Write { ino, .. })) = state.opened_by(caller.request)
        {
            let ino = *ino;
            return Ok((
                self.found(&mut state, ino, Duration::ZERO),
                Opened::direct(handle),
            ));
        }
        let place = Place::new(parent, name);
        // Who was sent round for it has come back.
        state.arrived(caller.tid, &place);
        let ino = self.make(&mut state, caller, &place, flags)?;
        let opener = self.opener(caller)?;
        let handle = state.open_writer(ino, &opener, caller.request);
        if flags & libc::O_TRUNC != 0 {
            // The kernel takes the file for a new one, and will not ask. Emptied, it does not matter what it held.
            let _ = state.set_len(ino, 0);
        }
        Ok((
            self.found(&mut state, ino, Duration::ZERO),
            Opened::direct(handle),
        ))
    }

    /// Creates a file without opening it (mknod(2)).
    ///
    /// # Errors
    /// As for [`create`](Self::create) with O_EXCL.
    pub fn make_node(&self, caller: &Caller, parent: u64, name: &str) -> Result<Found, OpError> {
        self.admit(caller, name)?;
        let mut state = self.state();
        let place = Place::new(parent, name);
        if caller.is_resend
            && let Some(ino) = self.made_by(&state, caller, &place)
        {
            return Ok(self.found(&mut state, ino, Duration::ZERO));
        }
        let ino = self.make(&mut state, caller, &place, libc::O_EXCL)?;
        Ok(self.found(&mut state, ino, Duration::ZERO))
    }

    fn make(
        &self,
        state: &mut State,
        caller: &Caller,
        place: &Place,
        flags: i32,
    ) -> Result<u64, OpError> {
        let exclusive = flags & libc::O_EXCL != 0;
        let file = self.file_to_create(place, exclusive)?;
        let opener = self.opener(caller)?;
        let mine = self.made_by(state, caller, place);
        if let Some(entry) = state.scratch(place) {
            return match state.entry(entry).and_then(|entry| entry.own) {
                Some(own) if !exclusive => Ok(own),
                _ => Err(OpError::Errno(libc::EEXIST)),
            };
        }
        if file == File::Scratch {
            if mine.is_some() && exclusive {
                return Err(OpError::Errno(libc::EEXIST));
            }
            return Ok(state.create_scratch(place, &opener, b""));
        }
        let base = match self.resolve(&file, Freshness::LastKnown) {
            Resolved::Content(content) => Some(Ok(content.value)),
            // A provider that fails may have it; whether it has, the file may have one, too.
            Resolved::Failed(error) if exclusive && error.errno() != libc::EKEYREJECTED => None,
            Resolved::Failed(error) => Some(Err(Missing::Failed(error.errno()))),
            // Nobody knows of it yet: it is being made.
            Resolved::Missing | Resolved::Blocked(_) => None,
        };
        if exclusive && (base.is_some() || mine.is_some() || state.is_pending(place)) {
            return Err(OpError::Errno(libc::EEXIST));
        }
        if let Some(own) = mine {
            return Ok(own);
        }
        Ok(match base {
            Some(base) => {
                let base = match flags & libc::O_TRUNC {
                    0 => base,
                    _ => Ok(SecretValue::new("")),
                };
                let entry = state.entry_at(place);
                state.new_write_inode(entry, base)
            }
            None => state.create(place, &opener),
        })
    }

    /// Writes into the buffer of an open file.
    ///
    /// # Errors
    /// EBADF; EFBIG past what such a file can hold, and EILSEQ for bytes that no text contains: after either, nothing of
    /// the buffer is committed unless it is truncated to nothing. ENOSPC; why the present content, which a write would
    /// change, cannot be had.
    pub fn write(
        &self,
        caller: &Caller,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        appends: bool,
        has_waited: bool,
    ) -> Result<u32, OpError> {
        let mut state = self.state();
        let Some(Handle::Write {
            ino, last_write, ..
        }) = state.handle(handle)
        else {
            return Err(OpError::Errno(libc::EBADF));
        };
        let (ino, last_write) = (*ino, *last_write);
        if let Some((request, count)) = last_write
            && caller.is_resend
            && request == caller.request
        {
            return Ok(count);
        }
        self.supply_base(&mut state, ino, has_waited)?;
        let file = self.file_of(&state, ino)?;
        let len = match state.buffer(ino).map(|buffer| buffer.data.as_ref()) {
            Some(Ok(data)) => data.len(),
            Some(Err(Missing::Failed(errno))) => return Err(OpError::Errno(*errno)),
            _ => return Err(OpError::Errno(libc::EIO)),
        };
        let start = if appends { len as u64 } else { offset };
        let end = usize::try_from(start)
            .ok()
            .and_then(|start| start.checked_add(bytes.len()));
        let Some(end) = end.filter(|end| *end <= file.limit()) else {
            state.spoil(ino, libc::EFBIG);
            return Err(OpError::Errno(libc::EFBIG));
        };
        if file == File::Scratch {
            if end > len && state.scratch_bytes() + (end - len) > MAX_SCRATCH {
                return Err(no_room(&state, ino));
            }
        } else if never_utf8(&in_context(&state, ino, start as usize, bytes)) {
            state.spoil(ino, libc::EILSEQ);
            let name = state.last_place(ino).map(|place| place.name.clone());
            return Err(OpError::Error(Error::NotUtf8 {
                name: name.unwrap_or_default(),
            }));
        }
        state.write(handle, caller.request, start as usize, bytes);
        Ok(bytes.len() as u32)
    }

    /// The file that an inode belongs to.
    pub(super) fn file_of(&self, state: &State, ino: u64) -> Result<File, OpError> {
        let stale = OpError::Errno(libc::ESTALE);
        let Some(entry) = state.entry_of(ino).and_then(|entry| state.entry(entry)) else {
            return Err(stale);
        };
        match entry.is_scratch {
            true => Ok(File::Scratch),
            false => self.layout.file_at(&entry.last).ok_or(stale),
        }
    }

    /// fsync(2): a rename commits what was written so far.
    pub fn sync(&self, handle: u64) {
        let mut state = self.state();
        if let Some(ino) = state.written_by(handle) {
            state.sync(ino);
        }
    }

    /// Changes the length or the modification time. A mode or an owner may only be set to the present one; for a file that
    /// its maker is still writing any is accepted, and the present one stays.
    ///
    /// # Errors
    /// EPERM for other modes and owners; EFBIG; EACCES; why the content to cut cannot be had.
    pub fn set_attr(
        &self,
        caller: &Caller,
        ino: u64,
        handle: Option<u64>,
        change: Change,
        has_waited: bool,
    ) -> Result<Changed, OpError> {
        self.admit(caller, "setattr")?;
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
            let attr = match state.node(ino) {
                Some(_) => self.node_attr(&state, ino),
                None => self.file_attr(ino, 0o600, 0, self.begun()),
            };
            return Ok(Changed::Commit(commit, attr));
        }
        if let Some(mtime) = change.mtime {
            self.set_mtime(&mut state, ino, mtime);
        }
        drop(state);
        Ok(Changed::Done(self.attr(caller, ino, has_waited)?))
    }

    /// Whether an inode is of a file that somebody is still writing, or of a scratch file.
    fn is_being_written(&self, state: &State, ino: u64) -> bool {
        let Some(node) = state.write_inode(ino) else {
            return false;
        };
        let entry = state.entry(node.entry);
        node.writers > 0 || entry.is_some_and(|entry| entry.is_scratch || entry.pending.is_some())
    }

    fn set_mtime(&self, state: &mut State, ino: u64, mtime: SystemTime) {
        let fingerprint = match state.node(ino) {
            Some(Node::Version(version)) => version.value.fingerprint(),
            Some(Node::Write(node)) => {
                let is_scratch = state
                    .entry(node.entry)
                    .is_some_and(|entry| entry.is_scratch);
                match &node.buffer {
                    Some(buffer) if is_scratch || buffer.is_touched() => {
                        return state.set_buffer_mtime(ino, mtime);
                    }
                    // There is no uncommitted write, so the time of the present content is set (`touch`).
                    buffer => {
                        let data = buffer.as_ref().and_then(|buffer| buffer.data.as_ref().ok());
                        let value = match data {
                            Some(data) => data.to_value("").ok(),
                            None => node.base.as_ref().ok().cloned(),
                        };
                        let Some(value) = value else { return };
                        value.fingerprint()
                    }
                }
            }
            None => {
                let Some(place) = state.promised(ino).map(|promised| promised.place.clone()) else {
                    return;
                };
                let file = self.layout.file_at(&place);
                if let Some(Resolved::Content(content)) =
                    file.map(|file| self.resolve(&file, Freshness::LastKnown))
                {
                    let entry = state.entry_at(&place);
                    state.set_mtime(entry, content.value.fingerprint(), mtime);
                    self.changed();
                }
                return;
            }
        };
        if let Some(entry) = state.entry_of(ino) {
            state.set_mtime(entry, fingerprint, mtime);
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
        let own = by_handle.or_else(|| self.is_being_written(state, ino).then_some(ino));
        let Some(own) = own else {
            return self
                .truncate(state, caller, ino, size, has_waited)
                .map(Some);
        };
        let file = self.file_of(state, own)?;
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len <= file.limit());
        let len = len.ok_or(OpError::Errno(libc::EFBIG))?;
        if len > 0 {
            self.supply_base(state, own, has_waited)?;
        }
        if file == File::Scratch {
            let present = state.write_inode(own).map_or(0, |node| node.len());
            if len > present && state.scratch_bytes() + (len - present) > MAX_SCRATCH {
                return Err(no_room(state, own));
            }
        }
        match state.set_len(own, len) {
            Ok(()) => Ok(None),
            Err(Missing::Failed(errno)) => Err(OpError::Errno(errno)),
            Err(Missing::Unknown) => Err(OpError::Errno(libc::EIO)),
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
        let (place, file) = match self.layout.generated(ino) {
            Some(generated) => (generated.place.clone(), generated.file.clone()),
            None => {
                let place = match state.last_place(ino) {
                    Some(place) => place.clone(),
                    None => state.promised(ino).ok_or_else(stale)?.place.clone(),
                };
                let file = self.layout.file_at(&place).ok_or_else(stale)?;
                (place, file)
            }
        };
        if !file.is_writable() {
            return Err(OpError::Errno(libc::EACCES));
        }
        let entry = state.entry_of(ino).and_then(|entry| state.entry(entry));
        if entry.is_some_and(|entry| entry.place.is_none()) {
            // Nobody would see it.
            return Ok(Commits::default());
        }
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len <= file.limit());
        let len = len.ok_or(OpError::Errno(libc::EFBIG))?;
        let mut data = match self.resolve(&file, waited(has_waited)) {
            Resolved::Content(content) => SecretBuffer::new(content.value.as_bytes()),
            Resolved::Missing => return Err(OpError::Errno(libc::ENOENT)),
            // Of what cannot be read nothing is left.
            Resolved::Failed(_) if len == 0 => SecretBuffer::new(b""),
            Resolved::Failed(error) => return Err(OpError::Error(error.at(&place.name))),
            Resolved::Blocked(on) => return Err(OpError::Blocked(on)),
        };
        data.set_len(len);
        let writer = self.writer(caller);
        Ok(Commits::one(Commit::of_truncation(place, data, writer)))
    }
}

fn no_room(state: &State, ino: u64) -> OpError {
    let name = state.last_place(ino).map(|place| place.name.clone());
    OpError::Error(Error::io(
        format!(
            "{}: all scratch files together hold at most {} MiB",
            name.unwrap_or_default(),
            MAX_SCRATCH >> 20
        ),
        std::io::Error::from_raw_os_error(libc::ENOSPC),
    ))
}

#[cfg(test)]
mod tests {
    use super::never_utf8;

    #[test]
    fn only_bytes_that_no_text_has_are_refused_wherever_a_write_cuts_it() {
        let text = "a\u{e4}\u{20ac}\u{1f600}z";
        let bytes = text.as_bytes();
        for from in 0..bytes.len() {
            for to in from..=bytes.len() {
                assert!(!never_utf8(&bytes[from..to]), "{from}..{to}");
            }
        }
        for bad in [
            &b"\xff"[..],
            b"a\xc0\xafb",
            b"ab\x80",
            b"\xe2\x82z",
            b"\x80\x80\x80\x80",
        ] {
            assert!(never_utf8(bad), "{bad:?}");
        }
    }
}
