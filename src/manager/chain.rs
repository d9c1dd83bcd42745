//! Reads through the chain: the first provider that has a key wins. A provider that fails is skipped, but its failure
//! is the answer if no later provider has the key.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::{FoundSecret, Lookup, SecretsManager, Snapshot, add_failure};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::logging::PROVIDER_FAILURES;
use crate::provider::{Done, ListingState, wait_for};
use crate::secret::{SecretName, SecretValue};
use crate::sync::Mutex;

/// The callback of [`SecretsManager::find_async`].
pub type LookupDone = Box<dyn FnOnce(Lookup) + Send>;
/// The callback of [`SecretsManager::refresh_async`].
pub type SnapshotDone = Box<dyn FnOnce(Arc<Snapshot>) + Send>;

impl SecretsManager {
    /// A key's value, with where and when it was found. May wait for a provider, within the provider's timeouts.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no provider has the key; [`Error::ProviderFailed`] if one failed that may have it, and no
    /// later one has it; [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] at once.
    pub fn find(&self, name: &SecretName) -> Result<FoundSecret> {
        self.refresh();
        let lookup = match self.look_up(name) {
            Lookup::Stale(_) | Lookup::Unknown => {
                let (sender, receiver) = mpsc::channel();
                self.find_async(name, Box::new(move |lookup| drop(sender.send(lookup))));
                receiver.recv().unwrap_or_else(|_| lost(name))
            }
            known => known,
        };
        match lookup {
            Lookup::Fresh(version, valid_for) => Ok(FoundSecret {
                expires_in: valid_for,
                fetched_at: version.fetched_at(),
                value: version.raw,
                provider: version.provider,
                changed_at: version.changed_at,
            }),
            Lookup::Failed(error) => Err(error),
            Lookup::Missing | Lookup::Stale(_) | Lookup::Unknown => Err(Error::NotFound {
                name: name.to_string(),
            }),
        }
    }

    /// Reads a key in the background, within the providers' timeouts. Concurrent readers share one call of a provider.
    /// `done` gets [`Lookup::Fresh`] with a value that may be served now, [`Lookup::Missing`] or [`Lookup::Failed`]. It
    /// runs on any thread, without a lock held, after all change listeners.
    pub fn find_async(&self, name: &SecretName, done: LookupDone) {
        let Some(manager) = self.weak_self.upgrade() else {
            return;
        };
        let read = PendingRead {
            manager,
            name: name.clone(),
            asked: 0,
            done: Some(done),
        };
        read.advance();
    }

    /// Refreshes all providers in the background. `done` runs as for [`find_async`](Self::find_async); it gets the
    /// snapshot with each provider's new document, or its last one if it failed.
    pub fn refresh_async(&self, done: SnapshotDone) {
        let manager = self.weak_self.clone();
        let publish: Done = Box::new(move || {
            if let Some(manager) = manager.upgrade() {
                manager.publish();
                done(manager.snapshot());
            }
        });
        let last = Arc::new(CallOnDrop(Mutex::new(Some(publish))));
        for entry in self.chain.iter() {
            let last = last.clone();
            entry.provider.ask(None, Box::new(move || drop(last)));
        }
    }

    /// Whether the secrets file has been read, or that has failed. Until then its names are unknown.
    pub fn has_read_store(&self) -> bool {
        let (snapshot, now) = (self.snapshot(), Instant::now());
        let mut sources = self.chain.iter().zip(snapshot.sources());
        sources.all(|(entry, source)| {
            entry.provider.store().is_none()
                || !matches!(source.view.listing_state(now), ListingState::Unknown)
        })
    }

    /// Reads the secrets file in the background if that has not been done. `done` runs as for
    /// [`find_async`](Self::find_async).
    pub fn read_store_async(&self, done: Done) {
        let manager = self.weak_self.clone();
        let publish: Done = Box::new(move || {
            if let Some(manager) = manager.upgrade() {
                manager.publish();
            }
            done();
        });
        let store = self
            .chain
            .iter()
            .find(|entry| entry.provider.store().is_some());
        match store {
            Some(entry) => entry.provider.ask(None, publish),
            None => publish(),
        }
    }

    /// Looks a key up in the current snapshot. The `secrets` cache counts it as a hit or a miss. The provider learns
    /// that the key was read, and then refreshes it before it expires.
    pub fn look_up(&self, name: &SecretName) -> Lookup {
        let lookup = self.snapshot().find(name);
        let is_hit = self.cache.get(&cache_key(name)).is_some();
        // A name that no provider has costs an entry only if a provider was asked for it.
        if !matches!(lookup, Lookup::Missing) {
            self.record_served(name, &lookup, is_hit);
        }
        lookup
    }

    fn record_served(&self, name: &SecretName, lookup: &Lookup, is_hit: bool) {
        let (provider, valid_for) = match lookup {
            Lookup::Fresh(version, valid_for) => (Some(&version.provider), *valid_for),
            Lookup::Missing => (None, self.ttl.missing),
            Lookup::Failed(_) | Lookup::Stale(_) | Lookup::Unknown => return,
        };
        if !is_hit && !valid_for.is_zero() {
            self.cache.set_with_ttl(&cache_key(name), (), valid_for);
        }
        let mut chain = self.chain.iter();
        if let Some(entry) = chain.find(|entry| Some(&entry.name) == provider) {
            entry.provider.record_read(name);
        }
    }

    /// The value of a key that is not a valid [`SecretName`], which a backend's document may have.
    pub(super) fn get_invalid_name(&self, key: &str) -> Result<Option<SecretValue>> {
        let mut failure = None;
        for entry in self.chain.iter() {
            wait_for(|done| entry.provider.ask(None, done));
            match entry.provider.view().find_by_key(key, Instant::now()) {
                Ok(None) => {}
                Ok(Some(value)) => return Ok(Some(value.without_newline())),
                Err(error) => {
                    add_failure(&mut failure, &entry.name, key, &error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// All keys to list, once every provider has answered or failed. Waits, within the providers' timeouts.
    ///
    /// # Errors
    /// Besides the known names, [`Error::ProviderFailed`] if a provider's names are not known.
    pub fn list(&self) -> (Vec<(SecretName, Arc<str>)>, Result<()>) {
        wait_for(|done| self.refresh_async(Box::new(|_| done())));
        let complete = match self.listing_state() {
            ListingState::Failed(error) => Err(error),
            ListingState::Complete | ListingState::Outdated | ListingState::Unknown => Ok(()),
        };
        (self.names(), complete)
    }

    /// All known keys, sorted, each with the provider that it would be read from. Does not wait for a backend.
    pub fn names(&self) -> Vec<(SecretName, Arc<str>)> {
        self.refresh();
        self.snapshot().names().to_vec()
    }

    /// Whether [`names`](Self::names) is complete, or should be refreshed first
    /// ([`refresh_async`](Self::refresh_async)).
    pub fn listing_state(&self) -> ListingState {
        self.snapshot().listing_state()
    }

    /// Checks for changes by other programs, such as edits of the secrets file. Waits for a disk, at most
    /// `timeout.total`; if the disk hangs, the last document is served.
    pub fn refresh(&self) {
        self.refresh_within(Duration::MAX);
    }

    pub(super) fn refresh_within(&self, timeout: Duration) {
        let stores = self.chain.iter().filter_map(|entry| entry.provider.store());
        stores.for_each(|store| store.check_for_changes(timeout));
        self.publish();
    }

    /// Emits an event for each provider that a reader found failed or recovered. (A provider whose disk hangs cannot
    /// report that itself.)
    fn check_health(&self, snapshot: &Snapshot) {
        let now = Instant::now();
        for (entry, source) in self.chain.iter().zip(snapshot.sources()) {
            let failure = match source.view.listing_state(now) {
                ListingState::Failed(error) => Some(error),
                _ => None,
            };
            if failure.is_some() != entry.is_down()
                && let Some(event) = entry.check_health(&source.view)
            {
                if let Some(error) = failure {
                    tracing::warn!(
                        target: PROVIDER_FAILURES,
                        "the {} provider is skipped: {}",
                        entry.name,
                        error.reason()
                    );
                }
                self.emit(&[event]);
            }
        }
    }
}

/// Calls the callback when the last clone of its `Arc` is dropped.
struct CallOnDrop(Mutex<Option<Done>>);

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        if let Some(done) = self.0.get_mut().take() {
            done();
        }
    }
}

/// A read that waits for providers. Dropping it answers it, so that one whose provider is lost does not wait for ever.
struct PendingRead {
    manager: Arc<SecretsManager>,
    name: SecretName,
    /// How many providers it has asked.
    asked: usize,
    done: Option<LookupDone>,
}

impl PendingRead {
    /// Reads the snapshot again, and either asks the next provider, which resumes this, or answers.
    fn advance(mut self) {
        // Change listeners run before the answer.
        self.manager.publish();
        let snapshot = self.manager.snapshot();
        let (lookup, must_ask) = snapshot.walk(&self.name, self.asked);
        let chain = self.manager.chain.clone();
        match must_ask.and_then(|index| Some((index, chain.get(index)?))) {
            Some((index, entry)) => {
                let name = self.name.clone();
                self.asked = index + 1;
                let resume = Box::new(move || self.advance());
                entry.provider.ask(Some(&name), resume);
            }
            None => {
                self.manager.check_health(&snapshot);
                self.manager.record_served(&self.name, &lookup, false);
                if let Some(done) = self.done.take() {
                    done(lookup);
                }
            }
        }
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(lost(&self.name));
        }
    }
}

/// The answer of a read whose provider never answered.
fn lost(name: &SecretName) -> Lookup {
    let error = std::io::Error::other("the provider ended unexpectedly");
    Lookup::Failed(Error::io(format!("asking for {name}"), error))
}

/// The key of a secret in the cache `secrets`.
pub(super) fn cache_key(name: &SecretName) -> String {
    format!("secret:{name}")
}
