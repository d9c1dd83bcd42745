//! Which file a name leads to: names that everybody sees, and pending ones that only the maker of a file sees.

use super::DirEntry;
use super::file::File;
use super::inode::{Inode, Opener, WriteInode};
use super::record::Record;
use super::state::State;
use crate::process::Process;
use crate::secret::{SecretBuffer, SecretValue};

impl State {
    /// The file that everybody finds under a name, if an inode of it is known.
    pub fn named(&self, dir_entry: &DirEntry) -> Option<u64> {
        self.names.get(dir_entry).copied()
    }

    /// Whether a process has the file of this name open to write.
    pub fn is_written(&self, dir_entry: &DirEntry) -> bool {
        let file = self.named(dir_entry);
        file.is_some_and(|file| self.written_inodes(file).next().is_some())
    }

    /// The inodes of a file that are open to write.
    pub(super) fn written_inodes(&self, file: u64) -> impl Iterator<Item = u64> {
        let written = self.written.range((file, 0)..=(file, u64::MAX));
        written.map(|(_, ino)| *ino)
    }

    /// The numbers of all inodes.
    pub fn all_inodes(&self) -> Vec<u64> {
        self.inodes.keys().copied().collect()
    }

    /// The scratch file of a name.
    pub fn scratch(&self, dir_entry: &DirEntry) -> Option<u64> {
        self.named(dir_entry)
            .filter(|file| self.files.get(file).is_some_and(|file| file.is_scratch))
    }

    /// What the scratch file of a name holds.
    pub fn scratch_data(&self, dir_entry: &DirEntry) -> Option<SecretBuffer> {
        let file = self.file(self.scratch(dir_entry)?)?;
        let data = self.buffer(file.write_ino?)?.data.as_ref().ok()?;
        Some(SecretBuffer::new(data.as_bytes()))
    }

    /// How many bytes scratch files hold together.
    pub fn scratch_bytes(&self) -> usize {
        let scratch = self.scratch.iter().filter_map(|file| self.file(*file));
        let inodes = scratch.filter_map(|file| self.write_inode(file.write_ino?));
        inodes.map(WriteInode::len).sum()
    }

    /// The `st_ino` that `stat` and a listing show for a name.
    pub fn st_ino_of(&self, dir_entry: &DirEntry) -> u64 {
        self.named(dir_entry)
            .unwrap_or_else(|| self.free_st_ino(dir_entry))
    }

    /// The first free `st_ino` from the hash of the name on. It may be taken: a file that was renamed keeps its number, and the
    /// kernel may know the number as the placeholder of another name.
    pub(super) fn free_st_ino(&self, dir_entry: &DirEntry) -> u64 {
        let is_taken = |number: &u64| {
            let placeholder = self.placeholders.peek(number);
            placeholder.is_some_and(|placeholder| placeholder.dir_entry != *dir_entry)
        };
        let mut number = dir_entry.hashed_ino();
        while self.files.contains_key(&number) || is_taken(&number) {
            number += 1;
        }
        number
    }

    /// A file that has no name yet.
    pub(super) fn new_file(&mut self, dir_entry: &DirEntry) -> u64 {
        let number = self.free_st_ino(dir_entry);
        self.put_file(
            number,
            File {
                dir_entry: None,
                last: dir_entry.clone(),
                earlier: None,
                has_vanished: false,
                current: None,
                write_ino: None,
                pending: None,
                is_scratch: false,
                mtime: None,
                inodes: 0,
            },
        );
        self.record_file(number);
        number
    }

    /// The file that everybody finds under a name; where none is known yet, one is made.
    pub fn file_at(&mut self, dir_entry: &DirEntry) -> u64 {
        if let Some(file) = self.named(dir_entry) {
            return file;
        }
        let file = self.new_file(dir_entry);
        self.names.insert(dir_entry.clone(), file);
        self.change_file(file, |file| file.dir_entry = Some(dir_entry.clone()));
        file
    }

    /// Takes a name that everybody sees from its file.
    pub fn unlink(&mut self, dir_entry: &DirEntry) {
        let placeholder = self.placeholders.peek(&dir_entry.hashed_ino());
        if placeholder.is_some_and(|placeholder| placeholder.dir_entry == *dir_entry) {
            self.placeholders.pop(&dir_entry.hashed_ino());
        }
        let Some(file) = self.names.remove(dir_entry) else {
            return;
        };
        self.change_file(file, |file| file.dir_entry = None);
        self.drop_unused(file);
    }

    /// Moves a file that everybody sees, over whatever has the new name.
    pub fn rename(&mut self, from: &DirEntry, to: &DirEntry) {
        self.unlink(to);
        let Some(file) = self.names.remove(from) else {
            return;
        };
        self.names.insert(to.clone(), file);
        self.change_file(file, |file| {
            file.dir_entry = Some(to.clone());
            file.move_to(to);
        });
    }

    /// Creates a file that only its maker sees until it has a first value.
    pub fn create(&mut self, dir_entry: &DirEntry, maker: &Opener) -> u64 {
        let file = self.new_file(dir_entry);
        let ino = self.new_write_inode(file, Ok(SecretValue::new("")));
        self.make_pending(file, dir_entry, ino, maker.process);
        self.start_buffer(ino, maker);
        // An empty file that is created and closed is a value, too.
        self.mark_dirty(ino);
        ino
    }

    /// Creates a scratch file that holds these bytes.
    pub fn create_scratch(&mut self, dir_entry: &DirEntry, maker: &Opener, bytes: &[u8]) -> u64 {
        self.unlink(dir_entry);
        let file = self.new_file(dir_entry);
        self.fill_scratch(file, dir_entry, maker, bytes)
    }

    /// Renames a file that everybody sees to a scratch name, under which it holds these bytes. A process that is
    /// writing the file keeps writing; [`keep_in_scratch`](Self::keep_in_scratch) then puts its bytes into the scratch file.
    pub fn rename_to_scratch(
        &mut self,
        from: &DirEntry,
        to: &DirEntry,
        maker: &Opener,
        bytes: &[u8],
    ) -> u64 {
        self.unlink(to);
        let file = self.file_at(from);
        self.names.remove(from);
        let ino = self.fill_scratch(file, to, maker, bytes);
        if let Some(old) = self.files.get(&file).and_then(|file| file.current) {
            self.change_file(file, |file| file.current = None);
            self.drop_if_unused(old);
        }
        ino
    }

    fn fill_scratch(&mut self, file: u64, to: &DirEntry, maker: &Opener, bytes: &[u8]) -> u64 {
        let ino = self.new_write_inode(file, Ok(SecretValue::new("")));
        self.start_buffer(ino, maker);
        self.write_bytes(ino, 0, bytes);
        self.names.insert(to.clone(), file);
        self.change_file(file, |file| {
            file.dir_entry = Some(to.clone());
            file.move_to(to);
            file.has_vanished = false;
            file.is_scratch = true;
            file.write_ino = Some(ino);
        });
        ino
    }

    /// A process has closed a file that was renamed to a scratch name meanwhile: the scratch file holds what it wrote.
    pub fn keep_in_scratch(&mut self, file: u64, ino: u64) {
        let old = self.files.get(&file).and_then(|file| file.write_ino);
        self.change_file(file, |file| file.write_ino = Some(ino));
        if let Some(old) = old {
            self.drop_if_unused(old);
        }
    }

    /// Whether this inode is a scratch file's own: what is written to it is in the file at once, and never committed.
    pub fn is_scratch_inode(&self, ino: u64) -> bool {
        let file = self.file_of(ino).and_then(|file| self.files.get(&file));
        file.is_some_and(|file| file.is_scratch && file.write_ino == Some(ino))
    }

    /// Makes a file pending: from now on only this process sees it.
    pub fn make_pending(
        &mut self,
        file: u64,
        dir_entry: &DirEntry,
        write_ino: u64,
        process: Process,
    ) {
        self.leave_name(file);
        self.pending
            .entry(dir_entry.clone())
            .or_default()
            .push(file);
        let old = self.files.get(&file).and_then(|file| file.current);
        self.change_file(file, |file| {
            file.dir_entry = Some(dir_entry.clone());
            file.move_to(dir_entry);
            file.write_ino = Some(write_ino);
            file.pending = Some(process);
            file.has_vanished = false;
            file.is_scratch = false;
            file.current = None;
        });
        if let Some(old) = old {
            self.drop_if_unused(old);
        }
    }

    /// Whether a file of this name is pending.
    pub fn is_pending(&self, dir_entry: &DirEntry) -> bool {
        self.pending.contains_key(dir_entry)
    }

    /// Abandons what was made under this name without being opened (mknod(2)), if its maker is gone: no RELEASE will come for it.
    pub fn abandon_unopened(&mut self, dir_entry: &DirEntry, is_alive: impl Fn(Process) -> bool) {
        let pending = self.pending.get(dir_entry).cloned().unwrap_or_default();
        for file in pending {
            let is_left = self.files.get(&file).is_some_and(|known| {
                let inode = known.write_ino.and_then(|ino| self.write_inode(ino));
                inode.is_none_or(|inode| !inode.is_held())
                    && known.pending.is_some_and(|maker| !is_alive(maker))
            });
            if is_left {
                self.abandon(file);
            }
        }
    }

    /// The file of this name that the process is making.
    pub fn pending_of(
        &self,
        dir_entry: &DirEntry,
        process: impl FnOnce() -> Option<Process>,
    ) -> Option<u64> {
        let pending = self.pending.get(dir_entry)?;
        let process = process()?;
        let is_its = |file: &&u64| {
            self.files
                .get(file)
                .is_some_and(|file| file.pending == Some(process))
        };
        pending.iter().find(is_its).copied()
    }

    pub(super) fn unlist_pending(&mut self, file: u64) {
        let Some(dir_entry) = self
            .files
            .get(&file)
            .and_then(|file| file.dir_entry.clone())
        else {
            return;
        };
        if let Some(pending) = self.pending.get_mut(&dir_entry) {
            pending.retain(|pending| *pending != file);
            if pending.is_empty() {
                self.pending.remove(&dir_entry);
            }
        }
    }

    /// Gives up a pending file: it never appears.
    pub fn abandon(&mut self, file: u64) {
        self.unlist_pending(file);
        self.change_file(file, |file| {
            file.pending = None;
            file.dir_entry = None;
        });
        self.drop_unused(file);
    }

    /// Renames a pending file; it stays pending.
    pub fn move_pending(&mut self, file: u64, to: &DirEntry) {
        self.unlist_pending(file);
        self.pending.entry(to.clone()).or_default().push(file);
        self.change_file(file, |file| {
            file.dir_entry = Some(to.clone());
            file.move_to(to);
        });
    }

    /// Takes the file out from under the name that everybody sees it by, if it has one.
    pub(super) fn leave_name(&mut self, file: u64) {
        if let Some(from) = self
            .files
            .get(&file)
            .and_then(|file| file.dir_entry.as_ref())
            && self.names.get(from) == Some(&file)
        {
            self.names.remove(from);
        }
    }

    /// Shows the file to everybody, in the place of the one that had the name.
    pub fn publish(&mut self, file: u64, dir_entry: &DirEntry) {
        if self.named(dir_entry) == Some(file)
            && self
                .files
                .get(&file)
                .is_some_and(|file| file.pending.is_none() && !file.is_scratch)
        {
            return;
        }
        self.unlist_pending(file);
        self.leave_name(file);
        let is_renamed = self
            .files
            .get(&file)
            .is_some_and(|file| file.is_renamed() || file.is_scratch);
        match is_renamed {
            true => self.unlink(dir_entry),
            // Two made the name at the same time: writers of the other one's file keep writing it.
            false => self.vanish(dir_entry),
        }
        self.names.insert(dir_entry.clone(), file);
        self.change_file(file, |file| {
            file.dir_entry = Some(dir_entry.clone());
            file.move_to(dir_entry);
            file.write_ino = None;
            file.pending = None;
            file.is_scratch = false;
        });
    }

    /// Makes a file a scratch file of this name, which keeps its buffer.
    pub fn become_scratch(&mut self, file: u64, dir_entry: &DirEntry) {
        let write_ino = self.files.get(&file).and_then(|file| file.write_ino);
        self.publish(file, dir_entry);
        self.change_file(file, |file| {
            file.write_ino = write_ino;
            file.is_scratch = true;
        });
    }

    /// The inode of this file that the process has written to and not closed; the newest if there are several.
    pub fn unclosed_by(&self, file: u64, process: Process) -> Option<u64> {
        let inodes = self.inodes.iter().filter(|(_, inode)| match inode {
            Inode::Write(inode) => {
                inode.file == file
                    && inode.is_unclosed()
                    && inode
                        .buffer
                        .as_ref()
                        .is_some_and(|buffer| buffer.opener.process == process)
            }
            Inode::Version(_) => false,
        });
        inodes.map(|(ino, _)| *ino).max()
    }

    /// Removes a name that leads to no value any more. If a process is writing the file, the file becomes pending, and the close
    /// makes it.
    pub fn vanish(&mut self, dir_entry: &DirEntry) {
        let Some(file) = self.named(dir_entry) else {
            return;
        };
        let writers = self.inodes.iter().filter_map(|(ino, inode)| match inode {
            Inode::Write(inode) if inode.file == file && inode.is_held() => {
                let buffer = inode.buffer.as_ref()?;
                // If the open made the file, a child that inherited the descriptor may still write to it.
                let is_new = inode.base.as_ref().map_or(true, SecretValue::is_empty);
                let is_open = !buffer.is_closed || (is_new && buffer.changes == 0);
                let is_wanted = !buffer.is_killed && (is_open || buffer.is_dirty());
                is_wanted.then_some((*ino, buffer.opener.process, buffer.is_unknown()))
            }
            _ => None,
        });
        let writers: Vec<(u64, Process, bool)> = writers.collect();
        for (ino, _, _) in writers.iter().filter(|(_, _, is_unknown)| *is_unknown) {
            // Wherever it is renamed to, it began with nothing.
            self.supply_base(*ino, Ok(SecretValue::new("")));
        }
        match writers.into_iter().max_by_key(|(ino, ..)| *ino) {
            Some((write_ino, process, _)) => self.make_pending(file, dir_entry, write_ino, process),
            None => {
                self.unlink(dir_entry);
                if let Some(known) = self.files.get_mut(&file) {
                    known.has_vanished = true;
                    self.record(Record::Vanished(file));
                }
            }
        }
    }
}
