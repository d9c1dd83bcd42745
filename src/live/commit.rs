//! Commits: what a close, a rename or a truncation wrote is stored, whole or not at all.

use super::audit::Writer;
use super::kind::{DirKind, FileKind};
use super::{OpError, Tree, WorkQueue};
use crate::error::Result;
use crate::files::reserve;
use crate::secret::{Change, SecretBuffer, SecretName, SecretValue};
use crate::versions::{DirEntry, Inode, Unavailable};

/// A write that is to be committed.
#[derive(Debug)]
pub struct Commit(CommitSource);

#[derive(Debug)]
enum CommitSource {
    /// What an inode's buffer holds.
    Buffer(u64),
    /// What an inode's buffer held when it was fsynced last.
    Synced(u64),
    /// What a name holds after truncate(2).
    Truncation {
        dir_entry: DirEntry,
        data: SecretBuffer,
        writer: Writer,
    },
}

impl Commit {
    pub(super) fn of_truncation(dir_entry: DirEntry, data: SecretBuffer, writer: Writer) -> Self {
        Self(CommitSource::Truncation {
            dir_entry,
            data,
            writer,
        })
    }

    pub(super) fn of_buffer(ino: u64) -> Self {
        Self(CommitSource::Buffer(ino))
    }

    pub(super) fn of_synced(ino: u64) -> Self {
        Self(CommitSource::Synced(ino))
    }
}

/// What one operation commits, in order.
#[derive(Debug, Default)]
pub struct Commits(Vec<Commit>);

impl Commits {
    pub(super) fn one(commit: Commit) -> Self {
        Self(vec![commit])
    }

    /// What the buffers of these inodes hold, in this order.
    pub(super) fn of_buffers(inodes: impl IntoIterator<Item = u64>) -> Self {
        Self(inodes.into_iter().map(Commit::of_buffer).collect())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of the first inode, as an id of these commits.
    pub fn first_ino(&self) -> u64 {
        match self.0.first() {
            Some(Commit(CommitSource::Buffer(ino) | CommitSource::Synced(ino))) => *ino,
            _ => 0,
        }
    }
}

/// What a commit writes, and where.
struct PendingWrite {
    dir_entry: DirEntry,
    kind: FileKind,
    value: SecretValue,
    writer: Writer,
}

/// What a commit has to do.
enum Prepared {
    /// Nothing is to be written.
    Nothing,
    Failed(OpError),
    Write(PendingWrite),
}

impl Tree {
    /// Ends these commits without writing anything.
    pub fn discard(&self, commits: &Commits) {
        for commit in &commits.0 {
            let changes = match &commit.0 {
                CommitSource::Buffer(ino) => {
                    self.state().buffer(*ino).map_or(0, |buffer| buffer.changes)
                }
                _ => 0,
            };
            self.end(commit, changes, None, &mut Ok(()), Ok(()));
        }
    }

    /// Which queue a commit is for.
    pub fn queue_of(&self, commits: &Commits) -> WorkQueue {
        let state = self.state();
        let is_config = |commit: &Commit| match &commit.0 {
            CommitSource::Buffer(ino) | CommitSource::Synced(ino) => {
                matches!(self.kind_of_inode(&state, *ino), Ok(FileKind::Config(_)))
            }
            CommitSource::Truncation { dir_entry, .. } => {
                matches!(self.layout.kind_at(dir_entry), Some(FileKind::Config(_)))
            }
        };
        match commits.0.iter().any(is_config) {
            true => WorkQueue::Database,
            false => WorkQueue::Store,
        }
    }

    /// Which queue a change of these names in a folder is for.
    pub fn queue_of_names(&self, dir: u64, names: &[&str]) -> WorkQueue {
        let is_config = |name: &&str| {
            matches!(
                self.layout.kind_at(&DirEntry::new(dir, name)),
                Some(FileKind::Config(_))
            )
        };
        match names.iter().any(is_config) {
            true => WorkQueue::Database,
            false => WorkQueue::Store,
        }
    }

    /// Commits these writes. Consecutive writes of secrets go into one rewrite of the store, and each gets its own result.
    /// It waits for the disk and for other writers of the secrets file.
    ///
    /// # Errors
    /// Those of the contract's table; then nothing of that write has changed.
    pub fn commit(&self, all: &[Commits]) -> Vec<std::result::Result<(), OpError>> {
        reserve::with(|| self.commit_all(all))
    }

    fn commit_all(&self, all: &[Commits]) -> Vec<std::result::Result<(), OpError>> {
        let mut results: Vec<_> = all.iter().map(|_| Ok(())).collect();
        let mut batch: Vec<(usize, &Commit, BatchedWrite)> = Vec::new();
        for (index, commits) in all.iter().enumerate() {
            for commit in &commits.0 {
                let (prepared, changes) = self.prepare(commit);
                match prepared {
                    Prepared::Nothing => {
                        self.end(commit, changes, None, &mut results[index], Ok(()))
                    }
                    Prepared::Failed(error) => {
                        self.end(commit, changes, None, &mut results[index], Err(error));
                    }
                    Prepared::Write(write) => {
                        batch.push((index, commit, BatchedWrite { write, changes }))
                    }
                }
                let is_secret = |(_, _, batched): &(usize, &Commit, BatchedWrite)| {
                    matches!(batched.write.kind, FileKind::Secret(_))
                };
                if !batch.last().is_some_and(is_secret) {
                    self.write_batch(&mut batch, &mut results);
                }
            }
        }
        self.write_batch(&mut batch, &mut results);
        results
    }

    fn write_batch(
        &self,
        batch: &mut Vec<(usize, &Commit, BatchedWrite)>,
        results: &mut [std::result::Result<(), OpError>],
    ) {
        if batch.is_empty() {
            return;
        }
        let batch = std::mem::take(batch);
        let all_secrets = batch
            .iter()
            .all(|(_, _, batched)| matches!(batched.write.kind, FileKind::Secret(_)));
        let written: Vec<Result<()>> = match all_secrets && batch.len() > 1 {
            true => self.store_together(&batch),
            false => {
                let one = batch.iter().map(|(_, _, batched)| {
                    let PendingWrite {
                        kind,
                        value,
                        writer,
                        ..
                    } = &batched.write;
                    self.store(kind, value.as_bytes(), writer)
                });
                one.collect()
            }
        };
        for ((index, commit, batched), written) in batch.into_iter().zip(written) {
            let name = batched.write.dir_entry.name.clone();
            let written = written.map_err(|error| OpError::Error(error.at(&name)));
            self.end(
                commit,
                batched.changes,
                Some(&batched.write),
                &mut results[index],
                written,
            );
        }
        self.changed();
    }

    fn store_together(&self, batch: &[(usize, &Commit, BatchedWrite)]) -> Vec<Result<()>> {
        let change = |batched: &BatchedWrite| match &batched.write.kind {
            FileKind::Secret(name) => vec![Change::Set(
                SecretName::clone(name),
                batched.write.value.clone(),
            )],
            _ => Vec::new(),
        };
        let changes: Vec<Vec<Change>> = batch
            .iter()
            .map(|(_, _, batched)| change(batched))
            .collect();
        let sets: Vec<&[Change]> = changes.iter().map(Vec::as_slice).collect();
        let results = match self.manager.apply_each(&sets) {
            Ok(results) => results,
            Err(error) => sets.iter().map(|_| Err(error.duplicate())).collect(),
        };
        for (((_, _, batched), changes), result) in batch.iter().zip(&changes).zip(&results) {
            if result.is_ok() {
                self.record_changes(&batched.write.writer.actor, changes);
            }
        }
        results.into_iter().map(|result| result.map(drop)).collect()
    }

    /// What a commit has to write, and the number of changes that the buffer had by then.
    fn prepare(&self, commit: &Commit) -> (Prepared, u64) {
        let mut state = self.state();
        let ino = match &commit.0 {
            CommitSource::Buffer(ino) | CommitSource::Synced(ino) => *ino,
            CommitSource::Truncation {
                dir_entry,
                data,
                writer,
            } => {
                let prepared = match (
                    self.layout.kind_at(dir_entry),
                    data.to_value(&dir_entry.name),
                ) {
                    (Some(kind), Ok(value)) => Prepared::Write(PendingWrite {
                        dir_entry: dir_entry.clone(),
                        kind,
                        value,
                        writer: writer.clone(),
                    }),
                    (None, _) => Prepared::Nothing,
                    (_, Err(error)) => Prepared::Failed(OpError::Error(error)),
                };
                return (prepared, 0);
            }
        };
        let Some(Inode::Write(inode)) = state.inode(ino) else {
            return (Prepared::Nothing, 0);
        };
        let Some(buffer) = inode.buffer.as_ref().filter(|buffer| buffer.is_dirty()) else {
            return (
                Prepared::Nothing,
                inode.buffer.as_ref().map_or(0, |buffer| buffer.changes),
            );
        };
        let (data, changes) = match &commit.0 {
            // What was written after the fsync is committed later.
            CommitSource::Synced(_) => (
                buffer.synced.as_ref().ok_or(Unavailable::Unknown),
                buffer.committed,
            ),
            _ => (
                buffer.data.as_ref().map_err(|missing| *missing),
                buffer.changes,
            ),
        };
        let Some(file) = state.file(inode.file) else {
            return (Prepared::Nothing, changes);
        };
        // The file was removed or replaced meanwhile, so what was written goes with it.
        let Some(dir_entry) = file.dir_entry.clone() else {
            return (Prepared::Nothing, changes);
        };
        if file.is_scratch {
            if let Err(Unavailable::Failed(errno)) = data {
                return (Prepared::Failed(OpError::Errno(errno)), changes);
            }
            if data.is_ok() && file.write_ino != Some(ino) {
                let file = inode.file;
                state.keep_in_scratch(file, ino);
            }
            return (Prepared::Nothing, changes);
        }
        let Some(kind) = self.layout.kind_at(&dir_entry) else {
            return (Prepared::Nothing, changes);
        };
        let value = match data {
            Ok(data) => data.to_value(&dir_entry.name),
            // The write that was refused has given its reason.
            Err(Unavailable::Failed(errno)) => {
                return (Prepared::Failed(OpError::Errno(errno)), changes);
            }
            Err(Unavailable::Unknown) => return (Prepared::Nothing, changes),
        };
        let prepared = match value {
            Ok(value) => Prepared::Write(PendingWrite {
                dir_entry,
                kind,
                value,
                writer: Writer::of_opener(&buffer.opener),
            }),
            Err(error) => Prepared::Failed(OpError::Error(error)),
        };
        (prepared, changes)
    }

    /// Ends a commit. A failed one is not tried again, because close(2) returns its error.
    fn end(
        &self,
        commit: &Commit,
        changes: u64,
        write: Option<&PendingWrite>,
        result: &mut std::result::Result<(), OpError>,
        written: std::result::Result<(), OpError>,
    ) {
        let mut state = self.state();
        match (&written, write) {
            (Ok(()), Some(write)) => {
                self.counters.writes.increment();
                self.forget_failed_write(write.kind.written_by());
            }
            (Ok(()), None) | (Err(OpError::Errno(_)), _) => {}
            (Err(error), write) => {
                let dir_entry = match (write, &commit.0) {
                    (Some(write), _) => Some(&write.dir_entry),
                    (None, CommitSource::Truncation { dir_entry, .. }) => Some(dir_entry),
                    (None, CommitSource::Buffer(ino) | CommitSource::Synced(ino)) => {
                        state.last_dir_entry(*ino)
                    }
                };
                if let Some(dir_entry) = dir_entry {
                    self.record_failed_write(dir_entry, error);
                }
            }
        }
        match &commit.0 {
            CommitSource::Buffer(ino) | CommitSource::Synced(ino) => {
                let mtime = state.buffer(*ino).and_then(|buffer| buffer.mtime);
                if let (Ok(()), Some(write), Some(file)) = (&written, write, state.file_of(*ino)) {
                    let is_there = state
                        .file(file)
                        .is_some_and(|file| file.dir_entry.as_ref() == Some(&write.dir_entry));
                    let is_whole = matches!(commit.0, CommitSource::Buffer(_));
                    if is_there && is_whole {
                        let is_new = state.named(&write.dir_entry) != Some(file);
                        if is_new
                            && let Some(
                                dir @ (DirKind::Hardware | DirKind::Config | DirKind::Views),
                            ) = self.layout.dir(write.dir_entry.dir)
                        {
                            self.layout.mark_changed(dir);
                        }
                        state.publish(file, &write.dir_entry);
                        if let Some(mtime) = mtime {
                            state.set_mtime(file, write.value.fingerprint(), mtime);
                        }
                    }
                }
                if let CommitSource::Buffer(_) = commit.0 {
                    state.committed(*ino, changes);
                    if written.is_err()
                        && let Some(file) = state.file_of(*ino)
                    {
                        let is_over = state.buffer(*ino).is_some_and(|buffer| buffer.is_closed);
                        if is_over && state.file(file).is_some_and(|e| e.pending.is_some()) {
                            // A name that did not get its first value is gone for its maker, too.
                            state.abandon(file);
                        }
                    }
                }
                state.end_commit(*ino);
            }
            CommitSource::Truncation { .. } => {}
        }
        if result.is_ok() {
            *result = written;
        }
    }
}

/// A write in the batch that is stored next, and how many changes of its buffer it has.
struct BatchedWrite {
    write: PendingWrite,
    changes: u64,
}
