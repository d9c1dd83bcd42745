//! Writes the secrets file: reads it again under its lock, edits the document, replaces the file whole. Knows no cache
//! and no other provider.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use zeroize::Zeroizing;

use super::document::looks_encrypted;
use super::keep::{Kept, KeyEdit};
use super::reader::{ContentHash, LoadedDocument, Observed};
use super::state::State;
use super::write::{Lock, Replacement, sync_folder_of};
use super::write_queue::{Edit, NewValue};
use super::{Document, FileProvider, MAX_DOCUMENT, MIN_TIMEOUT, Sealed, Shared, Stored};
use super::{KeyRotationPlan, KeyRotationReport, KeyRotationRequest, key_check};
use super::{PastChange, Undo, UndoRequest};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::files::{Stamp, reserve};
use crate::provider::{Decrypted, Done, KeyChange, SecretStore};
use crate::secret::{Change, MAX_VALUE, SecretName, SecretValue};
use crate::sync::MutexGuard;

/// A document that is ready to be put in place.
pub(super) struct NewDocument {
    pub(super) document: Document,
    pub(super) content: ContentHash,
    pub(super) replacement: Replacement,
    /// What it replaces, as far as that is kept.
    pub(super) kept: Kept,
    pub(super) changes: Vec<KeyChange>,
}

impl Shared {
    /// Applies the edits in one atomic write. Each succeeds or fails alone.
    fn edit_all(&self, edits: &[&Edit]) -> Vec<Result<()>> {
        let mut results = Vec::new();
        let edit_all = |document: &mut Document, path: &Path| {
            let mut done = Vec::new();
            results = edits
                .iter()
                .map(|edit| self.apply(document, path, edit, &mut done))
                .collect();
            Ok((!done.is_empty()).then_some(done))
        };
        let written = reserve::with(|| self.edit(edit_all));
        match written {
            Ok(()) => results,
            // Perhaps only one of them makes the file too large, or would change another entry.
            Err(Error::TooLarge { .. } | Error::Malformed { .. }) if edits.len() > 1 => edits
                .iter()
                .flat_map(|edit| self.edit_all(&[edit]))
                .collect(),
            Err(error) if results.is_empty() => {
                edits.iter().map(|_| Err(error.duplicate())).collect()
            }
            Err(error) => results
                .into_iter()
                .map(|result| result.and_then(|()| Err(error.duplicate())))
                .collect(),
        }
    }

    /// Changes the document in one atomic write, unless `edit` returns `None`. The changes that it returns are recorded
    /// as own writes, and what was there before is kept.
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&mut Document, &Path) -> Result<Option<Vec<KeyEdit>>>,
    ) -> Result<()> {
        let (path, _lock) = self.lock()?;
        let found = self.read_under_lock()?;
        let mut document = (*found.document).clone();
        let Some(changes) = edit(&mut document, &path)? else {
            return Ok(());
        };
        let content = self.render(&document, &path)?;
        self.warn_if_linked(&path);
        let kept = self.prepare_previous(&path, &document, &changes)?;
        let replacement = Replacement::prepare(&path, &content, 0o600)?;
        self.report_hidden(&path, &found.document, &document);
        let changes = changes.into_iter().map(|done| done.key).collect();
        let new = NewDocument {
            document,
            content: ContentHash::of(&path, &content),
            replacement,
            kept,
            changes,
        };
        self.replace(&path, found, new)?;
        sync_folder_of(&path);
        Ok(())
    }

    /// The file's new content.
    pub(super) fn render(&self, document: &Document, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
        let content = document.render()?;
        if content.len() > MAX_DOCUMENT {
            return Err(Error::TooLarge {
                what: format!("the secrets file {}", path.display()),
                limit: MAX_DOCUMENT,
            });
        }
        Ok(content)
    }

    /// Puts a new document in the place of the one that was found under the lock, which the caller holds.
    pub(super) fn replace(
        &self,
        path: &Path,
        found: LoadedDocument,
        new: NewDocument,
    ) -> Result<()> {
        // While the lock is held, no rotation replaces the key.
        let needs_key = self.state.lock().needs_key();
        let key = needs_key.then(|| self.options.key.cipher());
        let kept = new.kept.put_in_place()?;
        {
            let (stamp, mut state) = match self.put_in_place(new.replacement) {
                Ok(written) => written,
                Err(error) => {
                    kept.take_back();
                    return Err(error);
                }
            };
            // First what other programs changed since the last check, so that it is reported; own changes are not.
            state.apply_loaded(found, key);
            state.source.current_mut().source = path.display().to_string();
            let written = LoadedDocument {
                document: Arc::new(new.document),
                content: Some(new.content),
                modified: stamp.modified(),
            };
            state.apply_own_write(Observed::after_read(path, stamp), written, &new.changes);
        }
        if let Some(peers) = self.peers_of(path, false) {
            peers.announce();
        }
        Ok(())
    }

    /// The file's document: the loaded one if the stamp is unchanged, else the file is read.
    pub(super) fn read_under_lock(&self) -> Result<LoadedDocument> {
        let located = self.options.location.locate()?;
        {
            let state = self.state.lock();
            if state.is_current(&located)
                && !state.source.is_failing()
                && let Some(loaded) = state.loaded()
            {
                return Ok(loaded.clone());
            }
        }
        self.read_now().loaded
    }

    /// Replaces the file. `is_writing` keeps a concurrent check from taking this write for another program's edit.
    fn put_in_place(&self, replacement: Replacement) -> Result<(Stamp, MutexGuard<'_, State>)> {
        self.state.lock().is_writing = true;
        let committed = replacement.commit();
        let mut state = self.state.lock();
        state.is_writing = false;
        state.writes += 1;
        self.written.notify_all();
        Ok((committed?, state))
    }

    /// Locks the file. `adopt` may move the store while this waits, so the path is checked again.
    pub(super) fn lock(&self) -> Result<(std::path::PathBuf, Lock)> {
        let mut path = self.path_now()?;
        loop {
            let lock = Lock::take(&path, self.options.lock_timeout)?;
            let now = self.path_now()?;
            if now == path {
                return Ok((path, lock));
            }
            // `adopt` has removed it, and this process has made it anew.
            if matches!(rustix::fs::lstat(&path), Err(rustix::io::Errno::NOENT)) {
                lock.remove();
            }
            path = now;
        }
    }

    /// A value's stored form. `cipher` gives the key if it is needed.
    pub(super) fn seal(
        &self,
        value: &SecretValue,
        cipher: impl FnOnce() -> Result<Arc<CredentialCipher>>,
    ) -> Result<Stored> {
        match self.needs_key(value) {
            true if self.options.encrypt => Ok(Stored::Encrypted(Sealed::seal(value, &cipher()?))),
            true => Ok(Stored::Encrypted(Sealed::seal(
                &value.without_newline(),
                &cipher()?,
            ))),
            // SimpleTuner reads plain values as they are stored, with the newline.
            false => Ok(Stored::Plain(value.without_newline())),
        }
    }

    /// A plain value that looks encrypted would be decrypted when it is read.
    fn needs_key(&self, value: &SecretValue) -> bool {
        self.options.encrypt || looks_encrypted(value.without_newline().as_str())
    }

    /// The cipher for new values of this document.
    pub(super) fn cipher_for(
        &self,
        document: &Document,
        path: &Path,
    ) -> Result<Arc<CredentialCipher>> {
        let cipher = key_check::cipher_for(document, &self.options.key, path)?;
        // Readers get it with the document of the same moment.
        self.state.lock().request_key();
        Ok(cipher)
    }

    /// A write replaces only one of a file's hard links.
    fn warn_if_linked(&self, path: &Path) {
        if rustix::fs::lstat(path).is_ok_and(|stat| stat.st_nlink > 1)
            && !self.warned.linked.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "{} has another name (a hard link), under which the file stays as it was before this write; \
                 use a symbolic link instead",
                path.display()
            );
        }
    }

    /// SimpleTuner's server reads the default file itself, and decrypts nothing in it.
    fn report_hidden(&self, path: &Path, before: &Document, after: &Document) {
        let is_hidden = |name: &&SecretName| {
            let stored = (before.get(name), after.get(name));
            matches!(stored, (Some(Stored::Plain(_)), Some(Stored::Encrypted(_))))
        };
        let hidden: Vec<SecretName> = before.names().filter(is_hidden).cloned().collect();
        if hidden.is_empty() || !self.options.location.is_default(path) {
            return;
        }
        if let Some(first) = hidden.first()
            && !self.warned.hidden.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{}", super::hidden(first, path));
        }
        self.hidden.lock().extend(hidden);
    }
}

impl SecretStore for FileProvider {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        let mut results = self.apply_each(&[changes]);
        results.pop().unwrap_or(Ok(()))
    }

    fn apply_each(&self, batches: &[&[Change]]) -> Vec<Result<()>> {
        let edits: Vec<Result<Edit>> = batches.iter().map(|batch| self.0.prepare(batch)).collect();
        let mut results = Vec::with_capacity(edits.len());
        let mut good = Vec::new();
        for edit in edits {
            results.push(edit.map(|edit| good.push(edit)));
        }
        let nothing = |edit: &Edit| matches!(edit, Edit::Changes(changes) if changes.is_empty());
        let mut written = match good.iter().all(nothing) {
            true => Vec::new(),
            false => self.0.write(good),
        }
        .into_iter();
        results
            .into_iter()
            .map(|prepared| prepared.and_then(|()| written.next().unwrap_or(Ok(()))))
            .collect()
    }

    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        let mut results = self.0.write(vec![Edit::Rename(from.clone(), to.clone())]);
        results.pop().unwrap_or(Ok(()))
    }

    fn encrypt_all(&self) -> Result<usize> {
        self.0.encrypt_all()
    }

    fn ensure_key(&self) -> Result<()> {
        if !self.0.options.key.exists() {
            let document = self.0.read_now().loaded?.document;
            self.0.cipher_for(&document, &self.0.path_now()?)?;
        }
        Ok(())
    }

    fn history(&self) -> Result<Vec<PastChange>> {
        self.0.history()
    }

    fn plan_undo(&self, what: &UndoRequest) -> Result<Vec<Undo>> {
        self.0.plan_undo(what)
    }

    fn undo(&self, planned: &[Undo]) -> Result<()> {
        let mut results = self.0.write(vec![Edit::Undo(planned.to_vec())]);
        results.pop().unwrap_or(Ok(()))
    }

    fn decrypt_all(&self, dry_run: bool) -> Result<Decrypted> {
        self.0.decrypt_all(dry_run)
    }

    fn plan_key_rotation(&self) -> Result<KeyRotationPlan> {
        self.0.plan_key_rotation()
    }

    fn rotate_key(
        &self,
        plan: &KeyRotationPlan,
        request: &KeyRotationRequest,
    ) -> Result<KeyRotationReport> {
        reserve::with(|| self.0.rotate_key(plan, request))
    }

    fn plain_names(&self) -> Result<Vec<SecretName>> {
        let document = self.0.read_now().loaded?.document;
        let is_plain = |name: &&SecretName| matches!(document.get(name), Some(Stored::Plain(_)));
        Ok(document.names().filter(is_plain).cloned().collect())
    }

    fn is_encrypted(&self, name: &SecretName) -> Option<bool> {
        let state = self.0.state.lock();
        let stored = state.loaded()?.document.get(name)?;
        Some(matches!(stored, Stored::Encrypted(_)))
    }

    fn take_hidden(&self) -> Vec<SecretName> {
        std::mem::take(&mut *self.0.hidden.lock())
    }

    fn check_for_changes(&self, timeout: Duration) {
        let (done, ended) = mpsc::channel();
        let done = move || done.send(()).unwrap_or_default();
        self.0.watch.check_then(&self.0, Box::new(done));
        // An error means that the disk hangs.
        let _ = ended.recv_timeout(timeout.min(self.timeout()));
    }

    fn join_watchers(&self) {
        self.0.is_peer.store(true, Ordering::Relaxed);
        self.check_for_changes(MIN_TIMEOUT);
    }

    fn wait_for_watchers(&self) {
        let peers = self.0.peers.lock().clone();
        if let Some(peers) = peers {
            peers.wait();
        }
    }

    fn check_writable(&self, done: Done) {
        self.0.watch.check_for_writer_then(&self.0, done);
    }

    fn refusal(&self, name: Option<&SecretName>) -> Option<Error> {
        let state = self.0.state.lock();
        if let Some(refusal) = &state.refusal {
            return Some(refusal.duplicate());
        }
        let document = state.loaded()?.document.clone();
        drop(state);
        let is_there = HashMap::from_iter(name.map(|name| (name, true)));
        self.0.check_room(&document, &is_there).err()
    }

    fn timeout(&self) -> Duration {
        FileProvider::timeout(self)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path_now().unwrap_or_default()
    }
}

impl Shared {
    pub(super) fn write(&self, edits: Vec<Edit>) -> Vec<Result<()>> {
        self.queue.write(edits, |group| self.edit_all(group))
    }

    /// The edit for these changes. Each writer encrypts its own values here, outside the file's lock.
    pub(super) fn prepare(&self, changes: &[Change]) -> Result<Edit> {
        let stored = changes.iter().map(|change| match change {
            Change::Set(name, value) if value.len() > MAX_VALUE => Err(Error::TooLarge {
                what: format!("the value of {name}"),
                limit: MAX_VALUE,
            }),
            // Creates no key for a write that may still fail.
            Change::Set(name, value) if self.needs_key(value) && !self.options.key.exists() => {
                Ok((name.clone(), Some(NewValue::Value(value.clone()))))
            }
            Change::Set(name, value) => {
                let sealed = self.seal(value, || self.options.key.cipher())?;
                Ok((name.clone(), Some(NewValue::Sealed(sealed))))
            }
            Change::Delete(name) => Ok((name.clone(), None)),
        });
        Ok(Edit::Changes(stored.collect::<Result<_>>()?))
    }

    fn encrypt_all(&self) -> Result<usize> {
        let plain = |stored: &Stored| matches!(stored, Stored::Plain(_));
        let found = self.read_now().loaded?;
        let document = &found.document;
        let mut stored = document.names().filter_map(|name| document.get(name));
        if !stored.any(plain) {
            return Ok(0);
        }
        let mut encrypted = 0;
        self.edit(|document, path| {
            encrypted = document.encrypt_plain(&self.options.key, path)?;
            Ok(Some(Vec::new()))
        })?;
        Ok(encrypted)
    }
}
