//! Writing the secrets file: read anew under its lock, edited, replaced whole. Knows no cache and no other provider.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::queue::{Edit, New};
use super::state::{ContentPrint, Loaded, Seen, State};
use super::write::{Lock, Replacement, sync_folder_of};
use super::{Document, FileProvider, MAX_DOCUMENT, Sealed, Shared, Stored};
use crate::credential::is_encrypted;
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange, SecretStore};
use crate::secret::{Change, MAX_VALUE, SecretName, SecretValue};
use crate::settings::files::Stamp;

impl Shared {
    /// Makes each of these edits or none of it, all in one atomic write.
    fn edit_all(&self, edits: &[&Edit]) -> Vec<Result<()>> {
        let mut results = Vec::new();
        let written = self.edit(|document| {
            let mut done = Vec::new();
            results = edits
                .iter()
                .map(|edit| self.apply(document, edit, &mut done))
                .collect();
            Ok((!done.is_empty()).then_some(done))
        });
        match written {
            Ok(()) => results,
            // One alone may be what makes it too large.
            Err(Error::TooLarge { .. }) if edits.len() > 1 => edits
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

    /// Changes the document in one atomic write, unless `edit` gives nothing. What it gives as changes is taken as known
    /// to the caller.
    fn edit(
        &self,
        edit: impl FnOnce(&mut Document) -> Result<Option<Vec<NameChange>>>,
    ) -> Result<()> {
        let (path, _lock) = self.lock()?;
        let found = self.read_under_lock()?;
        let mut document = (*found.document).clone();
        let Some(changes) = edit(&mut document)? else {
            return Ok(());
        };
        let content = document.render()?;
        if content.len() > MAX_DOCUMENT {
            return Err(Error::TooLarge {
                what: format!("the secrets file {}", path.display()),
                limit: MAX_DOCUMENT,
            });
        }
        if found.document.has_comments() && !self.warned.comments.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} is written anew without its comments", path.display());
        }
        self.warn_if_linked(&path);
        let replacement = Replacement::prepare(&path, &content, 0o600)?;
        self.warn_if_hidden(&path, &found.document, &document);
        {
            let (stamp, mut state) = self.put_in_place(replacement)?;
            // What others changed since it was read last is told by the next `refresh`; our own changes are not.
            state.take_in(Seen::Unclear, found);
            state.source = path.display().to_string();
            let written = Loaded {
                document: Arc::new(document),
                content: Some(ContentPrint::of(&path, &content)),
                modified: stamp.modified(),
            };
            state.take_own(Seen::after(&path, stamp), written, &changes);
        }
        if let Some(peers) = self.peers_of(&path, false) {
            peers.announce();
        }
        sync_folder_of(&path);
        Ok(())
    }

    /// What the file holds: as it is held, where the stamp says so.
    fn read_under_lock(&self) -> Result<Loaded> {
        let look = self.options.place.look()?;
        {
            let state = self.state();
            if state.is_current(&look)
                && !state.is_failed()
                && let Some(held) = state.loaded()
            {
                return Ok(held.clone());
            }
        }
        self.read_now().loaded
    }

    /// Has nobody take our own write for another's edit while it is put in place and taken in.
    fn put_in_place(&self, replacement: Replacement) -> Result<(Stamp, MutexGuard<'_, State>)> {
        self.state().is_writing = true;
        let committed = replacement.commit();
        let mut state = self.state();
        state.is_writing = false;
        state.writes += 1;
        self.written.notify_all();
        Ok((committed?, state))
    }

    /// The lock of the file as it is now: while one waits, the place may have become another (`adopt`).
    fn lock(&self) -> Result<(std::path::PathBuf, Lock)> {
        let mut path = self.path_now()?;
        loop {
            let lock = Lock::take(&path, self.options.lock_timeout)?;
            let now = self.path_now()?;
            if now == path {
                return Ok((path, lock));
            }
            path = now;
        }
    }

    fn seal(&self, value: &SecretValue) -> Result<Stored> {
        // What is not encrypted is read by SimpleTuner as it stands.
        let trimmed = value.without_newline();
        let value = if self.options.encrypt {
            value
        } else {
            &trimmed
        };
        // A plain text that looks encrypted could not be told from an encrypted one when it is read.
        if self.options.encrypt || is_encrypted(value.as_str()) {
            self.encrypted(value)
        } else {
            Ok(Stored::Plain(value.clone()))
        }
    }

    fn encrypted(&self, value: &SecretValue) -> Result<Stored> {
        let cipher = self.options.key.cipher_or_create()?;
        self.state().open_with(Ok(cipher.clone()));
        Ok(Stored::Encrypted(Sealed::seal(value, &cipher)))
    }

    /// A write replaces the file under one of its names only.
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

    /// SimpleTuner's server reads the default file by itself, and decrypts nothing that it finds there.
    fn warn_if_hidden(&self, path: &Path, before: &Document, after: &Document) {
        let is_hidden = |name: &SecretName| {
            let stored = (before.get(name), after.get(name));
            matches!(stored, (Some(Stored::Plain(_)), Some(Stored::Encrypted(_))))
        };
        if self.options.place.is_default(path)
            && before.names().any(is_hidden)
            && !self.warned.hidden.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "a value that was plain text in {} is encrypted now, and SimpleTuner's server cannot read it there; \
                 `simpletuner-live adopt` lets it read through the mount",
                path.display()
            );
        }
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

    fn wait_for_watchers(&self) {
        let peers = self.0.peers().clone();
        if let Some(peers) = peers {
            peers.wait();
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path_now().unwrap_or_default()
    }
}

impl Shared {
    /// Makes one edit of a document, or none of it; adds what changed to `done`.
    fn apply(
        &self,
        document: &mut Document,
        edit: &Edit,
        done: &mut Vec<NameChange>,
    ) -> Result<()> {
        let missing = |name: &SecretName| Error::NotFound {
            name: name.to_string(),
        };
        let change = |name: &SecretName, kind| NameChange {
            name: name.clone(),
            kind,
        };
        match edit {
            Edit::Changes(changes) => {
                // Looked through before anything is changed: what each name has in the end.
                let mut is_there: HashMap<&SecretName, bool> = HashMap::new();
                let mut sealed = Vec::with_capacity(changes.len());
                for (name, new) in changes {
                    let known = is_there.get(name).copied();
                    if new.is_none() && !known.unwrap_or_else(|| document.contains(name)) {
                        return Err(missing(name));
                    }
                    is_there.insert(name, new.is_some());
                    sealed.push((
                        name,
                        match new {
                            Some(New::Sealed(stored)) => Some(stored.clone()),
                            Some(New::Value(value)) => Some(self.seal(value)?),
                            None => None,
                        },
                    ));
                }
                let mut gone = Vec::new();
                for (name, stored) in sealed {
                    let kind = match stored {
                        Some(stored) => {
                            document.set(name, stored);
                            ChangeKind::Set
                        }
                        None => {
                            gone.push(name);
                            ChangeKind::Deleted
                        }
                    };
                    done.push(change(name, kind));
                }
                gone.retain(|name| is_there.get(name) == Some(&false));
                if !gone.is_empty() {
                    document.remove(&gone);
                }
            }
            Edit::Rename(from, to) => {
                let stored = document.get(from).cloned().ok_or_else(|| missing(from))?;
                if from != to {
                    document.remove(&[from]);
                    document.set(to, stored);
                    done.push(change(from, ChangeKind::Deleted));
                    done.push(change(to, ChangeKind::Set));
                }
            }
        }
        Ok(())
    }

    fn write(&self, edits: Vec<Edit>) -> Vec<Result<()>> {
        self.queue.write(edits, |group| self.edit_all(group))
    }

    /// What is to be stored for these changes. Encrypted here, by each writer for itself, and not under the file's lock.
    fn prepare(&self, changes: &[Change]) -> Result<Edit> {
        let stored = changes.iter().map(|change| match change {
            Change::Set(name, value) if value.len() > MAX_VALUE => Err(Error::TooLarge {
                what: format!("the value of {name}"),
                limit: MAX_VALUE,
            }),
            // No key is made for what may not be written in the end.
            Change::Set(name, value) if self.options.encrypt && !self.options.key.exists() => {
                Ok((name.clone(), Some(New::Value(value.clone()))))
            }
            Change::Set(name, value) => Ok((name.clone(), Some(New::Sealed(self.seal(value)?)))),
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
        self.edit(|document| {
            encrypted = document.replace_each(|_, stored| match stored {
                Stored::Plain(value) => Ok(Some(self.encrypted(value)?)),
                Stored::Encrypted(_) => Ok(None),
            })?;
            Ok(Some(Vec::new()))
        })?;
        Ok(encrypted)
    }
}
