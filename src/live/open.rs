//! Opening and reading. An open is where freshness is decided: see the module above.

use super::content::{Look, Resolved};
use super::marks::Purpose;
use super::nodes::{Handle, Identity, Kind, State};
use super::places::{File, Place};
use super::process::Process;
use super::{Caller, Stop, Tree};
use crate::secret::SecretValue;

/// An open file, and what the kernel may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The handle's number.
    pub handle: u64,
    /// The kernel may keep the inode's pages, and need not tell when the file is closed.
    pub keep_pages: bool,
}

impl Opened {
    pub(super) fn uncached(handle: u64) -> Self {
        Self {
            handle,
            keep_pages: false,
        }
    }
}

/// Whether open(2)'s flags ask for writing.
fn for_writing(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Tree {
    /// Opens an inode with open(2)'s flags.
    ///
    /// # Errors
    /// ESTALE sends the kernel to look the name up once more; else why the content cannot be had, EACCES, EISDIR.
    pub fn open(&self, caller: &Caller, ino: u64, flags: i32) -> Result<Opened, Stop> {
        let mut state = self.state();
        if let Some((handle, what)) = state.opened_before(caller) {
            let keep_pages = matches!(what, Handle::Version { .. });
            return Ok(Opened { handle, keep_pages });
        }
        match &state.nodes.get(&ino).ok_or(Stop::Errno(libc::ESTALE))?.kind {
            Kind::Dir(_) => Err(Stop::Errno(libc::EISDIR)),
            Kind::Private(_) => self.open_private(&mut state, caller, ino, flags),
            Kind::Version(version) => {
                let entry = version.entry;
                if !for_writing(flags)
                    && let Some(value) = state.marks.take_found(caller.pid, ino)
                {
                    // The second time. Whatever became of the name since the walk, it was this after the open began.
                    let place = state.entries.get(&entry).map(|entry| entry.place.clone());
                    let file = place
                        .and_then(|place| self.file_at(&state, &place))
                        .unwrap_or(File::Scratch);
                    return Ok(self.open_value(&mut state, caller, ino, &file, value, true));
                }
                match state.place(entry) {
                    Some(place) if for_writing(flags) => {
                        self.open_version_to_write(&mut state, caller, ino, place, flags)
                    }
                    Some(place) => self.open_version(&mut state, caller, ino, place),
                    None => self.open_nameless(&mut state, caller, ino, flags),
                }
            }
            Kind::Live(file) => {
                let file = file.clone();
                self.open_live(&mut state, caller, ino, &file, flags)
            }
        }
    }

    /// A reader's open: the version must be its file's current content.
    fn open_version(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        place: Place,
    ) -> Result<Opened, Stop> {
        let file = self
            .file_at(state, &place)
            .ok_or(Stop::Errno(libc::ENOENT))?;
        let content = match self.content_at(state, &place, &file, Look::Fresh) {
            Resolved::Content(content) => content,
            Resolved::Failed(error) => return Err(Stop::Error(error.at(&place.name))),
            Resolved::Pending(on) => return Err(Stop::Wait(on)),
            Resolved::Missing => {
                return Err(Stop::Errno(match state.marks.take(caller.pid, &place) {
                    Some(_) => libc::ENOENT,
                    None => {
                        // An open that may create does so after the walk; any other finds nothing there.
                        state
                            .marks
                            .put(caller.pid, place, Purpose::Read { found: None });
                        libc::ESTALE
                    }
                }));
            }
        };
        let version = state.version(ino).ok_or(Stop::Errno(libc::ESTALE))?;
        let is_current = version.identity == Some(Identity::of(&content.value)) && !version.spoilt;
        match (state.marks.take(caller.pid, &place), is_current) {
            (_, true) => Ok(self.open_value(state, caller, ino, &file, content.value, true)),
            // There was no walk: the name is not how it was opened (`/proc/self/fd`, a bind-mounted file).
            (Some(_), false) => {
                Ok(self.open_value(state, caller, ino, &file, content.value, false))
            }
            (None, false) => {
                state
                    .marks
                    .put(caller.pid, place, Purpose::Read { found: None });
                Err(Stop::Errno(libc::ESTALE))
            }
        }
    }

    fn open_value(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        file: &File,
        value: SecretValue,
        keep_pages: bool,
    ) -> Opened {
        self.record_read(caller, file);
        if let File::Bundle(format) = file {
            self.note_base_of(Process::of_thread(caller.pid), *format, &value);
        }
        if let Some(version) = state.version_mut(ino) {
            version.opens += 1;
        }
        let opened = match keep_pages {
            true => {
                if !state.kept.contains_key(&ino) {
                    state.kept.insert(ino, value);
                }
                Handle::Version { node: ino }
            }
            false => Handle::Read { node: ino, value },
        };
        let handle = state.add_handle(caller, opened);
        Opened { handle, keep_pages }
    }

    /// An inode whose file has lost its name. Whoever came by the name is to look again; who comes back without a
    /// lookup has it open already (`/proc/self/fd`), and stays with it.
    fn open_nameless(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        flags: i32,
    ) -> Result<Opened, Stop> {
        let version = state.version(ino).ok_or(Stop::Errno(libc::ESTALE))?;
        let (entry, kept) = (version.entry, state.kept.get(&ino).cloned());
        let place = state
            .entries
            .get(&entry)
            .map(|entry| entry.place.clone())
            .ok_or(Stop::Errno(libc::ESTALE))?;
        let purpose = if for_writing(flags) {
            Purpose::Write { private: None }
        } else {
            Purpose::Read { found: None }
        };
        if state.marks.take(caller.pid, &place).is_none() {
            state.marks.put(caller.pid, place, purpose);
            return Err(Stop::Errno(libc::ESTALE));
        }
        let kept = kept.ok_or(Stop::Errno(libc::ENOENT))?;
        if !for_writing(flags) {
            return Ok(self.open_value(state, caller, ino, &File::Scratch, kept, true));
        }
        let private = self
            .new_private_of(state, entry, kept.as_bytes())
            .ok_or(Stop::Errno(libc::ENOENT))?;
        Ok(self.open_writer(state, caller, private, flags))
    }

    /// A writer's open of a readers' inode: it is sent to look the name up again, and finds an inode of its own.
    fn open_version_to_write(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        place: Place,
        flags: i32,
    ) -> Result<Opened, Stop> {
        let file = self
            .file_at(state, &place)
            .ok_or(Stop::Errno(libc::ENOENT))?;
        if !file.is_writable() {
            return Err(Stop::Errno(libc::EACCES));
        }
        if let Some(Purpose::Write { private: None }) = state.marks.take(caller.pid, &place) {
            // There was no lookup. It writes through this inode to a buffer of its own all the same, and the inode,
            // whose size the kernel now changes, is no longer shared.
            if let Some(version) = state.version_mut(ino) {
                version.spoilt = true;
            }
            let private = self.new_private(state, &place, &file);
            return Ok(self.open_writer(state, caller, private, flags));
        }
        let left = state
            .marks
            .put(caller.pid, place, Purpose::Write { private: None });
        for private in left {
            state.drop_if_unused(private);
        }
        Err(Stop::Errno(libc::ESTALE))
    }

    fn open_private(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        flags: i32,
    ) -> Result<Opened, Stop> {
        let Some(private) = state.private(ino) else {
            return Err(Stop::Errno(libc::ESTALE));
        };
        let (place, shared) = (private.target.clone(), private.opens > 0);
        let expected = matches!(
            state.marks.find(caller.pid, &place),
            Some(Purpose::Write { private: Some(private) }) if *private == ino
        );
        // Whoever has it open may open it again through `/proc/self/fd`; nobody else gets here but by its own lookup.
        if !expected && !shared {
            return Err(Stop::Errno(libc::ESTALE));
        }
        if expected {
            state.marks.take(caller.pid, &place);
        }
        Ok(self.open_writer(state, caller, ino, flags))
    }

    /// A file that is made anew at each look.
    fn open_live(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        file: &File,
        flags: i32,
    ) -> Result<Opened, Stop> {
        if for_writing(flags) {
            if !file.is_writable() {
                return Err(Stop::Errno(libc::EACCES));
            }
            let place = state.place(ino).ok_or(Stop::Errno(libc::ENOENT))?;
            return self.open_version_to_write(state, caller, ino, place, flags);
        }
        if file.mode() & 0o400 == 0 && caller.uid != 0 {
            return Err(Stop::Errno(libc::EACCES));
        }
        let handle = match file {
            File::Events => Handle::Events,
            file => match self.resolve(file, Look::Fresh) {
                Resolved::Content(content) => Handle::Read {
                    node: ino,
                    value: content.value,
                },
                Resolved::Missing => return Err(Stop::Errno(libc::ENOENT)),
                Resolved::Failed(error) => return Err(Stop::Error(error)),
                Resolved::Pending(on) => return Err(Stop::Wait(on)),
            },
        };
        Ok(Opened::uncached(state.add_handle(caller, handle)))
    }

    /// Gives `take` at most `size` bytes from `offset` on.
    ///
    /// # Errors
    /// EBADF, or why a writer's file cannot be read.
    pub fn read<T>(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, i32> {
        let state = self.state();
        if let Some(value) = Self::snapshot(&state, handle) {
            drop(state);
            return Ok(take(part(value.as_bytes(), offset, size)));
        }
        match state.handle(handle) {
            Some(Handle::Events) => Ok(take(&self.events.read(offset as usize, size as usize))),
            Some(Handle::Write { node, .. }) => match state.private(*node).map(|p| &p.buffer) {
                Some(Ok(buffer)) => Ok(take(part(buffer.as_bytes(), offset, size))),
                Some(Err(errno)) => Err(*errno),
                None => Err(libc::EBADF),
            },
            _ => Err(libc::EBADF),
        }
    }
}

fn part(bytes: &[u8], offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    &bytes[start..start.saturating_add(size as usize).min(bytes.len())]
}
