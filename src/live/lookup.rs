//! Names to inodes, and what `stat` shows of them. A lookup never waits: where the content is not known yet, it answers
//! a provisional inode of no validity, and whoever goes on to look at it or to open it waits there.

use std::time::{Duration, SystemTime};

use super::content::{Look, Resolved};
use super::marks::Purpose;
use super::nodes::{Content, Handle, Identity, Kind, Private, ROOT, State, Version};
use super::places::{Dir, File, Place, shown};
use super::{Attr, Caller, DIR_VALID, FileType, Found, SettlingName, Stop, Tree, VALID, WaitOn};

impl Tree {
    /// The inode of a name in a folder. Each success counts as one lookup of the inode ([`Tree::forget`]).
    ///
    /// # Errors
    /// ENOENT and EACCES.
    pub fn lookup(&self, caller: &Caller, parent: u64, name: &str) -> Result<Found, Stop> {
        let mut state = self.state();
        self.lookup_in(&mut state, caller.pid, parent, name)
    }

    pub(super) fn lookup_in(
        &self,
        state: &mut State,
        tid: u32,
        parent: u64,
        name: &str,
    ) -> Result<Found, Stop> {
        if let Some(dir) = state.subdir(parent, name) {
            state.count_lookup(dir);
            return Ok(Found {
                node: dir,
                attr: self.dir_attr(state, dir),
                valid: DIR_VALID,
            });
        }
        let place = Place {
            dir: parent,
            name: name.into(),
        };
        let file = self
            .file_at(state, &place)
            .ok_or(Stop::Errno(libc::ENOENT))?;
        if let Some(private) = self.writers_inode(state, tid, &place, &file) {
            state.count_lookup(private);
            return Ok(self.found(state, private, Duration::ZERO));
        }
        if !file.is_versioned() {
            if let Resolved::Missing = self.resolve_live(&file) {
                return Err(Stop::Errno(libc::ENOENT));
            }
            let node = state.live(&place, file);
            state.count_lookup(node);
            return Ok(self.found(state, node, Duration::ZERO));
        }
        // Who comes the second time has waited for all writes that were over when it came the first time.
        let comes_again = state.marks.find(tid, &place).is_some();
        let resolved = if comes_again {
            self.settled_content_at(state, &place, &file, Look::Fresh)
        } else {
            self.content_at(state, &place, &file, Look::LastKnown)
        };
        let (content, valid) = match resolved {
            Resolved::Content(content) => (Some(content), VALID),
            Resolved::Missing => return Err(Stop::Errno(libc::ENOENT)),
            Resolved::Failed(_) | Resolved::Pending(_) => (None, Duration::ZERO),
        };
        let entry = state.entry_at(&place);
        let node = match (
            &content,
            state.entries.get(&entry).and_then(|entry| entry.current),
        ) {
            // While a write settles, the version before it does as well: opening it waits.
            (None, Some(current)) => current,
            _ => state.version_of(entry, content.as_ref()),
        };
        state.count_lookup(node);
        if let Some(Purpose::Read { found }) = state.marks.find(tid, &place) {
            *found = content.map(|content| (node, content.value));
        }
        Ok(self.found(state, node, valid))
    }

    pub(super) fn found(&self, state: &State, node: u64, valid: Duration) -> Found {
        let mut attr = self.own_attr(state, node);
        // The kernel takes the number of a looked-up inode for the file's; where they differ, it must ask again.
        if attr.ino != node || valid.is_zero() {
            attr.valid = Duration::ZERO;
        }
        Found { node, attr, valid }
    }

    /// What stands at a place: scratch, where a scratch file was made, else what the name says.
    pub(super) fn file_at(&self, state: &State, place: &Place) -> Option<File> {
        match state.scratch(place) {
            Some(_) => Some(File::Scratch),
            None => state.dir(place.dir)?.file(&place.name),
        }
    }

    /// The content at a place, as one who looks so may see it now.
    pub(super) fn content_at(
        &self,
        state: &State,
        place: &Place,
        file: &File,
        look: Look,
    ) -> Resolved {
        if state.settling.contains_key(place) {
            return Resolved::Pending(WaitOn::Write(SettlingName(place.clone())));
        }
        self.settled_content_at(state, place, file, look)
    }

    /// The same, whether a write is under way or not.
    fn settled_content_at(
        &self,
        state: &State,
        place: &Place,
        file: &File,
        look: Look,
    ) -> Resolved {
        match file {
            File::Scratch => match state.scratch(place) {
                Some(content) => Resolved::Content(content.clone()),
                None => Resolved::Missing,
            },
            file => self.resolve(file, look),
        }
    }

    /// What a file that is made anew at each look holds; its log is known to be there.
    pub(super) fn resolve_live(&self, file: &File) -> Resolved {
        match file {
            File::Events => Resolved::Content(Content {
                value: crate::secret::SecretValue::new(""),
                changed_at: SystemTime::now(),
            }),
            file => self.resolve(file, Look::LastKnown),
        }
    }

    /// The private inode for a thread that is on its way to write here.
    fn writers_inode(
        &self,
        state: &mut State,
        tid: u32,
        place: &Place,
        file: &File,
    ) -> Option<u64> {
        match state.marks.find(tid, place)? {
            Purpose::Write {
                private: Some(private),
            } => Some(*private),
            Purpose::Write { private: None } => {
                let private = self.new_private(state, place, file);
                if let Some(Purpose::Write { private: made }) = state.marks.find(tid, place) {
                    *made = Some(private);
                }
                Some(private)
            }
            Purpose::Read { .. } => None,
        }
    }

    /// What `stat` shows of an inode; `handle` is given where the kernel asks for an open file.
    ///
    /// # Errors
    /// ESTALE where the name has another version now; the reason where the content cannot be had.
    pub fn attr(&self, caller: &Caller, ino: u64, handle: Option<u64>) -> Result<Attr, Stop> {
        let mut state = self.state();
        let node = state.nodes.get(&ino).ok_or(Stop::Errno(libc::ESTALE))?;
        let Kind::Version(version) = &node.kind else {
            return Ok(self.own_attr(&state, ino));
        };
        if handle.is_some() {
            return Ok(self.own_attr(&state, ino));
        }
        let entry = version.entry;
        let Some(place) = state.place(entry) else {
            return self.nameless_attr(&mut state, caller, ino, entry);
        };
        let file = self
            .file_at(&state, &place)
            .ok_or(Stop::Errno(libc::ENOENT))?;
        match self.content_at(&state, &place, &file, Look::LastKnown) {
            Resolved::Content(content) => {
                let identity = Identity::of(&content.value);
                let walked = state.marks.take(caller.pid, &place);
                let Some(version) = state.version_mut(ino) else {
                    return Err(Stop::Errno(libc::ESTALE));
                };
                if version.identity == Some(identity) {
                    version.changed_at = content.changed_at;
                } else if version.opens == 0 && walked.is_none() {
                    // After the walk, it was the current one during the walk, which is all that a `stat` can ask for.
                    state
                        .marks
                        .put(caller.pid, place, Purpose::Read { found: None });
                    return Err(Stop::Errno(libc::ESTALE));
                } else if version.identity.is_none() {
                    let len = content.value.len();
                    return Ok(self.file_attr(entry, file.mode(), len, content.changed_at));
                }
                Ok(self.own_attr(&state, ino))
            }
            Resolved::Pending(on @ WaitOn::Write(_)) => Err(Stop::Wait(on)),
            // Who has it open sees what it was opened on.
            _ if state
                .version(ino)
                .is_some_and(|version| version.opens > 0 && version.identity.is_some()) =>
            {
                Ok(self.own_attr(&state, ino))
            }
            // It is there, whatever it holds: `ls -l` shows it, and reading it tells.
            Resolved::Failed(error)
                if error.errno() == libc::EKEYREJECTED || matches!(file, File::Config(_)) =>
            {
                Ok(Attr {
                    valid: Duration::ZERO,
                    ..self.own_attr(&state, ino)
                })
            }
            Resolved::Missing => Err(Stop::Errno(libc::ENOENT)),
            Resolved::Failed(error) => Err(Stop::Error(error.at(&place.name))),
            Resolved::Pending(on) => Err(Stop::Wait(on)),
        }
    }

    /// Of a file that has lost its name: who has it open may look at it; who came by the name is to look again, once.
    fn nameless_attr(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        entry: u64,
    ) -> Result<Attr, Stop> {
        let last = state
            .entries
            .get(&entry)
            .map(|entry| entry.place.clone())
            .ok_or(Stop::Errno(libc::ESTALE))?;
        let open = state.version(ino).is_some_and(|version| version.opens > 0);
        if open || state.marks.take(caller.pid, &last).is_some() {
            return Ok(self.own_attr(state, ino));
        }
        state
            .marks
            .put(caller.pid, last, Purpose::Read { found: None });
        Err(Stop::Errno(libc::ESTALE))
    }

    /// What the inode itself is, whether it is current or not.
    pub(super) fn own_attr(&self, state: &State, ino: u64) -> Attr {
        let Some(node) = state.nodes.get(&ino) else {
            return self.file_attr(ino, 0o600, 0, self.started_at);
        };
        match &node.kind {
            Kind::Dir(_) => self.dir_attr(state, ino),
            Kind::Live(file) => {
                let (size, mtime) = match (file, self.resolve_live(file)) {
                    (File::Events, _) => (self.events.len(), SystemTime::now()),
                    (_, Resolved::Content(content)) => (content.value.len(), content.changed_at),
                    _ => (0, self.started_at),
                };
                self.file_attr(ino, file.mode(), size, mtime)
            }
            Kind::Version(version) => self.version_attr(state, version),
            Kind::Private(private) => self.private_attr(state, private),
        }
    }

    fn version_attr(&self, state: &State, version: &Version) -> Attr {
        let entry = state.entries.get(&version.entry);
        let mode = entry
            .and_then(|entry| self.file_at(state, &entry.place))
            .map_or(0o600, |file| file.mode());
        let size = version.identity.map_or(0, |identity| identity.len);
        let set = entry
            .and_then(|entry| entry.mtime)
            .filter(|(identity, _)| Some(*identity) == version.identity);
        let mut attr = self.file_attr(
            version.entry,
            mode,
            size,
            set.map_or(version.changed_at, |(_, mtime)| mtime),
        );
        attr.nlink = u32::from(entry.is_some_and(|entry| entry.named));
        let is_shared = entry.is_some_and(|entry| shown(&entry.place.name) == entry.place.name);
        attr.valid = if version.identity.is_some() && is_shared {
            VALID
        } else {
            Duration::ZERO
        };
        attr
    }

    fn private_attr(&self, state: &State, private: &Private) -> Attr {
        let size = private.buffer.as_ref().map_or(0, |buffer| buffer.len());
        let mode = self
            .file_at(state, &private.target)
            .map_or(0o600, |file| file.mode());
        self.file_attr(
            private.entry,
            mode,
            size,
            private.mtime.unwrap_or_else(SystemTime::now),
        )
    }

    fn file_attr(&self, ino: u64, mode: u16, size: usize, mtime: SystemTime) -> Attr {
        let size = size as u64;
        Attr {
            ino,
            kind: FileType::File,
            mode,
            size,
            mtime,
            nlink: 1,
            valid: Duration::ZERO,
        }
    }

    pub(super) fn dir_attr(&self, state: &State, ino: u64) -> Attr {
        let folders = state.subdirs.get(&ino).map_or(0, Vec::len) as u32;
        Attr {
            ino,
            kind: FileType::Dir,
            mode: state.dir(ino).map_or(0o700, Dir::mode),
            size: 0,
            mtime: self.started_at,
            nlink: 2 + folders,
            valid: DIR_VALID,
        }
    }

    /// Whether the caller may look at, write to or search the inode (access(2); `mask` of R_OK, W_OK and X_OK).
    ///
    /// # Errors
    /// EACCES.
    pub fn access(&self, caller: &Caller, ino: u64, mask: i32) -> Result<(), Stop> {
        let state = self.state();
        let attr = self.own_attr(&state, ino);
        let mode = i32::from(attr.mode >> 6);
        let root_reads = if caller.uid == 0 { libc::R_OK } else { 0 };
        if mask & !(mode | root_reads) & 0o7 == 0 {
            Ok(())
        } else {
            Err(Stop::Errno(libc::EACCES))
        }
    }

    /// The kernel has forgotten the inode as often as `count` says.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino != ROOT {
            self.state().forget(ino, count);
        }
    }

    /// The user and group that all files belong to.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// The bytes of a handle that is open for reading as one value, if it is one.
    pub(super) fn snapshot(state: &State, handle: u64) -> Option<crate::secret::SecretValue> {
        match state.handle(handle)? {
            Handle::Version { node } => state.kept.get(node).cloned(),
            Handle::Read { value, .. } => Some(value.clone()),
            _ => None,
        }
    }
}
