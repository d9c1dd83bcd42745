//! Writes go to the first provider that has a store, in one atomic write. The old value has left the cache when the
//! write returns.

use std::path::PathBuf;
use std::time::Duration;

use super::{ChainEntry, Event, SecretsManager};
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, Done, SecretStore};
use crate::secret::{Change, SecretName, SecretValue};

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
        encrypted
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
            if let (ChangeKind::Set, Some(provider)) = (kind, shadowed_by) {
                tracing::warn!(
                    "{name} is written to the {}, but the {provider} has it too, and reads still give that value",
                    entry.name
                );
                events.push(Event::new("shadowed", key, Some(provider)));
            }
        }
        self.emit(&events);
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
