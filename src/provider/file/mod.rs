//! The file provider: a flat object of names and texts, encrypted or plain, in JSON or YAML. It is the provider that
//! secrets are written to. Knows no other provider and no cache.

mod document;
mod json;
mod location;
mod peers;
mod reader;
mod state;
mod store;
mod view;
mod watch;
pub(crate) mod write;
mod write_queue;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use super::backend::after;
use super::{
    AsOf, Cached, Changes, Done, GetDone, ListingState, Provided, Provider, ProviderReport,
    ProviderUpdate, SecretStore, View, ViewLookup,
};
use crate::credential::KeySource;
use crate::error::{Error, Result};
use crate::secret::SecretName;
use crate::sync::{Condvar, Mutex, MutexGuard};
use peers::Peers;
use reader::{ReadOutcome, StoreReader};
use state::State;
use view::FileView;
use watch::{CheckTarget, Watch};
use write_queue::WriteQueue;

pub use document::{Document, MAX_DOCUMENT, parse_document};
pub(crate) use document::{Sealed, Stored};
pub use location::StoreLocation;
pub(crate) use reader::read_document;

/// How a [`FileProvider`] works.
#[derive(Debug)]
pub struct FileOptions {
    /// Where the file is.
    pub location: StoreLocation,
    /// The key that values are encrypted with.
    pub key: KeySource,
    /// Whether values are written encrypted.
    pub encrypt: bool,
    /// How long the last good document is served while the file cannot be read.
    pub max_stale: Duration,
    /// How long a write waits for another writer, and a reader for the disk (one second at least).
    pub lock_timeout: Duration,
}

/// The file provider. A thread of its own reads the file; readers get what that thread has read.
pub struct FileProvider(Arc<Shared>);

struct Shared {
    options: FileOptions,
    reader: StoreReader,
    /// A leaf lock: never held while the disk is read, or while anything waits.
    state: Mutex<State>,
    /// A write of this provider is in `state`.
    written: Condvar,
    queue: WriteQueue,
    watch: Arc<Watch>,
    /// Whether writers in other processes wait until this one has seen their writes.
    is_peer: AtomicBool,
    /// A leaf lock.
    peers: Mutex<Option<Arc<Peers>>>,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    warned: Warned,
}

/// Which warnings were logged already.
#[derive(Default)]
struct Warned {
    comments: AtomicBool,
    hidden: AtomicBool,
    linked: AtomicBool,
}

/// The shortest time that a reader waits for the file.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

impl FileProvider {
    /// The provider; reads nothing yet.
    pub fn new(options: FileOptions) -> Self {
        let watch = Watch::new();
        let timeout = options.lock_timeout.max(MIN_TIMEOUT);
        Self(Arc::new(Shared {
            reader: StoreReader::new(options.location.clone()),
            state: Mutex::new(State::new(watch.clone(), timeout, options.max_stale)),
            options,
            written: Condvar::new(),
            queue: WriteQueue::default(),
            watch,
            is_peer: AtomicBool::new(false),
            peers: Mutex::default(),
            changed: OnceLock::new(),
            warned: Warned::default(),
        }))
    }

    fn timeout(&self) -> Duration {
        self.0.options.lock_timeout.max(MIN_TIMEOUT)
    }

    fn view(&self) -> Arc<FileView> {
        self.0.state().view()
    }

    /// Checks the file in the background: calls `done` after a check that began after this call, or after the timeout.
    fn check_then(&self, done: Done) {
        let once = Arc::new(Mutex::new(Some(done)));
        let call = |once: &Mutex<Option<Done>>| {
            let done = once.lock().take();
            if let Some(done) = done {
                done();
            }
        };
        let late = once.clone();
        let timer = after(self.timeout(), move || call(&late));
        let checked = move || {
            drop(timer);
            call(&once);
        };
        self.0.watch.check_then(&self.0, Box::new(checked));
    }

    fn timed_out(&self) -> Error {
        Error::Unavailable {
            provider: "file".to_owned(),
            reason: format!(
                "the filesystem of the secrets file did not respond within {} s",
                self.timeout().as_secs_f64()
            ),
        }
    }
}

impl Drop for FileProvider {
    fn drop(&mut self) {
        self.0.watch.stop();
        // This process no longer looks at the store, so writers in other processes must not wait for it.
        self.0.is_peer.store(false, Ordering::Relaxed);
        drop(self.0.peers().take());
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &str {
        "file"
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        self.check_for_changes(Duration::MAX);
        let (sender, receiver) = mpsc::channel();
        drop(self.get_async(name, Box::new(move |cached| drop(sender.send(cached)))));
        match receiver.recv() {
            Ok(Cached::Value(provided)) => Ok(Some(provided)),
            Ok(Cached::Absent { .. }) => Ok(None),
            Ok(Cached::Failed(error)) => Err(error),
            Ok(Cached::Unknown) | Err(mpsc::RecvError) => Err(self.timed_out()),
        }
    }

    fn cached(&self, name: &SecretName) -> Cached {
        find_in(&self.view(), name)
    }

    fn get_async(&self, name: &SecretName, done: GetDone) -> Result<(), GetDone> {
        match self.cached(name) {
            Cached::Unknown => {}
            cached => {
                done(cached);
                return Ok(());
            }
        }
        self.0.state().request_key();
        let (shared, name, timed_out) = (self.0.clone(), name.clone(), self.timed_out());
        self.check_then(Box::new(move || {
            let view = shared.state().view();
            done(match find_in(&view, &name) {
                Cached::Unknown => Cached::Failed(timed_out),
                cached => cached,
            });
        }));
        Ok(())
    }

    fn names(&self) -> Vec<SecretName> {
        self.0.state().current().names()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.0.state().current().has(name)
    }

    fn listing_state(&self) -> ListingState {
        self.view().listing_state(Instant::now())
    }

    fn refresh_async(&self, done: Done) {
        match self.listing_state() {
            ListingState::Unknown => self.check_then(done),
            ListingState::Complete | ListingState::Outdated | ListingState::Failed(_) => done(),
        }
    }

    fn on_change(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.0.changed.set(changed));
    }

    fn poll_changes(&self) -> Changes {
        self.check_for_changes(Duration::MAX);
        self.0.state().take_changes()
    }

    fn check_for_changes(&self, timeout: Duration) {
        let timeout = timeout.min(self.timeout());
        self.0.watch.check(&self.0, timeout);
    }

    fn join_watchers(&self) {
        self.0.is_peer.store(true, Ordering::Relaxed);
        self.check_for_changes(MIN_TIMEOUT);
    }

    fn take_update(&self) -> ProviderUpdate {
        let mut state = self.0.state();
        ProviderUpdate {
            view: Some(state.view()),
            changes: state.take_changes(),
            own_writes: state.take_own_writes(),
        }
    }

    fn keeps_documents(&self) -> bool {
        true
    }

    fn report(&self) -> ProviderReport {
        self.0.state().current().report(Instant::now())
    }

    fn store(&self) -> Option<&dyn SecretStore> {
        Some(self)
    }
}

fn find_in(view: &FileView, name: &SecretName) -> Cached {
    match view.find(name, Instant::now()) {
        ViewLookup::Value { provided, .. } => Cached::Value(provided),
        ViewLookup::Absent { .. } => Cached::Absent { as_of: AsOf::now() },
        ViewLookup::Failed(error) => Cached::Failed(error),
        ViewLookup::Unknown => Cached::Unknown,
    }
}

impl CheckTarget for Shared {
    fn check(&self) {
        let peers = self.join_peers();
        let generation = peers.as_ref().and_then(|peers| peers.join());
        self.check_now();
        if let Some(changed) = self.changed.get() {
            changed();
        }
        if let (Some(peers), Some(generation)) = (peers, generation) {
            peers.acknowledge(generation);
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.options.location.files();
        let store = files.last().filter(|_| self.is_peer());
        let peers = store.map(|store| peers::path_for(store));
        files.extend(peers);
        files.extend(self.options.key.file().map(Path::to_owned));
        files
    }

    fn is_unsettled(&self) -> bool {
        self.state().is_unsettled()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Reads the file unless it is the one that was read last.
    fn check_now(&self) {
        let started = Instant::now();
        loop {
            let (writes, needs_key) = {
                let state = self.state();
                (state.writes, state.needs_key())
            };
            let located = self.options.location.locate();
            let is_current = located.is_ok_and(|located| self.state().is_current(&located));
            let read = (!is_current).then(|| self.read_now());
            let key = needs_key.then(|| self.options.key.cipher());
            let mut state = self.state();
            while state.is_writing {
                state = self.written.wait(state);
            }
            if state.writes != writes {
                // The read may predate a write of this provider.
                continue;
            }
            match read {
                None => state.confirm_unchanged(),
                Some(read) => apply_read(&mut state, read, started),
            }
            if let Some(key) = key {
                state.set_key(key);
            }
            return;
        }
    }

    fn read_now(&self) -> ReadOutcome {
        let before = self.state().loaded().cloned();
        self.reader.read(before.as_ref())
    }

    /// The file's path as it is now, links followed.
    fn path_now(&self) -> Result<PathBuf> {
        Ok(self.options.location.locate()?.path().to_owned())
    }

    fn peers(&self) -> MutexGuard<'_, Option<Arc<Peers>>> {
        self.peers.lock()
    }

    fn is_peer(&self) -> bool {
        self.is_peer.load(Ordering::Relaxed)
    }

    /// The peers of the store, if this process is to be one of them.
    fn join_peers(&self) -> Option<Arc<Peers>> {
        let store = self.is_peer().then(|| self.path_now().ok()).flatten()?;
        self.peers_of(&store, true)
    }

    /// The watchers of the store at this path.
    fn peers_of(&self, store: &Path, create: bool) -> Option<Arc<Peers>> {
        let mut peers = self.peers();
        let open = peers.take().filter(|peers| peers.is_beside(store));
        *peers = open.or_else(|| Peers::open(store, create).map(Arc::new));
        peers.clone()
    }
}

fn apply_read(state: &mut State, read: ReadOutcome, started: Instant) {
    state.set_source(read.source);
    match read.loaded {
        Ok(loaded) => {
            if state.has_failed() {
                tracing::info!("the secrets file can be read again");
            }
            state.apply_read(read.observed, loaded);
            state.set_latency(started.elapsed());
        }
        Err(error) => {
            if !state.has_failed() {
                tracing::warn!("{error}");
            }
            state.apply_failure(read.observed, error);
        }
    }
}

#[cfg(test)]
mod tests;
