//! Writing: to the first provider that can be written to, in one atomic write, and out of the cache before it returns.

use std::path::PathBuf;

use super::{Event, Link, SecretsManager};
use crate::error::{Error, Result};
use crate::provider::{ChangeKind, SecretStore};
use crate::secret::{Change, SecretName, SecretValue};

/// What a write did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The key.
    pub name: SecretName,
    /// Whether it was set or deleted.
    pub kind: ChangeKind,
    /// The provider before the file that has the key, too: reads still give its value.
    pub shadowed_by: Option<String>,
}

/// What setting a key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOutcome {
    /// The provider before the file that has the key, too: reads still give its value.
    pub shadowed_by: Option<String>,
}

impl SecretsManager {
    /// Sets a key in the file, without the newline that ends a single line.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::TooLarge`], or what kept the file from being written.
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

    /// Deletes a key from the file.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::ReadOnlyProvider`] if only another provider has it; else what kept the file from
    /// being written.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.apply(&[Change::Delete(SecretName::new(key)?)])?;
        Ok(())
    }

    /// Makes all changes in one atomic write of the file, or none. Values are stored as they are, with what newlines they
    /// have, unless nothing is encrypted: then SimpleTuner reads the stored text as it stands, and the newline that ends a
    /// single line is dropped.
    ///
    /// # Errors
    /// As for [`set`](Self::set) and [`delete`](Self::delete).
    pub fn apply(&self, changes: &[Change]) -> Result<Vec<Outcome>> {
        let mut results = self.apply_each(&[changes])?;
        results.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Makes each batch of changes, or none of it, all in one write of the file where that is possible; what came of
    /// each. So do, without this, threads that write at the same time.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply), for each batch; for all where no provider can be written to.
    pub fn apply_each(&self, batches: &[&[Change]]) -> Result<Vec<Result<Vec<Outcome>>>> {
        let (place, link, store) = self.store()?;
        let written = store.apply_each(batches);
        let mut all = Vec::new();
        let results = batches.iter().zip(written).map(|(changes, written)| {
            written.map_err(|error| self.explain(error))?;
            let outcome = |change: &Change| {
                let (name, kind) = match change {
                    Change::Set(name, _) => (name, ChangeKind::Set),
                    Change::Delete(name) => (name, ChangeKind::Deleted),
                };
                self.outcome(place, name, kind)
            };
            let outcomes: Vec<Outcome> = changes.iter().map(outcome).collect();
            all.extend_from_slice(&outcomes);
            Ok(outcomes)
        });
        let results = results.collect();
        self.after_write(link, &all);
        Ok(results)
    }

    /// Gives `from`'s value the name `to`, in one atomic write of the file.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete) of `from`.
    pub fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        let (place, link, store) = self.store()?;
        store
            .rename(from, to)
            .map_err(|error| self.explain(error))?;
        if from != to {
            let outcomes = [
                self.outcome(place, from, ChangeKind::Deleted),
                self.outcome(place, to, ChangeKind::Set),
            ];
            self.after_write(link, &outcomes);
        }
        Ok(())
    }

    /// Encrypts every value that lies in the file in plain text; how many these were.
    ///
    /// # Errors
    /// What kept the file from being written.
    pub fn encrypt_all(&self) -> Result<usize> {
        let store = self.store()?.2;
        let encrypted = store.encrypt_all();
        self.publish();
        store.wait_for_watchers();
        encrypted
    }

    /// Whether the file that is written to has this key.
    pub fn is_in_store(&self, name: &SecretName) -> bool {
        self.store()
            .is_ok_and(|(_, link, _)| link.provider.has(name))
    }

    /// The value that the file has of a key, whatever another provider has; never waits for a backend.
    ///
    /// # Errors
    /// [`Error::NotFound`], or why the file's value cannot be read.
    pub fn value_in_store(&self, name: &SecretName) -> Result<SecretValue> {
        let provided = self.store()?.1.provider.get(name)?;
        let provided = provided.ok_or_else(|| Error::NotFound {
            name: name.to_string(),
        });
        Ok(provided.map_err(|error| self.explain(error))?.value)
    }

    /// Where the file that is written to lies, if there is one.
    pub fn store_path(&self) -> Option<PathBuf> {
        Some(self.store().ok()?.2.path())
    }

    fn store(&self) -> Result<(usize, &Link, &dyn SecretStore)> {
        let mut stores = self.links.iter().enumerate().filter_map(|(place, link)| {
            let store = link.provider.store()?;
            Some((place, link, store))
        });
        stores.next().ok_or_else(|| {
            Error::Settings("no provider of this chain can be written to".to_owned())
        })
    }

    fn outcome(&self, store_place: usize, name: &SecretName, kind: ChangeKind) -> Outcome {
        let mut before = self.links[..store_place].iter();
        let shadowing = before.find(|link| link.provider.has(name));
        Outcome {
            name: name.clone(),
            kind,
            shadowed_by: shadowing.map(|link| link.name.to_string()),
        }
    }

    fn after_write(&self, link: &Link, outcomes: &[Outcome]) {
        self.publish();
        if let Some(store) = link.provider.store() {
            store.wait_for_watchers();
        }
        let mut events = Vec::new();
        for Outcome {
            name,
            kind,
            shadowed_by,
        } in outcomes
        {
            let key = Some(name.as_str());
            events.push(Event::new(kind.event(), key, Some(&link.name)));
            if let (ChangeKind::Set, Some(provider)) = (kind, shadowed_by) {
                tracing::warn!(
                    "{name} is written to the {}, but the {provider} has it too, and reads still give that value",
                    link.name
                );
                events.push(Event::new("shadowed", key, Some(provider)));
            }
        }
        self.tell(&events);
    }

    /// A key that the store has not may be another provider's.
    fn explain(&self, error: Error) -> Error {
        let Error::NotFound { name } = &error else {
            return error;
        };
        let Ok(secret) = SecretName::new(name) else {
            return error;
        };
        match self.links.iter().find(|link| link.provider.has(&secret)) {
            Some(link) => Error::ReadOnlyProvider {
                name: name.clone(),
                provider: link.name.to_string(),
            },
            None => error,
        }
    }
}
