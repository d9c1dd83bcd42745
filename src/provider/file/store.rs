//! Writing the secrets file: read anew under its lock, edited, replaced whole. Knows no cache and no other provider.

use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::state::{Seen, State};
use super::write::{Lock, Replacement, sync_folder_of};
use super::{Document, FileProvider, MAX_DOCUMENT, Sealed, Shared, Stored, parse};
use crate::credential::is_encrypted;
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, NameChange, SecretStore};
use crate::secret::{Change, MAX_VALUE, SecretName, SecretValue};
use crate::settings::files::Stamp;

impl Shared {
    /// Changes the document in one atomic write. What `edit` gives as changes is taken as known to the caller.
    fn edit(&self, edit: impl FnOnce(&mut Document) -> Result<Vec<NameChange>>) -> Result<()> {
        let (path, _lock) = self.lock()?;
        let (_, _, read) = self.read_now();
        let (found, found_modified) = read?;
        let mut document = found.clone();
        let changes = edit(&mut document)?;
        let content = document.render()?;
        if content.len() > MAX_DOCUMENT {
            return Err(Error::TooLarge {
                what: format!("the secrets file {}", path.display()),
                limit: MAX_DOCUMENT,
            });
        }
        if found.has_comments() && !self.warned.comments.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} is written anew without its comments", path.display());
        }
        let replacement = Replacement::prepare(&path, &content, 0o600)?;
        self.warn_if_hidden(&path, &found, &document);
        {
            let (stamp, mut state) = self.put_in_place(replacement)?;
            // What others changed since it was read last is told by the next `refresh`; our own changes are not.
            state.take_in(Seen::Unclear, found, found_modified);
            let seen = Seen::after(&path, stamp);
            state.source = path.display().to_string();
            state.take_own(seen, document, &changes, stamp.modified());
        }
        sync_folder_of(&path);
        Ok(())
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
        self.0.apply(changes)
    }

    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        self.0.rename(from, to)
    }

    fn encrypt_all(&self) -> Result<usize> {
        self.0.encrypt_all()
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path_now().unwrap_or_default()
    }
}

impl Shared {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        for change in changes {
            if let Change::Set(name, value) = change
                && value.len() > MAX_VALUE
            {
                return Err(Error::TooLarge {
                    what: format!("the value of {name}"),
                    limit: MAX_VALUE,
                });
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.edit(|document| {
            let mut done = Vec::with_capacity(changes.len());
            let mut gone = Vec::new();
            for change in changes {
                let (name, kind) = match change {
                    Change::Set(name, value) => {
                        let stored = self.seal(value)?;
                        gone.retain(|gone| *gone != name);
                        document.set(name, stored);
                        (name, ChangeKind::Set)
                    }
                    Change::Delete(name) => {
                        if !document.contains(name) || gone.contains(&name) {
                            return Err(Error::NotFound {
                                name: name.to_string(),
                            });
                        }
                        gone.push(name);
                        (name, ChangeKind::Deleted)
                    }
                };
                done.push(NameChange {
                    name: name.clone(),
                    kind,
                });
            }
            document.remove(&gone);
            Ok(done)
        })
    }

    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        self.edit(|document| {
            let stored = document.get(from).cloned();
            let stored = stored.ok_or_else(|| Error::NotFound {
                name: from.to_string(),
            })?;
            if from == to {
                return Ok(Vec::new());
            }
            document.remove(&[from]);
            document.set(to, stored);
            Ok(vec![
                NameChange {
                    name: from.clone(),
                    kind: ChangeKind::Deleted,
                },
                NameChange {
                    name: to.clone(),
                    kind: ChangeKind::Set,
                },
            ])
        })
    }

    fn encrypt_all(&self) -> Result<usize> {
        let mut encrypted = 0;
        let look = self.options.place.look()?;
        if look.stat().is_none() {
            return Ok(0);
        }
        let plain = |stored: &Stored| matches!(stored, Stored::Plain(_));
        let content = self.read_at(&look)?;
        let document = parse(&look, &content)?;
        if !document
            .names()
            .filter_map(|name| document.get(name))
            .any(plain)
        {
            return Ok(0);
        }
        self.edit(|document| {
            encrypted = document.replace_each(|_, stored| match stored {
                Stored::Plain(value) => Ok(Some(self.encrypted(value)?)),
                Stored::Encrypted(_) => Ok(None),
            })?;
            Ok(Vec::new())
        })?;
        Ok(encrypted)
    }
}
