//! CREATE and MKNOD. Only the process that creates a file finds it until it has its first value.

use std::time::Duration;

use super::kind::{DirKind, FileKind, is_sed_name};
use super::open::Opened;
use super::resolved::{Freshness, Resolved};
use super::{Caller, LookupReply, OpError, Tree};
use crate::error::Error;
use crate::files::reserve;
use crate::process::Process;
use crate::secret::{SecretName, SecretValue};
use crate::simpletuner_db::check_provider_name;
use crate::versions::{DirEntry, Handle, Opener, State, Unavailable};
use crate::views::definition::check_name;

/// Why no file of this name can be made in `config/`.
pub(super) fn not_a_config(name: &str) -> OpError {
    not_a_json_name(name, "config", "provider", check_provider_name)
}

/// Why no file of this name can be made in `views/`.
pub(super) fn not_a_view(name: &str) -> OpError {
    not_a_json_name(name, "views", "view", check_name)
}

fn not_a_json_name(
    name: &str,
    folder: &str,
    of: &str,
    check: fn(&str) -> crate::error::Result<()>,
) -> OpError {
    let problem = match name.strip_suffix(".json") {
        Some(stem) => check(stem).err(),
        None => Some(Error::Malformed {
            what: format!("{name:?} in {folder}/"),
            reason: format!("the name must be a {of}'s, and end in .json"),
        }),
    };
    problem.map_or(OpError::Errno(libc::EINVAL), OpError::Error)
}

impl Tree {
    /// The file that a new file of this name would be.
    fn kind_to_create(&self, dir_entry: &DirEntry, exclusive: bool) -> Result<FileKind, OpError> {
        let dir = self
            .layout
            .dir(dir_entry.dir)
            .ok_or(OpError::Errno(libc::ENOTDIR))?;
        match self.layout.kind_at(dir_entry) {
            _ if dir.has_scratch() && exclusive && is_sed_name(&dir_entry.name) => {
                Ok(FileKind::Scratch)
            }
            Some(
                kind @ (FileKind::Secret(_)
                | FileKind::Price(_)
                | FileKind::Config(_)
                | FileKind::View(_)
                | FileKind::Scratch),
            ) => Ok(kind),
            // Such a file always exists, so creating it means opening it.
            Some(kind @ (FileKind::Bundle(_) | FileKind::PriceTable)) if kind.is_writable() => {
                Ok(kind)
            }
            None => Err(match dir {
                DirKind::Secrets => SecretName::new(&dir_entry.name)
                    .err()
                    .map_or(OpError::Errno(libc::EINVAL), OpError::Error),
                DirKind::Hardware => OpError::Errno(libc::EINVAL),
                DirKind::Config => not_a_config(&dir_entry.name),
                DirKind::Views => not_a_view(&dir_entry.name),
                _ => OpError::Errno(libc::EPERM),
            }),
            Some(_) => Err(OpError::Errno(libc::EPERM)),
        }
    }

    /// Creates a file and opens it to write. Its maker sees it at once, everybody else when it has its first value; a
    /// scratch file can be opened by everyone who knows its name.
    ///
    /// # Errors
    /// EINVAL for a name that no secret or price can have, EPERM where nothing can be created, EEXIST where the name is
    /// there or being made and the flags say O_EXCL. Why a write cannot succeed, if that is known within a moment.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        flags: i32,
        has_waited: bool,
    ) -> Result<(LookupReply, Opened), OpError> {
        self.check_caller(caller, name)?;
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
        let dir_entry = DirEntry::new(parent, name);
        let kind = self.kind_to_create(&dir_entry, flags & libc::O_EXCL != 0)?;
        self.check_write(caller, &dir_entry, &kind, true, has_waited)?;
        // This may be the retry that the caller was asked for.
        state.end_retries(caller.tid);
        let opener = self.opener(caller)?;
        let ino = self.make(&mut state, caller, &opener, &dir_entry, flags)?;
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
    pub fn mknod(&self, caller: &Caller, parent: u64, name: &str) -> Result<LookupReply, OpError> {
        self.check_caller(caller, name)?;
        let mut state = self.state();
        let dir_entry = DirEntry::new(parent, name);
        if caller.is_resend
            && let Some(ino) = self.created_by(&state, caller, &dir_entry)
        {
            return Ok(self.found(&mut state, ino, Duration::ZERO));
        }
        let opener = self.opener(caller)?;
        let ino = self.make(&mut state, caller, &opener, &dir_entry, libc::O_EXCL)?;
        Ok(self.found(&mut state, ino, Duration::ZERO))
    }

    fn make(
        &self,
        state: &mut State,
        caller: &Caller,
        opener: &Opener,
        dir_entry: &DirEntry,
        flags: i32,
    ) -> Result<u64, OpError> {
        let exclusive = flags & libc::O_EXCL != 0;
        let kind = self.kind_to_create(dir_entry, exclusive)?;
        let mine = self.created_by(state, caller, dir_entry);
        if let Some(file) = state.scratch(dir_entry) {
            return match state.file(file).and_then(|file| file.write_ino) {
                Some(write_ino) if !exclusive => Ok(write_ino),
                _ => Err(OpError::Errno(libc::EEXIST)),
            };
        }
        if kind == FileKind::Scratch {
            if mine.is_some() && exclusive {
                return Err(OpError::Errno(libc::EEXIST));
            }
            return Ok(state.create_scratch(dir_entry, opener, b""));
        }
        let base = match self.resolve(&kind, Freshness::LastKnown) {
            Resolved::Content(content) => Some(Ok(content.value)),
            // A provider that fails may have it; whether it has, the file may have one, too.
            Resolved::Failed(error) if exclusive && error.errno() != libc::EKEYREJECTED => None,
            Resolved::Failed(error) => Some(Err(Unavailable::Failed(error.errno()))),
            // No provider is known to have it, so this caller makes it.
            Resolved::Missing | Resolved::Blocked(_) => None,
        };
        if exclusive && state.is_pending(dir_entry) {
            let is_alive = |maker: Process| reserve::with(|| self.processes.is_alive(maker.pid));
            state.abandon_unopened(dir_entry, is_alive);
        }
        if exclusive && (base.is_some() || mine.is_some() || state.is_pending(dir_entry)) {
            return Err(OpError::Errno(libc::EEXIST));
        }
        if let Some(write_ino) = mine {
            return Ok(write_ino);
        }
        Ok(match base {
            Some(base) => {
                let base = match flags & libc::O_TRUNC {
                    0 => base,
                    _ => Ok(SecretValue::new("")),
                };
                let file = state.file_at(dir_entry);
                state.new_write_inode(file, base)
            }
            None => state.create(dir_entry, opener),
        })
    }
}
