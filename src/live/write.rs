//! Writing: a private inode for each writer, with a buffer of its own that nobody else sees before it is committed.

use std::time::SystemTime;

use super::audit::actor;
use super::commit::Closing;
use super::content::{Look, Resolved};
use super::marks::Purpose;
use super::nodes::{Content, Handle, Identity, Kind, Private, State};
use super::open::Opened;
use super::places::{Dir, File, Place, is_sed_name};
use super::process::{Process, last_number};
use super::{Attr, Caller, Found, Stop, Tree};
use crate::error::Error;
use crate::secret::{SecretBuffer, SecretValue};
use crate::state::check_provider_name;

/// The most scratch files at once.
const MOST_SCRATCH: usize = 256;

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
    /// A truncation by name is a whole write: it is done when this is committed ([`Tree::commit`]), and then
    /// [`Tree::attr`] shows it.
    Commit(Closing),
}

/// Why no file of this name can be made in `config/`.
pub(super) fn not_a_config(name: &str) -> Stop {
    let problem = match name.strip_suffix(".json") {
        Some(provider) => check_provider_name(provider).err(),
        None => Some(Error::Malformed {
            what: format!("{name:?} in config/"),
            reason: "the name must be a provider's, and end in .json".into(),
        }),
    };
    problem.map_or(Stop::Errno(libc::EINVAL), Stop::Error)
}

impl Tree {
    /// Creates a file and opens it for writing. Other than a scratch file, it appears when it is closed.
    ///
    /// # Errors
    /// EINVAL for a name that no secret or price can have, EPERM where nothing can be created, EEXIST where it is
    /// being created exclusively already, ENOSPC where there are too many scratch files.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        flags: i32,
    ) -> Result<(Found, Opened), Stop> {
        let mut state = self.state();
        let dir = state.dir(parent).ok_or(Stop::Errno(libc::ENOTDIR))?.clone();
        if let Some((handle, Handle::Write { node, .. })) = state.opened_before(caller) {
            let node = *node;
            state.count_lookup(node);
            let found = Found {
                node,
                attr: self.own_attr(&state, node),
                valid: std::time::Duration::ZERO,
            };
            return Ok((found, Opened::uncached(handle)));
        }
        let exclusive = flags & libc::O_EXCL != 0;
        let file = match dir.file(name) {
            _ if dir.has_scratch() && exclusive && is_sed_name(name) => File::Scratch,
            Some(file @ (File::Secret(_) | File::Price(_) | File::Config(_) | File::Scratch)) => {
                file
            }
            None if dir == Dir::Secrets => {
                return Err(crate::secret::SecretName::new(name)
                    .err()
                    .map_or(Stop::Errno(libc::EINVAL), Stop::Error));
            }
            None if dir == Dir::Hardware => return Err(Stop::Errno(libc::EINVAL)),
            None if dir == Dir::Config => return Err(not_a_config(name)),
            _ => return Err(Stop::Errno(libc::EPERM)),
        };
        let place = Place {
            dir: parent,
            name: name.into(),
        };
        if exclusive && Self::is_being_created(&state, &place) {
            return Err(Stop::Errno(libc::EEXIST));
        }
        let entry = if file == File::Scratch {
            Self::add_scratch(&mut state, &place)?
        } else {
            state.new_entry(&place, false)
        };
        let is_new = file != File::Scratch;
        let private = self.add_private(
            &mut state,
            entry,
            &place,
            is_new,
            Ok(SecretBuffer::new(b"")),
        );
        if let Some(private) = state.private_mut(private) {
            private.changes = u64::from(is_new);
        }
        state.count_lookup(private);
        let opened = self.open_writer(&mut state, caller, private, flags);
        let found = Found {
            node: private,
            attr: self.own_attr(&state, private),
            valid: std::time::Duration::ZERO,
        };
        Ok((found, opened))
    }

    fn is_being_created(state: &State, place: &Place) -> bool {
        state.handles.values().any(|open| {
            matches!(&open.handle, Handle::Write { node, .. }
                if state.private(*node).is_some_and(|private| private.is_new && private.target == *place))
        })
    }

    /// A scratch file is there at once, as its maker expects.
    fn add_scratch(state: &mut State, place: &Place) -> Result<u64, Stop> {
        if state
            .entries
            .values()
            .filter(|entry| entry.scratch.is_some())
            .count()
            >= MOST_SCRATCH
        {
            return Err(Stop::Errno(libc::ENOSPC));
        }
        let entry = state.entry_at(place);
        if let Some(entry) = state.entries.get_mut(&entry) {
            entry.scratch = Some(Content {
                value: SecretValue::new(""),
                changed_at: SystemTime::now(),
            });
        }
        Ok(entry)
    }

    /// An inode for whoever is about to write to a name that is there.
    pub(super) fn new_private(&self, state: &mut State, place: &Place, file: &File) -> u64 {
        // A control file's writer begins with nothing: what one reads there is not what one writes.
        let buffer = if file.is_versioned() {
            match self.content_at(state, place, file, Look::LastKnown) {
                Resolved::Content(content) => Ok(SecretBuffer::new(content.value.as_bytes())),
                Resolved::Missing => Ok(SecretBuffer::new(b"")),
                // It can be replaced, but not added to.
                Resolved::Failed(error) => Err(error.errno()),
                Resolved::Pending(_) => Err(libc::EIO),
            }
        } else {
            Ok(SecretBuffer::new(b""))
        };
        let entry = state.entry_at(place);
        self.add_private(state, entry, place, false, buffer)
    }

    /// An inode for a writer of a file that has lost its name: what is written goes with the file.
    pub(super) fn new_private_of(
        &self,
        state: &mut State,
        entry: u64,
        content: &[u8],
    ) -> Option<u64> {
        let place = state.entries.get(&entry)?.place.clone();
        Some(self.add_private(state, entry, &place, false, Ok(SecretBuffer::new(content))))
    }

    fn add_private(
        &self,
        state: &mut State,
        entry: u64,
        place: &Place,
        is_new: bool,
        buffer: Result<SecretBuffer, i32>,
    ) -> u64 {
        state.add_private(Private {
            entry,
            target: place.clone(),
            is_new,
            buffer,
            changes: 0,
            committed: 0,
            killed: false,
            mtime: None,
            opener: None,
            actor: None,
            since: None,
            opens: 0,
        })
    }

    pub(super) fn open_writer(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        flags: i32,
    ) -> Opened {
        if let Some(private) = state.private_mut(ino) {
            private.opens += 1;
            if private.opens == 1 {
                private.opener = Process::of_thread(caller.pid);
                private.actor = Some(actor(caller));
                private.since = last_number();
            }
        }
        if flags & libc::O_ACCMODE == libc::O_RDWR
            && flags & libc::O_TRUNC == 0
            && let Some(private) = state.private(ino).filter(|private| !private.is_new)
            && let Some(file) = self.file_at(state, &private.target)
        {
            self.record_read(caller, &file);
        }
        let append = flags & libc::O_APPEND != 0;
        let handle = Handle::Write {
            node: ino,
            append,
            last: None,
        };
        Opened::uncached(state.add_handle(caller, handle))
    }

    /// Writes into the buffer of an open file.
    ///
    /// # Errors
    /// EBADF; EFBIG past what such a file can hold, after which nothing of it takes effect; why the present content,
    /// which this would add to, cannot be had.
    pub fn write(
        &self,
        caller: &Caller,
        handle: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u32, i32> {
        let mut state = self.state();
        let Some(Handle::Write { node, append, last }) = state.handle(handle) else {
            return Err(libc::EBADF);
        };
        let (node, append) = (*node, *append);
        if let Some((request, count)) = *last
            && caller.comes_again
            && request == caller.request
        {
            return Ok(count);
        }
        let limit = self.limit(&state, node);
        let private = state.private_mut(node).ok_or(libc::EBADF)?;
        private.changes += 1;
        let buffer = private.buffer.as_mut().map_err(|errno| *errno)?;
        let start = if append { buffer.len() as u64 } else { offset };
        match usize::try_from(start)
            .ok()
            .filter(|start| start.saturating_add(bytes.len()) <= limit)
        {
            Some(start) => buffer.write_at(start, bytes),
            None => {
                private.buffer = Err(libc::EFBIG);
                return Err(libc::EFBIG);
            }
        }
        let count = bytes.len() as u32;
        if let Some(open) = state.handles.get_mut(&handle)
            && let Handle::Write { last, .. } = &mut open.handle
        {
            *last = Some((caller.request, count));
        }
        Ok(count)
    }

    fn limit(&self, state: &State, node: u64) -> usize {
        let target = state.private(node).map(|private| &private.target);
        // Room for the newline that is dropped when the write is done.
        target
            .and_then(|target| self.file_at(state, target))
            .map_or(0, |file| file.limit() + 1)
    }

    /// Changes a length or a modification time; modes and owners only to what they are.
    ///
    /// # Errors
    /// EPERM for other modes and owners, EFBIG, EACCES; ESTALE sends a truncation by name to an inode of its own.
    pub fn set_attr(
        &self,
        caller: &Caller,
        ino: u64,
        handle: Option<u64>,
        change: Change,
    ) -> Result<Changed, Stop> {
        let mut state = self.state();
        let present = self.own_attr(&state, ino);
        let differs = change
            .mode
            .is_some_and(|mode| mode & 0o7777 != u32::from(present.mode))
            || change.uid.is_some_and(|uid| uid != self.owner.0)
            || change.gid.is_some_and(|gid| gid != self.owner.1);
        if differs {
            return Err(Stop::Errno(libc::EPERM));
        }
        if let Some(size) = change.size
            && let Some(closing) = self.set_size(&mut state, caller, ino, handle, size)?
        {
            return Ok(Changed::Commit(closing));
        }
        if let Some(mtime) = change.mtime {
            Self::set_mtime(&mut state, ino, mtime);
        }
        Ok(Changed::Done(self.own_attr(&state, ino)))
    }

    fn set_mtime(state: &mut State, ino: u64, mtime: SystemTime) {
        let target = match state.nodes.get_mut(&ino).map(|node| &mut node.kind) {
            Some(Kind::Version(version)) => {
                version.identity.map(|identity| (version.entry, identity))
            }
            Some(Kind::Private(private)) => {
                private.mtime = Some(mtime);
                match &private.buffer {
                    // Nothing is written: it is the content that is there whose time is set (`touch`).
                    Ok(buffer) if !private.is_touched() => {
                        SecretValue::from_bytes("", buffer.as_bytes())
                            .ok()
                            .map(|value| (private.entry, Identity::of(&value)))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some((entry, identity)) = target
            && let Some(entry) = state.entries.get_mut(&entry)
        {
            entry.mtime = Some((identity, mtime));
        }
    }

    /// Sets a length; a truncation by name, with no writer there, is a write of its own, and is to be committed.
    fn set_size(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        handle: Option<u64>,
        size: u64,
    ) -> Result<Option<Closing>, Stop> {
        let node = match handle.and_then(|handle| state.handle(handle)) {
            Some(Handle::Write { node, .. }) => *node,
            _ => ino,
        };
        match &state
            .nodes
            .get(&node)
            .ok_or(Stop::Errno(libc::ESTALE))?
            .kind
        {
            Kind::Dir(_) => return Err(Stop::Errno(libc::EISDIR)),
            Kind::Version(_) | Kind::Live(_) => return self.truncate_by_name(state, caller, node),
            Kind::Private(_) => {}
        }
        let limit = self.limit(state, node);
        let Some(private) = state.private_mut(node) else {
            return Err(Stop::Errno(libc::ESTALE));
        };
        let Some(len) = usize::try_from(size).ok().filter(|len| *len <= limit) else {
            return Err(Stop::Errno(libc::EFBIG));
        };
        private.changes += 1;
        match &mut private.buffer {
            Ok(buffer) => buffer.set_len(len),
            // From nothing on, whatever could not be read does not matter.
            Err(_) if len == 0 => private.buffer = Ok(SecretBuffer::new(b"")),
            Err(errno) => return Err(Stop::Errno(*errno)),
        }
        if private.opens > 0 {
            return Ok(None);
        }
        private.actor.get_or_insert_with(|| actor(caller));
        let target = private.target.clone();
        state.marks.take(caller.pid, &target);
        Ok(Some(Closing::of_truncation(node)))
    }

    fn truncate_by_name(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
    ) -> Result<Option<Closing>, Stop> {
        let entry = match &state.nodes.get(&ino).ok_or(Stop::Errno(libc::ESTALE))?.kind {
            Kind::Version(version) => version.entry,
            _ => ino,
        };
        let place = state.place(entry).ok_or(Stop::Errno(libc::ENOENT))?;
        let file = self
            .file_at(state, &place)
            .ok_or(Stop::Errno(libc::ENOENT))?;
        if !file.is_writable() {
            return Err(Stop::Errno(libc::EACCES));
        }
        match state.marks.take(caller.pid, &place) {
            // No lookup came in between, so there is no way to an inode of its own.
            Some(Purpose::Write { private: None }) => Err(Stop::Errno(libc::EPERM)),
            _ => {
                state
                    .marks
                    .put(caller.pid, place, Purpose::Write { private: None });
                Err(Stop::Errno(libc::ESTALE))
            }
        }
    }
}
