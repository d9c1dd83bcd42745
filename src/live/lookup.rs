//! LOOKUP and GETATTR: from names to inodes, and what `stat` shows of them. A lookup does not wait for a provider: if
//! one must be asked, it answers a placeholder, and `stat` or `open` of that placeholder waits.

use std::time::{Duration, SystemTime};

use super::files::ReadMode;
use super::kind::{DirKind, FileKind, FileType};
use super::layout::Generated;
use super::resolved::{Content, Freshness, Resolved};
use super::{Attr, Caller, LookupReply, OpError, ROOT, Tree, WaitOn};
use crate::cache::function_caches;
use crate::secret::SecretValue;
use crate::versions::{DirEntry, Inode, State, Unavailable};

/// Folders are always there.
const FOLDER_VALID: Duration = Duration::from_secs(3600);
/// The attributes of a version never change.
pub(super) const VERSION_VALID: Duration = Duration::from_secs(3600);

impl Tree {
    /// The inode of a name in a folder. Each success counts as one lookup of the inode ([`Tree::forget`]).
    ///
    /// # Errors
    /// ENOENT and EACCES. Blocked only for a retry whose content is not known,
    /// and for one that creates the file exclusively while a backend that may have it has not answered.
    pub fn lookup(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        has_waited: bool,
    ) -> Result<LookupReply, OpError> {
        self.check_caller(caller, name)?;
        let dir_entry = DirEntry::new(parent, name);
        self.layout.add_caches(parent, || function_caches().names());
        if let Some(dir) = self.layout.subfolder(&dir_entry) {
            return Ok(LookupReply {
                nodeid: dir,
                attr: self.folder_attr(dir),
                valid: self.kept_for(FOLDER_VALID),
            });
        }
        if let Some(number) = self.layout.generated_at(&dir_entry)
            && let Some(generated) = self.layout.generated(number)
        {
            return self.look_up_generated(caller, number, generated);
        }
        let mut state = self.state();
        if let Some(write_ino) = state
            .scratch(&dir_entry)
            .and_then(|file| state.file(file)?.write_ino)
        {
            return Ok(self.found(&mut state, write_ino, Duration::ZERO));
        }
        let kind = self
            .layout
            .kind_at(&dir_entry)
            .ok_or(OpError::Errno(libc::ENOENT))?;
        self.look_up_content(&mut state, caller, &dir_entry, &kind, has_waited)
    }

    fn look_up_generated(
        &self,
        caller: &Caller,
        number: u64,
        generated: &Generated,
    ) -> Result<LookupReply, OpError> {
        let mut state = self.state();
        let retry = state.retry(caller.tid, &generated.dir_entry);
        if retry.is_some_and(|retry| retry.to_write) {
            // What is read from a control file is not what is written to it, so a writer begins with nothing.
            let file = state.file_at(&generated.dir_entry);
            let ino = state.new_write_inode(file, Ok(SecretValue::new("")));
            return Ok(self.found(&mut state, ino, Duration::ZERO));
        }
        drop(state);
        Ok(LookupReply {
            nodeid: number,
            attr: self.generated_attr(number, generated),
            valid: Duration::ZERO,
        })
    }

    fn look_up_content(
        &self,
        state: &mut State,
        caller: &Caller,
        dir_entry: &DirEntry,
        kind: &FileKind,
        has_waited: bool,
    ) -> Result<LookupReply, OpError> {
        let retry = state.retry(caller.tid, dir_entry);
        // A caller that retries to read has waited already.
        let freshness = freshness_after(has_waited || retry.is_some());
        let resolved = match retry {
            None if self.is_releasing(dir_entry) => {
                Resolved::Blocked(WaitOn::Write(dir_entry.clone()))
            }
            _ => self.resolve(kind, freshness),
        };
        if retry.is_some_and(|retry| retry.to_write) {
            let base = match resolved {
                Resolved::Content(content) => Ok(content.value),
                Resolved::Failed(error) => Err(Unavailable::Failed(error.errno())),
                Resolved::Blocked(_) => Err(Unavailable::Unknown),
                Resolved::Missing => return self.look_up_missing(state, caller, dir_entry),
            };
            let file = state.file_at(dir_entry);
            let ino = state.new_write_inode(file, base);
            return Ok(self.found(state, ino, Duration::ZERO));
        }
        match resolved {
            Resolved::Content(content) => {
                let valid = match retry {
                    Some(_) => Duration::ZERO,
                    None => self.names.validity().min(content.fresh_for),
                };
                let ino = state.version(dir_entry, &content.value, content.changed_at);
                Ok(self.found(state, ino, valid))
            }
            Resolved::Missing => self.look_up_missing(state, caller, dir_entry),
            // The kernel retries only once, so a placeholder would not do. This is rare: the server has just started.
            Resolved::Blocked(on) if retry.is_some() => Err(OpError::Blocked(on)),
            // The kernel would say that the file exists, by the placeholder alone.
            Resolved::Blocked(on) if self.processes.creates_exclusively(caller.tid) => {
                Err(OpError::Blocked(on))
            }
            Resolved::Failed(error)
                if error.errno() != libc::EKEYREJECTED
                    && self.processes.creates_exclusively(caller.tid) =>
            {
                self.look_up_missing(state, caller, dir_entry)
            }
            Resolved::Failed(_) | Resolved::Blocked(_) => {
                let ino = state.placeholder_for(dir_entry);
                let attr = self.file_attr(
                    state.st_ino_of(dir_entry),
                    kind.mode(),
                    0,
                    self.started_at(),
                );
                Ok(LookupReply {
                    nodeid: ino,
                    attr,
                    valid: Duration::ZERO,
                })
            }
        }
    }

    /// A name without a value may be one that the caller's process is making.
    fn look_up_missing(
        &self,
        state: &mut State,
        caller: &Caller,
        dir_entry: &DirEntry,
    ) -> Result<LookupReply, OpError> {
        match self.left_to(state, caller, dir_entry) {
            Some(ino) => Ok(self.found(state, ino, Duration::ZERO)),
            None => {
                state.retry_missed(caller.tid, dir_entry);
                Err(OpError::Errno(libc::ENOENT))
            }
        }
    }

    /// The inode that the caller's process finds under a name that no other process sees. If a process has the name open to
    /// write, it is making the file from now on.
    fn left_to(&self, state: &mut State, caller: &Caller, dir_entry: &DirEntry) -> Option<u64> {
        self.created_by(state, caller, dir_entry).or_else(|| {
            state.vanish(dir_entry);
            self.created_by(state, caller, dir_entry)
        })
    }

    /// The inode of a file that has no value yet, and that the caller's process is making.
    pub(super) fn created_by(
        &self,
        state: &State,
        caller: &Caller,
        dir_entry: &DirEntry,
    ) -> Option<u64> {
        let process = || self.processes.of_thread(caller.tid);
        if let Some(file) = state.pending_of(dir_entry, process) {
            return state.file(file)?.write_ino;
        }
        // It was opened to write before a provider could say that the name does not exist.
        let file = state.named(dir_entry)?;
        state.unclosed_by(file, process()?)
    }

    /// An inode, as the answer to a lookup.
    pub(super) fn found(&self, state: &mut State, ino: u64, valid: Duration) -> LookupReply {
        state.count_lookup(ino);
        LookupReply {
            nodeid: ino,
            attr: self.inode_attr(state, ino),
            valid,
        }
    }

    /// What `stat` shows of an inode. After a wait (`has_waited`) the last known content is good enough.
    ///
    /// # Errors
    /// EACCES. ESTALE if the kernel should look the name up anew; else why the content cannot be read.
    pub fn attr(&self, caller: &Caller, ino: u64, has_waited: bool) -> Result<Attr, OpError> {
        self.check_caller_of(caller, ino)?;
        self.attr_of_open(caller, ino, has_waited)
    }

    /// As [`attr`](Self::attr), where the kernel says that the caller reads an open file. Who was given a descriptor may read
    /// what it was opened on.
    ///
    /// # Errors
    /// As for [`attr`](Self::attr), without EACCES.
    pub fn attr_of_open(
        &self,
        caller: &Caller,
        ino: u64,
        has_waited: bool,
    ) -> Result<Attr, OpError> {
        if self.layout.dir(ino).is_some() {
            return Ok(self.folder_attr(ino));
        }
        if let Some(generated) = self.layout.generated(ino) {
            return Ok(self.generated_attr(ino, generated));
        }
        let mut state = self.state();
        if state.inode(ino).is_some() {
            self.supply_base(&mut state, ino, has_waited)?;
            return Ok(self.inode_attr(&state, ino));
        }
        let Some(placeholder) = state.placeholder_at(ino).cloned() else {
            return Err(OpError::Errno(libc::ESTALE));
        };
        let dir_entry = placeholder.dir_entry;
        if !has_waited && self.is_releasing(&dir_entry) {
            return Err(OpError::Blocked(WaitOn::Write(dir_entry)));
        }
        let kind = self
            .layout
            .kind_at(&dir_entry)
            .ok_or(OpError::Errno(libc::ENOENT))?;
        let attr =
            |size, changed_at| self.file_attr(placeholder.st_ino, kind.mode(), size, changed_at);
        match self.resolve(&kind, freshness_after(has_waited)) {
            Resolved::Content(content) => Ok(attr(
                content.value.len(),
                self.mtime_of(&state, &dir_entry, &content),
            )),
            Resolved::Missing => match self.left_to(&mut state, caller, &dir_entry) {
                Some(write_ino) => Ok(self.inode_attr(&state, write_ino)),
                None => Err(OpError::Errno(libc::ENOENT)),
            },
            // The file exists even if its content cannot be read: `ls -l` shows it, and reading it gives the error.
            Resolved::Failed(error)
                if error.errno() == libc::EKEYREJECTED || matches!(kind, FileKind::Config(_)) =>
            {
                Ok(attr(0, self.started_at()))
            }
            Resolved::Failed(error) => Err(OpError::Error(error.at(&dir_entry.name))),
            Resolved::Blocked(on) => Err(OpError::Blocked(on)),
        }
    }

    /// The modification time that the version of a content shows.
    pub(super) fn mtime_of(
        &self,
        state: &State,
        dir_entry: &DirEntry,
        content: &Content,
    ) -> SystemTime {
        let file = state.named(dir_entry).and_then(|file| state.file(file));
        match file.and_then(|file| file.mtime) {
            Some((fingerprint, at)) if fingerprint == content.value.fingerprint() => at,
            _ => content.changed_at,
        }
    }

    /// When the mount began, with its first server.
    pub(super) fn started_at(&self) -> SystemTime {
        self.journaled.lock().started_at
    }

    fn folder_attr(&self, ino: u64) -> Attr {
        Attr {
            ino,
            file_type: FileType::Dir,
            mode: self.layout.dir(ino).map_or(0o700, DirKind::mode),
            size: 0,
            mtime: self.layout.changed_at(ino),
            ctime: self.layout.changed_at(ino),
            nlink: 2 + self.layout.subfolder_count(ino),
            // A change of what is in it makes the kernel look it up anew, if it holds names at all.
            valid: if ino == ROOT {
                self.kept_for(FOLDER_VALID)
            } else {
                self.names.validity()
            },
        }
    }

    fn generated_attr(&self, number: u64, generated: &Generated) -> Attr {
        let value = match self.resolve(&generated.kind, Freshness::LastKnown) {
            Resolved::Content(content) => content.value,
            _ => SecretValue::new(""),
        };
        let since = match generated.read_mode {
            ReadMode::SnapshotWithStartTime => self.started_at(),
            _ => generated.held_since(value.fingerprint()),
        };
        // While it is open, `fstat` is to agree with what the program reads.
        let size = self.layout.size_at_open(number).unwrap_or(value.len());
        self.file_attr(number, generated.kind.mode(), size, since)
    }

    pub(super) fn file_attr(&self, ino: u64, mode: u16, size: usize, mtime: SystemTime) -> Attr {
        Attr {
            ino,
            file_type: FileType::File,
            mode,
            size: size as u64,
            mtime,
            ctime: mtime,
            nlink: 1,
            valid: Duration::ZERO,
        }
    }

    /// What `stat` shows of an inode, whatever its name leads to now.
    pub(super) fn inode_attr(&self, state: &State, ino: u64) -> Attr {
        let file = state.file_of(ino);
        let number = file.unwrap_or(ino);
        let file = file.and_then(|file| state.file(file));
        let mode = match file {
            Some(file) if file.is_scratch => FileKind::Scratch.mode(),
            Some(file) => self
                .layout
                .kind_at(&file.last)
                .map_or(0o600, |kind| kind.mode()),
            None => 0o600,
        };
        let mut attr = match state.inode(ino) {
            Some(Inode::Version(version)) => Attr {
                valid: self.kept_for(VERSION_VALID),
                ctime: version.changed_at.max(version.mtime),
                ..self.file_attr(number, mode, version.value.len(), version.mtime)
            },
            Some(Inode::Write(inode)) => {
                let mtime = inode.buffer.as_ref().and_then(|buffer| buffer.mtime);
                let mtime = mtime.unwrap_or(inode.changed_at);
                Attr {
                    ctime: inode.changed_at.max(mtime),
                    ..self.file_attr(number, mode, inode.len(), mtime)
                }
            }
            None => self.file_attr(number, mode, 0, self.started_at()),
        };
        attr.nlink = u32::from(file.is_some_and(|file| file.dir_entry.is_some()));
        attr
    }

    /// The kernel forgets `count` lookups of the inode.
    pub fn forget(&self, ino: u64, count: u64) {
        if self.layout.dir(ino).is_none() && self.layout.generated(ino).is_none() {
            self.state().forget(ino, count);
        }
    }
}

/// A caller that has waited takes the last known content.
pub(super) fn freshness_after(has_waited: bool) -> Freshness {
    match has_waited {
        true => Freshness::LastKnown,
        false => Freshness::Fresh,
    }
}
