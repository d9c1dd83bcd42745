//! Reads through the chain: the first provider that has a key wins. A provider that fails is skipped, but its failure
//! is the answer if no later provider has the key.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::secret_cache::{CachedVersion, ChainResult, Waiter, Waiters};
use super::{ChainEntry, Event, Found, Lookup, SecretsManager, Snapshot, Version, provider_failed};
use crate::error::{Error, Result};
use crate::provider::{AsOf, Cached, Done, ListingState};
use crate::secret::SecretName;
use crate::sync::{self, LARGE_STACK, Mutex};

/// The callback of [`SecretsManager::find_async`].
pub type LookupDone = Box<dyn FnOnce(Lookup) + Send>;
/// The callback of [`SecretsManager::refresh_async`].
pub type SnapshotDone = Box<dyn FnOnce(Arc<Snapshot>) + Send>;

impl ChainResult {
    fn lookup(&self) -> Lookup {
        match self {
            ChainResult::Found(cached) => {
                Lookup::Fresh(cached.version.clone(), cached.expires_in())
            }
            ChainResult::Missing { .. } => Lookup::Missing,
            ChainResult::Failed(error) => Lookup::Failed(error.duplicate()),
        }
    }
}

/// How far a read through the chain has come.
struct ChainCursor {
    /// The index of the next provider.
    index: usize,
    failure: Option<Error>,
    /// When it was known that none of the providers before `index` has the key.
    as_of: AsOf,
}

/// Where a read through the chain stopped.
enum Step {
    /// At its end. `true`: the answer may be cached.
    End(ChainResult, bool),
    /// At a provider that must be asked.
    MustAsk,
}

impl ChainCursor {
    fn new() -> Self {
        Self {
            index: 0,
            failure: None,
            as_of: AsOf::now(),
        }
    }
}

impl SecretsManager {
    /// A key's value, with where and when it was found. May wait for a provider, within the provider's timeouts.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no provider has the key; [`Error::ProviderFailed`] if one failed that may have it, and no
    /// later one has it; [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] at once.
    pub fn find(&self, name: &SecretName) -> Result<Found> {
        self.refresh();
        if let Some(result) = self.peek_fresh(name) {
            return result.into_result(name);
        }
        let (sender, receiver) = mpsc::channel();
        let send = move |result: &ChainResult| drop(sender.send(result.clone()));
        self.fetch(name, Box::new(send));
        let result = receiver.recv().unwrap_or_else(|_| ChainResult::lost(name));
        self.record_read(name, &result);
        result.into_result(name)
    }

    /// Reads a key in the background, within the providers' timeouts. Concurrent readers share one fetch. `done` gets
    /// [`Lookup::Fresh`] with a value that may be served now, [`Lookup::Missing`] or [`Lookup::Failed`]. It runs on any
    /// thread, without a lock held, after all change listeners.
    pub fn find_async(&self, name: &SecretName, done: LookupDone) {
        self.fetch(name, Box::new(move |result| done(result.lookup())));
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
            entry.provider.refresh_async(Box::new(move || drop(last)));
        }
    }

    /// Looks a key up in the current snapshot. The `secrets` cache counts it as a hit or a miss. The provider learns
    /// that the key was read, and then refreshes it before it expires.
    pub fn look_up(&self, name: &SecretName) -> Lookup {
        let invalidations = self.cache.invalidations();
        let lookup = self.snapshot().find(name);
        let is_hit = self.cache.record_lookup(name);
        if let Lookup::Fresh(version, valid_for) = &lookup {
            if !is_hit && !valid_for.is_zero() {
                let cached = CachedVersion::new(version.clone());
                self.cache
                    .insert(name, ChainResult::Found(cached), invalidations);
            }
            self.record_provider_read(name, &version.provider);
        }
        lookup
    }

    fn record_provider_read(&self, name: &SecretName, provider: &str) {
        if let Some(entry) = self.chain.iter().find(|entry| &*entry.name == provider) {
            entry.provider.record_read(name);
        }
    }

    fn fetch(&self, name: &SecretName, waiter: Waiter) {
        if let Some(waiters) = self.cache.join(name, waiter)
            && let Some(fetch) = InFlightFetch::new(self, name, waiters)
        {
            fetch.resume(None);
        }
    }

    /// All keys to list, once every provider has answered or failed. Waits, within the providers' timeouts.
    ///
    /// # Errors
    /// Besides the known names, [`Error::ProviderFailed`] if a provider's names are not known.
    pub fn list(&self) -> (Vec<(SecretName, Arc<str>)>, Result<()>) {
        let (done, ended) = mpsc::channel();
        self.refresh_async(Box::new(move |_| done.send(()).unwrap_or_default()));
        // An error means that the callback was dropped.
        let _ = ended.recv();
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
        self.chain
            .iter()
            .for_each(|entry| entry.provider.check_for_changes(timeout));
        self.publish();
    }

    /// The answer from the cache, or else from what the providers have cached; `None` if a provider must be asked.
    fn peek_fresh(&self, name: &SecretName) -> Option<ChainResult> {
        let result = self.cache.get(name).or_else(|| {
            let invalidations = self.cache.invalidations();
            match self.advance(name, &mut ChainCursor::new(), None) {
                Step::End(result, true) => Some(self.cache.insert(name, result, invalidations)),
                Step::End(result, false) => Some(result),
                Step::MustAsk => None,
            }
        })?;
        self.record_read(name, &result);
        Some(result)
    }

    /// Reports a read to the provider of the key, because the cache serves most reads.
    fn record_read(&self, name: &SecretName, result: &ChainResult) {
        if let ChainResult::Found(cached) = result {
            self.record_provider_read(name, &cached.version.provider);
        }
    }

    /// Continues a read: to the end of the chain, or to a provider that must be asked. `answer` is that of the provider
    /// where the read stopped before.
    fn advance(
        &self,
        name: &SecretName,
        cursor: &mut ChainCursor,
        mut answer: Option<Cached>,
    ) -> Step {
        while let Some(entry) = self.chain.get(cursor.index) {
            match answer.take().unwrap_or_else(|| entry.provider.cached(name)) {
                Cached::Value(provided) => {
                    self.report_recovery(entry);
                    let cached = CachedVersion::new(Version {
                        raw: provided.value,
                        provider: entry.name.clone(),
                        changed_at: provided.changed_at,
                        as_of: provided.as_of,
                    });
                    return Step::End(ChainResult::Found(cached), cursor.failure.is_none());
                }
                Cached::Absent { as_of } => {
                    self.report_recovery(entry);
                    cursor.as_of = cursor.as_of.and(as_of);
                }
                Cached::Unknown => return Step::MustAsk,
                Cached::Failed(error) if error.ends_chain() => {
                    return Step::End(ChainResult::Failed(error.into()), false);
                }
                Cached::Failed(error) => {
                    self.report_failure(entry, &error);
                    cursor
                        .failure
                        .get_or_insert_with(|| provider_failed(&entry.name, name.as_str(), &error));
                }
            }
            cursor.index += 1;
        }
        match cursor.failure.take() {
            Some(error) => Step::End(ChainResult::Failed(error.into()), false),
            None => Step::End(
                ChainResult::Missing {
                    as_of: cursor.as_of,
                },
                true,
            ),
        }
    }

    fn report_failure(&self, entry: &ChainEntry, error: &Error) {
        if !entry.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!("the {} provider is skipped: {error}", entry.name);
            self.emit(&[Event::new("provider_down", None, Some(&entry.name))]);
        }
    }

    fn report_recovery(&self, entry: &ChainEntry) {
        if entry.is_down.load(Ordering::Relaxed)
            && let Some(event) = entry.check_health()
        {
            self.emit(&[event]);
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

/// A running fetch. Dropping it answers its waiters, so that a lost fetch leaves none of them waiting.
struct InFlightFetch {
    manager: Arc<SecretsManager>,
    name: SecretName,
    waiters: Arc<Waiters>,
    cursor: ChainCursor,
    result: Option<(ChainResult, bool)>,
}

impl InFlightFetch {
    /// `None` if the manager is being dropped.
    fn new(manager: &SecretsManager, name: &SecretName, waiters: Arc<Waiters>) -> Option<Self> {
        // Another fetch may have ended between the caller's look-up and this fetch.
        let cached = manager.cache.get(name);
        Some(Self {
            manager: manager.weak_self.upgrade()?,
            name: name.clone(),
            waiters,
            cursor: ChainCursor::new(),
            result: cached.map(|result| (result, false)),
        })
    }

    /// Continues to the end of the chain, or to a provider whose callback resumes this. A provider that can only be
    /// asked by waiting gets a thread for it.
    fn resume(mut self, answer: Option<Cached>) {
        if self.result.is_some() {
            return;
        }
        let (name, chain) = (self.name.clone(), self.manager.chain.clone());
        let max_stale = self.manager.max_stale;
        let cursor = &mut self.cursor;
        if let Step::End(result, is_cacheable) = self.manager.advance(&name, cursor, answer) {
            self.result = Some((result, is_cacheable));
            return;
        }
        let index = cursor.index;
        let Some(entry) = chain.get(index) else {
            return;
        };
        let resume = move |answer| self.resume(Some(answer));
        let Err(resume) = entry.provider.get_async(&name, Box::new(resume)) else {
            return;
        };
        let ask = move || {
            if let Some(entry) = chain.get(index) {
                resume(entry.get(&name, max_stale));
            }
        };
        // If the thread cannot be started, the closure is dropped, and the fetch with it.
        if let Err(error) = sync::spawn("fetch", LARGE_STACK, ask) {
            tracing::warn!("cannot start a thread that fetches a secret: {error}");
        }
    }
}

impl Drop for InFlightFetch {
    fn drop(&mut self) {
        let (result, is_cacheable) = self
            .result
            .take()
            .unwrap_or_else(|| (ChainResult::lost(&self.name), false));
        // Change listeners run before the waiters.
        self.manager.publish();
        let cache = &self.manager.cache;
        cache.complete(&self.name, &self.waiters, result, is_cacheable);
    }
}
