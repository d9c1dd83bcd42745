//! UNLINK and RENAME. Both write the secrets file, so they run on a thread that may wait for the disk.

use super::audit::actor;
use super::commit::{Commit, Commits};
use super::kind::{DirKind, FileKind};
use super::resolved::{Freshness, Resolved};
use super::{Caller, OpError, Tree};
use crate::audit::AuditEvent;
use crate::process::Process;
use crate::secret::Change;
use crate::versions::{DirEntry, State, Unavailable};

const ENOENT: OpError = OpError::Errno(libc::ENOENT);

/// What has the old name of a rename.
enum Source {
    /// A scratch file without a writer.
    Scratch(u64),
    /// A file that this process is writing. Its data (in the inode `write_ino`) is renamed, not what the name held before.
    Unclosed {
        file: u64,
        write_ino: u64,
        process: Process,
        /// Everybody may see a value under the old name: what the file held, or what it was renamed over.
        was_seen: bool,
    },
    /// A file without an unclosed write of this process.
    Committed(FileKind),
}

impl Tree {
    /// Removes a name.
    ///
    /// # Errors
    /// EPERM where only another provider has the key, or the file is not one that can be removed; ENOENT.
    pub fn unlink(&self, caller: &Caller, parent: u64, name: &str) -> Result<(), OpError> {
        self.check_caller(caller, name)?;
        let dir_entry = DirEntry::new(parent, name);
        let kind = self
            .layout
            .kind_at(&dir_entry)
            .filter(|_| self.layout.subfolder(&dir_entry).is_none())
            .ok_or(OpError::Errno(libc::EPERM))?;
        let (mine, is_made_here) = {
            let mut state = self.state();
            if state.scratch(&dir_entry).is_some() {
                state.unlink(&dir_entry);
                drop(state);
                // The kernel, which asks each time for a scratch name, drops it itself: no other name is to be asked for anew.
                self.listings_outdated();
                return Ok(());
            }
            let mine = state.pending_of(&dir_entry, || self.processes.of_thread(caller.tid));
            // Or it was opened to write before anybody could say that there is none.
            let is_made_here =
                mine.is_some() || self.created_by(&state, caller, &dir_entry).is_some();
            (mine, is_made_here)
        };
        match self.remove(caller, &kind) {
            Err(error) if is_made_here && is_absent(&error) => {}
            Err(error) if caller.is_resend && is_absent(&error) => {
                // The server that died before it answered has removed it, and may not have recorded that.
                self.record_removal(caller, &kind);
            }
            removed => removed
                .map_err(|error| at(error, name))
                .inspect_err(|error| self.record_failed_write(&dir_entry, error))?,
        }
        let mut state = self.state();
        if let Some(file) = mine {
            // It never appears.
            state.abandon(file);
        }
        state.unlink(&dir_entry);
        drop(state);
        let dir = self.layout.dir(parent);
        if let Some(dir @ (DirKind::Hardware | DirKind::Config | DirKind::Views)) = dir {
            self.layout.mark_changed(dir);
        }
        if matches!(kind, FileKind::Price(_) | FileKind::PriceTable) {
            self.journal_prices();
        }
        self.changed();
        Ok(())
    }

    fn remove(&self, caller: &Caller, kind: &FileKind) -> Result<(), OpError> {
        match kind {
            FileKind::Secret(name) => {
                self.apply(&[Change::Delete(name.clone())], &actor(caller))?;
            }
            FileKind::Price(id) => {
                if !self.hardware.reset(id)? {
                    return Err(ENOENT);
                }
            }
            FileKind::PriceTable => self.hardware.reset_all(),
            FileKind::Config(name) => {
                if !self.configs_or_eperm()?.delete_as(&actor(caller), name)? {
                    return Err(ENOENT);
                }
                self.hardware.invalidate_configured();
            }
            FileKind::View(name) => {
                self.views_or_eperm()?.remove(name)?;
                self.record_removal(caller, kind);
            }
            FileKind::Scratch => return Err(ENOENT),
            _ => return Err(OpError::Errno(libc::EPERM)),
        }
        Ok(())
    }

    fn record_removal(&self, caller: &Caller, kind: &FileKind) {
        match kind {
            FileKind::Secret(name) => {
                self.record_changes(&actor(caller), &[Change::Delete(name.clone())]);
            }
            FileKind::Config(name) => {
                self.record(&actor(caller), AuditEvent::ProviderDeleted(name.clone()))
            }
            FileKind::View(name) => {
                self.record(&actor(caller), AuditEvent::ViewRemoved(name.clone()));
            }
            _ => {}
        }
    }

    /// Renames within a folder. A scratch file renamed onto a secret, a document or a price is a write of it. A file
    /// that its maker has not closed takes its data along: what was fsynced takes effect now, anything else with the
    /// close.
    ///
    /// # Errors
    /// EXDEV across folders; EINVAL for an exchange or a name outside the rule; EEXIST with RENAME_NOREPLACE; EPERM
    /// where the key is only another provider's; those of a write.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        new_parent: u64,
        new_name: &str,
        flags: u32,
    ) -> Result<(), OpError> {
        self.check_caller(caller, name)?;
        if parent != new_parent {
            return Err(OpError::Errno(libc::EXDEV));
        }
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(OpError::Errno(libc::EINVAL));
        }
        let (from, to) = (DirEntry::new(parent, name), DirEntry::new(parent, new_name));
        match self.rename_entry(caller, &from, &to, flags) {
            Err(error) if caller.is_resend && self.was_renamed(&error, &from, &to) => {
                // Where a scratch file is there already, nothing else is to take its name.
                if self.state().scratch(&to).is_none() {
                    self.state().rename(&from, &to);
                }
                self.record_rename(caller, &from, &to);
                self.changed();
                Ok(())
            }
            renamed => renamed.inspect_err(|error| self.record_failed_write(&to, error)),
        }
    }

    /// Whether the rename failed because the server that died before it answered had done it already.
    fn was_renamed(&self, error: &OpError, from: &DirEntry, to: &DirEntry) -> bool {
        let in_the_way =
            is_absent(error) || matches!(error, OpError::Errno(libc::ENOENT | libc::EEXIST));
        in_the_way && !self.exists(from) && self.exists(to)
    }

    /// Whether everybody sees a file of this name.
    fn exists(&self, dir_entry: &DirEntry) -> bool {
        if self.state().scratch(dir_entry).is_some() {
            return true;
        }
        match self.layout.kind_at(dir_entry) {
            Some(FileKind::Scratch) | None => false,
            Some(kind) => !matches!(self.resolve(&kind, Freshness::LastKnown), Resolved::Missing),
        }
    }

    fn source(
        &self,
        state: &State,
        caller: &Caller,
        from: &DirEntry,
        target: &FileKind,
    ) -> Result<Source, OpError> {
        let process = self.processes.of_thread(caller.tid);
        if let Some(file) = state.scratch(from) {
            let write_ino = state.file(file).and_then(|file| file.write_ino);
            let write_ino = write_ino.ok_or(ENOENT)?;
            let is_unclosed = state
                .write_inode(write_ino)
                .is_some_and(|inode| inode.is_unclosed());
            let opener = state.buffer(write_ino).map(|buffer| buffer.opener.process);
            return Ok(match opener.filter(|_| is_unclosed) {
                Some(process) => Source::Unclosed {
                    file,
                    write_ino,
                    process,
                    was_seen: false,
                },
                None => Source::Scratch(write_ino),
            });
        }
        if let Some(process) = process {
            if let Some(file) = state.pending_of(from, || Some(process)) {
                let pending = state.file(file).ok_or(ENOENT)?;
                return Ok(Source::Unclosed {
                    file,
                    write_ino: pending.write_ino.ok_or(ENOENT)?,
                    process,
                    was_seen: pending.is_renamed(),
                });
            }
            if *target != FileKind::Scratch
                && let Some(file) = state.named(from)
                && let Some(write_ino) = state.unclosed_by(file, process)
            {
                return Ok(Source::Unclosed {
                    file,
                    write_ino,
                    process,
                    was_seen: true,
                });
            }
        }
        let kind = self.layout.kind_at(from).ok_or(ENOENT)?;
        match kind {
            FileKind::Scratch => Err(ENOENT),
            kind => Ok(Source::Committed(kind)),
        }
    }

    fn rename_entry(
        &self,
        caller: &Caller,
        from: &DirEntry,
        to: &DirEntry,
        flags: u32,
    ) -> Result<(), OpError> {
        if self.layout.subfolder(from).is_some() || self.layout.subfolder(to).is_some() {
            return Err(OpError::Errno(libc::EPERM));
        }
        // The new name decides what the file is: `sed -i` renames its scratch file `sedXXXXXX`.
        let target = self
            .layout
            .kind_at(to)
            .ok_or(OpError::Errno(libc::EINVAL))?;
        if flags & libc::RENAME_NOREPLACE != 0 && (self.exists(to) || self.state().is_pending(to)) {
            return Err(OpError::Errno(libc::EEXIST));
        }
        if from == to {
            return match self.exists(from) {
                true => Ok(()),
                false => Err(ENOENT),
            };
        }
        let source = self.source(&self.state(), caller, from, &target)?;
        match source {
            Source::Scratch(_) if target == FileKind::Scratch => {
                self.state().rename(from, to);
            }
            Source::Scratch(write_ino) => {
                self.store_scratch(caller, from, to, &target, write_ino)?
            }
            Source::Unclosed {
                file,
                write_ino,
                process,
                was_seen,
            } => {
                if target != FileKind::Scratch && !target.is_writable() {
                    return Err(OpError::Errno(libc::EPERM));
                }
                if was_seen {
                    // The old name is left with nothing: its old value goes, and its unclosed data moves.
                    let kind = self.layout.kind_at(from).ok_or(ENOENT)?;
                    match self.remove(caller, &kind) {
                        Err(error) if is_absent(&error) => {}
                        removed => removed.map_err(|error| at(error, &from.name))?,
                    }
                }
                self.rename_unclosed(file, write_ino, process, from, to, &target)?;
            }
            Source::Committed(kind) => self.rename_committed(caller, kind, from, to, &target)?,
        }
        self.changed();
        Ok(())
    }

    /// A scratch file renamed onto a name is a write of that name.
    fn store_scratch(
        &self,
        caller: &Caller,
        from: &DirEntry,
        to: &DirEntry,
        target: &FileKind,
        write_ino: u64,
    ) -> Result<(), OpError> {
        if !target.is_writable() {
            return Err(OpError::Errno(libc::EPERM));
        }
        let (value, changes, mtime) = {
            let state = self.state();
            let buffer = state.buffer(write_ino).ok_or(ENOENT)?;
            let data = buffer.data.as_ref().map_err(|missing| match missing {
                Unavailable::Failed(errno) => OpError::Errno(*errno),
                Unavailable::Unknown => OpError::unexpected("a rename of unknown bytes"),
            })?;
            if data.len() > target.limit() {
                return Err(OpError::Error(crate::error::Error::TooLarge {
                    what: to.name.clone(),
                    limit: target.limit(),
                }));
            }
            (data.to_value(&to.name)?, buffer.changes, buffer.mtime)
        };
        self.store(target, value.as_bytes(), &self.writer(caller))
            .map_err(|error| error.at(&to.name))?;
        let mut state = self.state();
        if let Some(file) = state.scratch(from) {
            state.committed(write_ino, changes);
            state.publish(file, to);
            if let Some(mtime) = mtime {
                state.set_mtime(file, value.fingerprint(), mtime);
            }
        }
        Ok(())
    }

    fn rename_unclosed(
        &self,
        file: u64,
        write_ino: u64,
        process: Process,
        from: &DirEntry,
        to: &DirEntry,
        target: &FileKind,
    ) -> Result<(), OpError> {
        let mut state = self.state();
        let is_pending = state.file(file).is_some_and(|file| file.pending.is_some());
        if *target == FileKind::Scratch {
            if state.scratch(from) == Some(file) {
                state.rename(from, to);
            } else {
                state.become_scratch(file, to);
            }
            return Ok(());
        }
        match is_pending {
            true => state.move_pending(file, to),
            false => state.make_pending(file, to, write_ino, process),
        }
        let Some(buffer) = state.buffer(write_ino) else {
            return Ok(());
        };
        let Some(synced) = &buffer.synced else {
            return Ok(());
        };
        let is_whole = buffer
            .data
            .as_ref()
            .is_ok_and(|data| data.as_bytes() == synced.as_bytes());
        let commit = match is_whole {
            true => Commit::of_buffer(write_ino),
            false => Commit::of_synced(write_ino),
        };
        state.begin_commit(write_ino);
        drop(state);
        let mut results = self.commit(&[Commits::one(commit)]);
        results.pop().unwrap_or(Ok(()))
    }

    fn rename_committed(
        &self,
        caller: &Caller,
        kind: FileKind,
        from: &DirEntry,
        to: &DirEntry,
        target: &FileKind,
    ) -> Result<(), OpError> {
        match (&kind, target) {
            (FileKind::Secret(old), FileKind::Secret(new)) => {
                let renamed = self.manager.rename(old, new);
                renamed.map_err(|error| error.at(&from.name))?;
                self.record_rename(caller, from, to);
            }
            (FileKind::Config(old), FileKind::Config(new)) => {
                let configs = self.configs_or_eperm()?;
                if !configs.rename_as(&actor(caller), old, new)? {
                    return Err(ENOENT);
                }
                self.hardware.invalidate_configured();
            }
            (FileKind::View(old), FileKind::View(new)) => {
                self.views_or_eperm()?.rename(old, new)?;
                self.record_rename(caller, from, to);
            }
            (FileKind::Secret(old), FileKind::Scratch) => {
                return self.move_to_scratch(caller, old, from, to);
            }
            _ => return Err(OpError::Errno(libc::EPERM)),
        }
        self.state().rename(from, to);
        if let Some(dir @ (DirKind::Config | DirKind::Views)) = self.layout.dir(from.dir) {
            self.layout.mark_changed(dir);
        }
        Ok(())
    }

    fn record_rename(&self, caller: &Caller, from: &DirEntry, to: &DirEntry) {
        let act = match (self.layout.kind_at(from), self.layout.kind_at(to)) {
            (Some(FileKind::Secret(old)), Some(FileKind::Secret(new))) => {
                AuditEvent::SecretRenamed(old, new)
            }
            (Some(FileKind::Config(old)), Some(FileKind::Config(new))) => {
                AuditEvent::ProviderRenamed(old, new)
            }
            (Some(FileKind::View(old)), Some(FileKind::View(new))) => {
                AuditEvent::ViewRenamed(old, new)
            }
            _ => return,
        };
        self.record(&actor(caller), act);
    }
}

fn is_absent(error: &OpError) -> bool {
    match error {
        OpError::Errno(errno) => *errno == libc::ENOENT,
        OpError::Error(error) => error.is_not_found(),
        OpError::Blocked(_) => false,
    }
}

fn at(error: OpError, name: &str) -> OpError {
    match error {
        OpError::Error(error) => OpError::Error(error.at(name)),
        other => other,
    }
}
