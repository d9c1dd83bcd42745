//! The file provider: a flat object of names and texts, encrypted or plain, in JSON or YAML. It is the provider that
//! secrets are written to. Knows no other provider and no cache.

mod apply;
mod decrypt;
mod document;
mod json;
mod keep;
mod key_check;
mod location;
mod peers;
mod previous;
mod readable;
mod reader;
mod rotate;
mod state;
mod store;
mod undo;
mod watch;
mod writable;
pub(crate) mod write;
mod write_queue;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::backend::after;
use super::{Callback, Done, ListingState, Provider, ProviderUpdate, SecretStore, View};
use crate::clock::Instant;
use crate::credential::{CredentialCipher, KeySource};
use crate::error::Result;
use crate::files::reserve;
use crate::secret::SecretName;
use crate::sync::{Condvar, Mutex};
use peers::Peers;
use reader::{ReadOutcome, StoreReader};
use state::State;
use watch::{CheckTarget, Watch};
use write_queue::WriteQueue;

pub(crate) use decrypt::in_plain_text;
pub use document::{Document, MAX_DOCUMENT, parse_document};
pub(crate) use document::{Sealed, Stored};
pub use location::StoreLocation;
pub(crate) use location::is_yaml;
pub(crate) use peers::{announce, path_for as path_of_peers};
pub use previous::Did;
pub(crate) use previous::{
    MAX_BYTES as MAX_PREVIOUS, check as check_previous_content, check_beside as check_previous,
    keep_beside as keep_replaced, move_beside as move_previous, path_for as path_of_previous,
};
pub(crate) use reader::read_document;
pub use rotate::{KeyRotationPlan, KeyRotationReport, KeyRotationRequest};
pub(crate) use rotate::{no_key, values_under_key};
pub use undo::{PastChange, Undo, UndoRequest};

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
    /// The most keys that the file may have.
    pub max_keys: usize,
    /// How many earlier values of a key are kept.
    pub keep_previous: usize,
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
    changed: OnceLock<Callback>,
    warned: Warned,
    /// Keys that were encrypted where SimpleTuner could read them, until they are taken. A leaf lock.
    hidden: Mutex<Vec<SecretName>>,
}

/// What is said of a value that was plain text in the file that SimpleTuner's server reads itself.
pub(crate) fn hidden(name: &SecretName, file: &Path) -> String {
    format!(
        "{name} was plain text in {} and is encrypted now; SimpleTuner's server reads that file itself and cannot decrypt it: \
         `simpletuner-live adopt` lets it read through the mount",
        file.display()
    )
}

/// Which warnings were logged already.
#[derive(Default)]
struct Warned {
    hidden: AtomicBool,
    linked: AtomicBool,
    interrupted: AtomicBool,
}

/// The shortest time that a reader waits for the file.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

impl FileProvider {
    /// The provider; reads nothing yet.
    pub fn new(options: FileOptions) -> Self {
        let watch = Watch::new();
        let timeout = options.lock_timeout.max(MIN_TIMEOUT);
        Self(Arc::new(Shared {
            reader: StoreReader::new(options.location.clone(), options.max_keys),
            state: Mutex::new(State::new(watch.clone(), timeout, options.max_stale)),
            options,
            written: Condvar::new(),
            queue: WriteQueue::default(),
            watch,
            is_peer: AtomicBool::new(false),
            peers: Mutex::default(),
            changed: OnceLock::new(),
            warned: Warned::default(),
            hidden: Mutex::default(),
        }))
    }

    fn timeout(&self) -> Duration {
        self.0.options.lock_timeout.max(MIN_TIMEOUT)
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
}

impl Drop for FileProvider {
    fn drop(&mut self) {
        self.0.watch.stop();
        // This process no longer looks at the store, so writers in other processes must not wait for it.
        self.0.is_peer.store(false, Ordering::Relaxed);
        drop(self.0.peers.lock().take());
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &str {
        "file"
    }

    fn view(&self) -> Arc<dyn View> {
        self.0.state.lock().source.view()
    }

    fn take_update(&self) -> ProviderUpdate {
        self.0.state.lock().source.take_update()
    }

    fn ask(&self, name: Option<&SecretName>, done: Done) {
        let (view, now) = (self.view(), Instant::now());
        let must_ask = match name {
            Some(name) => view.find(name, now).must_ask(),
            None => matches!(view.listing_state(now), ListingState::Unknown),
        };
        if must_ask && name.is_some() {
            self.0.state.lock().request_key();
        }
        match must_ask {
            true => self.check_then(done),
            false => done(),
        }
    }

    fn on_change(&self, changed: Callback) {
        drop(self.0.changed.set(changed));
    }

    fn store(&self) -> Option<&dyn SecretStore> {
        Some(self)
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
        // A mount says soon which values cannot be decrypted. The next check derives the key, so that nobody waits for it.
        if self.is_peer() {
            self.state.lock().request_key_if_encrypted();
        }
    }

    fn check_for_writers(&self) {
        let refusal = reserve::with(|| self.check_writable()).err();
        self.state.lock().refusal = refusal.map(Arc::new);
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.options.location.files();
        let store = files.last().filter(|_| self.is_peer());
        let peers = store.map(|store| peers::path_for(store));
        files.extend(peers);
        files.extend(self.options.key.files());
        files
    }

    fn is_unsettled(&self) -> bool {
        self.state.lock().is_unsettled()
    }
}

impl Shared {
    /// Reads the file unless it is the one that was read last.
    fn check_now(&self) {
        reserve::with(|| self.read_if_changed());
    }

    fn read_if_changed(&self) {
        let started = Instant::now();
        loop {
            let (writes, needs_key) = {
                let state = self.state.lock();
                (state.writes, state.needs_key())
            };
            let located = self.options.location.locate();
            let is_current = located.is_ok_and(|located| self.state.lock().is_current(&located));
            let read = (!is_current).then(|| self.read_now());
            let key = needs_key.then(|| self.options.key.cipher());
            if let Some(Ok(cipher)) = &key
                && cipher.has_key_beside()
            {
                self.warn_if_interrupted();
            }
            if self.is_replaced_meanwhile(read.as_ref(), key.as_ref()) {
                continue;
            }
            let mut state = self.state.lock();
            while state.is_writing {
                state = self.written.wait(state);
            }
            if state.writes != writes {
                // The read may predate a write of this provider.
                continue;
            }
            match read {
                None => {
                    state.source.confirm();
                    state.apply_key(key);
                }
                Some(read) => state.apply_read(read, key, started),
            }
            if self.options.key.take_rotated() {
                state.source.report_rotated_key();
            }
            return;
        }
    }

    /// Whether the key is another one, and so is the file by now. A rotation may have replaced both after the file was read, and
    /// the key would not decrypt what was read.
    fn is_replaced_meanwhile(
        &self,
        read: Option<&ReadOutcome>,
        key: Option<&Result<Arc<CredentialCipher>>>,
    ) -> bool {
        let Some(Ok(cipher)) = key else { return false };
        if self.state.lock().has_key(cipher) {
            return false;
        }
        let Ok(located) = self.options.location.locate() else {
            return false;
        };
        match read {
            Some(read) => read.loaded.is_ok() && !read.observed.seems_to_be(&located),
            None => !self.state.lock().seems_current(&located),
        }
    }

    fn read_now(&self) -> ReadOutcome {
        let before = self.state.lock().loaded().cloned();
        self.reader.read(before.as_ref())
    }

    /// The file's path as it is now, links followed.
    fn path_now(&self) -> Result<PathBuf> {
        Ok(self.options.location.locate()?.path().to_owned())
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
        let mut peers = self.peers.lock();
        let open = peers.take().filter(|peers| peers.is_beside(store));
        *peers = open.or_else(|| Peers::open(store, create).map(Arc::new));
        peers.clone()
    }
}

#[cfg(test)]
mod tests;
