//! Writes go to the first provider that has a store, in one atomic write. The old value has left the cache when the
//! write returns.

use std::path::PathBuf;
use std::time::Duration;

use super::{ChainEntry, Event, SecretsManager};
use crate::error::{Error, Result};
use crate::provider::{
    ChangeKind, Decrypted, Done, KeyRotationPlan, KeyRotationReport, KeyRotationRequest,
    PastChange, SecretStore, Undo, UndoRequest,
};
use crate::secret::{Change, SecretName, SecretValue};

/// For how many keys it is remembered that a warning was logged.
const MAX_LOGGED_SHADOWS: usize = 10_000;

/// The outcome of a write for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The key.
    pub name: SecretName,
    /// Whether it was set or deleted.
    pub kind: ChangeKind,
    /// An earlier provider that has the key too, so that reads still get that value.
    pub shadowed_by: Option<String>,
}

/// The outcome of setting a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOutcome {
    /// An earlier provider that has the key too, so that reads still get that value.
    pub shadowed_by: Option<String>,
}

impl SecretsManager {
    /// Sets a key in the store, without the newline that ends a single line.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::TooLarge`], or why the write failed.
    pub fn set(&self, key: &str, value: &str) -> Result<SetOutcome> {
        let change = Change::Set(
            SecretName::new(key)?,
            SecretValue::new(value).without_newline(),
        );
        let outcome = self.apply(&[change])?.pop();
        Ok(SetOutcome {
            shadowed_by: outcome.and_then(|outcome| outcome.shadowed_by),
        })
    }

    /// Deletes a key from the store.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::ReadOnlyProvider`] if only another provider has it; else why the write failed.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.apply(&[Change::Delete(SecretName::new(key)?)])?;
        Ok(())
    }

    /// Applies all changes in one atomic write, or none. Values are stored as they are, newlines included. Without
    /// encryption the newline that ends a single line is dropped, because SimpleTuner reads the stored text itself.
    ///
    /// # Errors
    /// As for [`set`](Self::set) and [`delete`](Self::delete).
    pub fn apply(&self, changes: &[Change]) -> Result<Vec<WriteOutcome>> {
        let mut results = self.apply_each(&[changes])?;
        results.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Applies each batch atomically, all in one write of the store if possible; returns the result of each. Threads
    /// that write at the same time share a write too.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply), for each batch. [`Error::Settings`] for all of them if no provider has a store.
    pub fn apply_each(&self, batches: &[&[Change]]) -> Result<Vec<Result<Vec<WriteOutcome>>>> {
        let (index, entry, store) = self.store()?;
        let written = store.apply_each(batches);
        let mut all = Vec::new();
        let results = batches.iter().zip(written).map(|(changes, written)| {
            written.map_err(|error| self.explain(error))?;
            let outcome = |change: &Change| {
                let (name, kind) = match change {
                    Change::Set(name, _) => (name, ChangeKind::Set),
                    Change::Delete(name) => (name, ChangeKind::Deleted),
                };
                self.outcome(index, name, kind)
            };
            let outcomes: Vec<WriteOutcome> = changes.iter().map(outcome).collect();
            all.extend_from_slice(&outcomes);
            Ok(outcomes)
        });
        let results = results.collect();
        self.after_write(entry, &all);
        Ok(results)
    }

    /// Gives `from`'s value the name `to`, in one atomic write.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete) of `from`.
    pub fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        let (index, entry, store) = self.store()?;
        store
            .rename(from, to)
            .map_err(|error| self.explain(error))?;
        if from != to {
            let outcomes = [
                self.outcome(index, from, ChangeKind::Deleted),
                self.outcome(index, to, ChangeKind::Set),
            ];
            self.after_write(entry, &outcomes);
        }
        Ok(())
    }

    /// Encrypts all plain values in the store; returns how many.
    ///
    /// # Errors
    /// Why the write failed.
    pub fn encrypt_all(&self) -> Result<usize> {
        let store = self.store()?.2;
        let encrypted = store.encrypt_all();
        self.publish();
        store.wait_for_watchers();
        // An event for each would say nothing new to the caller.
        drop(store.take_hidden());
        encrypted
    }

    /// Makes the key with which the store's values are encrypted, if there is none.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] if the store has values that need an old one.
    pub fn ensure_key(&self) -> Result<()> {
        self.store()?.2.ensure_key()
    }

    /// What was done to the keys of the store, as far as it is kept, the newest first.
    ///
    /// # Errors
    /// Why that cannot be read.
    pub fn history(&self) -> Result<Vec<PastChange>> {
        self.store()?.2.history()
    }

    /// What an undo would set back. Changes nothing.
    ///
    /// # Errors
    /// Why that cannot be read.
    pub fn plan_undo(&self, what: &UndoRequest) -> Result<Vec<Undo>> {
        self.store()?.2.plan_undo(what)
    }

    /// Sets keys of the store back as it was planned, all in one atomic write, or none. That can be undone, too.
    ///
    /// # Errors
    /// [`Error::Malformed`] if one of them has changed since it was planned; else why the write failed.
    pub fn undo(&self, planned: &[Undo]) -> Result<Vec<WriteOutcome>> {
        let (index, entry, store) = self.store()?;
        store.undo(planned)?;
        let outcomes: Vec<WriteOutcome> = planned
            .iter()
            .filter(|undo| undo.change.had_value || undo.has_value)
            .map(|undo| {
                let kind = match undo.change.had_value {
                    true => ChangeKind::Set,
                    false => ChangeKind::Deleted,
                };
                self.outcome(index, &undo.name, kind)
            })
            .collect();
        self.after_write(entry, &outcomes);
        Ok(outcomes)
    }

    /// Writes all encrypted values of the store in plain text; with `dry_run` only says what it would do.
    ///
    /// # Errors
    /// Why the write failed.
    pub fn decrypt_all(&self, dry_run: bool) -> Result<Decrypted> {
        let store = self.store()?.2;
        let decrypted = store.decrypt_all(dry_run);
        self.publish();
        store.wait_for_watchers();
        decrypted
    }

    /// What a rotation of the store's key would do. Changes nothing.
    ///
    /// # Errors
    /// As for [`SecretStore::plan_key_rotation`].
    pub fn plan_key_rotation(&self) -> Result<KeyRotationPlan> {
        self.store()?.2.plan_key_rotation()
    }

    /// Replaces the store's key as it was planned. All watchers of the store have the new key when this returns.
    ///
    /// # Errors
    /// As for [`SecretStore::rotate_key`].
    pub fn rotate_key(
        &self,
        plan: &KeyRotationPlan,
        request: &KeyRotationRequest,
    ) -> Result<KeyRotationReport> {
        let store = self.store()?.2;
        let rotated = store.rotate_key(plan, request);
        self.publish();
        rotated
    }

    /// The names of the store's values that are plain text.
    ///
    /// # Errors
    /// Why the store cannot be read.
    pub fn plain_names(&self) -> Result<Vec<SecretName>> {
        self.store()?.2.plain_names()
    }

    /// Whether the store's value of this key is encrypted; `None`: it has none. Never waits.
    pub fn is_encrypted(&self, name: &SecretName) -> Option<bool> {
        self.store().ok()?.2.is_encrypted(name)
    }

    /// Whether the store has this key.
    pub fn is_in_store(&self, name: &SecretName) -> bool {
        self.store()
            .is_ok_and(|(_, entry, _)| entry.provider.view().has(name))
    }

    /// The store's value of a key, whatever other providers have; never waits for a backend.
    ///
    /// # Errors
    /// [`Error::NotFound`], or why the store's value cannot be read.
    pub fn value_in_store(&self, name: &SecretName) -> Result<SecretValue> {
        let provided = self.store()?.1.provider.get(name)?;
        let provided = provided.ok_or_else(|| Error::NotFound {
            name: name.to_string(),
        });
        Ok(provided.map_err(|error| self.explain(error))?.value)
    }

    /// Whether this is the provider that secrets are written to.
    pub fn is_store(&self, provider: &str) -> bool {
        self.store()
            .is_ok_and(|(_, entry, _)| &*entry.name == provider)
    }

    /// Checks in the background whether the store could be written now, for [`store_refusal`](Self::store_refusal); then calls
    /// `done`, on any thread. That can take for as long as the disk does.
    pub fn check_store_async(&self, done: Done) {
        match self.store() {
            Ok((_, _, store)) => store.check_writable(done),
            Err(_) => done(),
        }
    }

    /// Why the last check found that the store cannot be written, or that this key cannot be added; touches no disk.
    pub fn store_refusal(&self, name: Option<&SecretName>) -> Option<Error> {
        match self.store() {
            Ok((_, _, store)) => store.refusal(name),
            Err(error) => Some(error),
        }
    }

    /// How long a caller may wait for the store's disk.
    pub fn store_timeout(&self) -> Duration {
        let store = self.store();
        store.map_or(Duration::ZERO, |(_, _, store)| store.timeout())
    }

    /// The path of the store, if there is one.
    pub fn store_path(&self) -> Option<PathBuf> {
        Some(self.store().ok()?.2.path())
    }

    fn store(&self) -> Result<(usize, &ChainEntry, &dyn SecretStore)> {
        let mut stores = self.chain.iter().enumerate().filter_map(|(index, entry)| {
            let store = entry.provider.store()?;
            Some((index, entry, store))
        });
        stores.next().ok_or_else(|| {
            Error::Settings("no provider of this chain can be written to".to_owned())
        })
    }

    fn outcome(&self, store_index: usize, name: &SecretName, kind: ChangeKind) -> WriteOutcome {
        let mut before = self.chain[..store_index].iter();
        let shadowing = before.find(|entry| entry.provider.view().has(name));
        WriteOutcome {
            name: name.clone(),
            kind,
            shadowed_by: shadowing.map(|entry| entry.name.to_string()),
        }
    }

    fn after_write(&self, entry: &ChainEntry, outcomes: &[WriteOutcome]) {
        self.publish();
        if let Some(store) = entry.provider.store() {
            store.wait_for_watchers();
        }
        let mut events = Vec::new();
        for WriteOutcome {
            name,
            kind,
            shadowed_by,
        } in outcomes
        {
            let key = Some(name.as_str());
            events.push(Event::new(kind.event(), key, Some(&entry.name)));
            if let Some(provider) = shadowed_by {
                self.warn_if_shadowed(name, *kind, &entry.name, provider);
                events.push(Event::new("shadowed", key, Some(provider)));
            }
        }
        let hidden = entry.provider.store().map(|store| store.take_hidden());
        for name in hidden.into_iter().flatten() {
            let event = Event::new("encrypted", Some(name.as_str()), Some(&entry.name));
            events.push(event);
        }
        self.emit(&events);
    }

    /// Logs each key once: a program may write it every second.
    fn warn_if_shadowed(&self, name: &SecretName, kind: ChangeKind, store: &str, provider: &str) {
        let mut logged = self.logged_shadows.lock();
        if logged.len() >= MAX_LOGGED_SHADOWS
            || !logged.insert((name.clone(), kind == ChangeKind::Deleted))
        {
            return;
        }
        drop(logged);
        match kind {
            ChangeKind::Deleted => tracing::warn!(
                "{name} is removed from the {store} provider, but the {provider} provider has it, too, and reads give that value"
            ),
            _ => tracing::warn!(
                "{name} is written to the {store} provider, but the {provider} provider has it, too, and reads still give that value"
            ),
        }
    }

    /// If the store does not have the key but another provider has, the error says so.
    fn explain(&self, error: Error) -> Error {
        let Error::NotFound { name } = &error else {
            return error;
        };
        let Ok(secret) = SecretName::new(name) else {
            return error;
        };
        match self
            .chain
            .iter()
            .find(|entry| entry.provider.view().has(&secret))
        {
            Some(entry) => Error::ReadOnlyProvider {
                name: name.clone(),
                provider: entry.name.to_string(),
            },
            None => error,
        }
    }
}
