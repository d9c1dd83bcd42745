//! The file provider: a flat object of names and texts, encrypted or plain, in JSON or YAML; the one that is written to.
//! Knows no other provider and no cache.

mod document;
mod json;
mod peers;
mod place;
mod queue;
mod state;
mod store;
mod view;
mod watch;
pub(crate) mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime};

use super::backend::after;
use super::{
    AsOf, Asked, Done, Held, News, Provided, Provider, ProviderReport, Refreshed, SecretStore,
    Standing, View, Viewed,
};
use crate::credential::KeySource;
use crate::error::{Error, Result};
use crate::secret::SecretName;
use crate::settings::files::{Content, ReadError, Stamp, not_a_file, read_file};
use peers::Peers;
use place::Look;
use queue::Queue;
use state::{ContentPrint, Loaded, Seen, State};
use view::FileView;
use watch::{Looker, Watch};

pub use document::{Document, MAX_DOCUMENT, parse_document};
pub(crate) use document::{Sealed, Stored};
pub use place::StorePlace;

const TOO_LARGE: &str = "it is too large: over 16 MiB";

/// How a [`FileProvider`] works.
#[derive(Debug)]
pub struct FileOptions {
    /// Where the file lies.
    pub place: StorePlace,
    /// What its values are encrypted with.
    pub key: KeySource,
    /// Whether values are written encrypted.
    pub encrypt: bool,
    /// For how long the last good document is served when the file cannot be read.
    pub max_stale: Duration,
    /// How long a write waits for another writer, and a reader for the disk (one second at least).
    pub lock_timeout: Duration,
}

/// The file provider. A thread of its own reads the file; what readers get was read by it.
pub struct FileProvider(Arc<Shared>);

struct Shared {
    options: FileOptions,
    /// A leaf lock: nothing is read and nobody waits while it is held.
    state: Mutex<State>,
    /// A write of ours was taken in.
    written: Condvar,
    /// Writers, who are written together.
    queue: Queue,
    watch: Arc<Watch>,
    /// Whether writers elsewhere wait for what is told here.
    is_peer: AtomicBool,
    /// A leaf lock.
    peers: Mutex<Option<Arc<Peers>>>,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    warned: Warned,
}

/// What is said once only.
#[derive(Default)]
struct Warned {
    open_to_others: AtomicBool,
    comments: AtomicBool,
    hidden: AtomicBool,
    linked: AtomicBool,
}

/// SimpleTuner truncates the file and writes it anew, without a lock: what looks malformed may be whole in a moment.
/// Others remove it, and then make it anew.
const HALF_WRITTEN: Duration = Duration::from_millis(200);
/// The beginning of a YAML document is one, too.
const HALF_OF_YAML: Duration = Duration::from_millis(50);
/// A reader waits this long for the file at least.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(1);

impl FileProvider {
    /// The provider; reads nothing yet.
    pub fn new(options: FileOptions) -> Self {
        let watch = Watch::new();
        let state = State::new(watch.clone(), options.lock_timeout.max(SHORTEST_PATIENCE));
        Self(Arc::new(Shared {
            options,
            state: Mutex::new(state),
            written: Condvar::new(),
            queue: Queue::default(),
            watch,
            is_peer: AtomicBool::new(false),
            peers: Mutex::default(),
            changed: OnceLock::new(),
            warned: Warned::default(),
        }))
    }

    fn patience(&self) -> Duration {
        self.0.options.lock_timeout.max(SHORTEST_PATIENCE)
    }

    fn view(&self) -> Arc<FileView> {
        self.0.state().view(self.0.options.max_stale)
    }
}

impl Drop for FileProvider {
    fn drop(&mut self) {
        self.0.watch.stop();
        // Nothing is told from here any more, so nobody is to wait for it.
        self.0.is_peer.store(false, Ordering::Relaxed);
        drop(self.0.peers().take());
    }
}

impl Looker for Shared {
    fn look(&self) {
        let joined = self.join_peers();
        let written = joined.as_ref().and_then(|peers| peers.join());
        self.look_now();
        if let Some(changed) = self.changed.get() {
            changed();
        }
        if let (Some(peers), Some(written)) = (joined, written) {
            peers.has_taken_in(written);
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.options.place.files();
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
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reads the file if it is not as it was read last; what changed is for whoever asks for the news.
    fn look_now(&self) {
        let started = Instant::now();
        loop {
            let (writes, wants_key) = {
                let state = self.state();
                (state.writes, state.wants_key())
            };
            let look = self.options.place.look();
            let is_current = look.is_ok_and(|look| self.state().is_current(&look));
            let read = (!is_current).then(|| self.read_now());
            let key = wants_key.then(|| self.options.key.cipher());
            let mut state = self.state();
            while state.is_writing {
                state = self.written.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.writes != writes {
                // What was read may be from before our own write.
                continue;
            }
            match read {
                None => state.confirm(self.options.max_stale),
                Some(read) => self.take_in(&mut state, read, started),
            }
            if let Some(key) = key {
                state.open_with(key);
            }
            return;
        }
    }

    fn take_in(&self, state: &mut State, read: Read, started: Instant) {
        state.source = read.source;
        match read.loaded {
            Ok(loaded) => {
                if state.is_failed() {
                    tracing::info!("the secrets file can be read again");
                }
                state.take_in(read.seen, loaded);
                state.latency = Some(started.elapsed());
            }
            Err(error) => {
                if !state.is_failed() {
                    tracing::warn!("{error}");
                }
                state.fail(read.seen, error, self.options.max_stale);
            }
        }
    }

    /// What the file holds now. A half of a document is waited for.
    fn read_now(&self) -> Read {
        let started = Instant::now();
        let held = self.state().loaded().cloned();
        loop {
            let look = match self.options.place.look() {
                Ok(look) => look,
                Err(error) => {
                    return Read {
                        source: error.to_string(),
                        seen: Seen::Unclear,
                        loaded: Err(error),
                    };
                }
            };
            let (seen, loaded, is_young) = self.read_what_is_there(&look, held.as_ref());
            let patience = match &loaded {
                Err(Error::MalformedStore { .. }) if is_young => HALF_WRITTEN,
                Ok(loaded) => loaded.may_be_half_of(held.as_ref(), is_young),
                Err(_) => Duration::ZERO,
            };
            if started.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            return Read {
                source: look.path().display().to_string(),
                seen,
                loaded,
            };
        }
    }

    /// Also whether it changed so lately that it may be half written.
    fn read_what_is_there(
        &self,
        look: &Look<'_>,
        held: Option<&Loaded>,
    ) -> (Seen, Result<Loaded>, bool) {
        let yaml = place::is_yaml(look.path());
        let Some(stat) = look.stat() else {
            let path = look.path().to_owned();
            let nothing = Loaded {
                document: Arc::new(Document::empty(yaml)),
                content: None,
                modified: SystemTime::now(),
            };
            return (Seen::Missing(path), Ok(nothing), false);
        };
        // What cannot be read for what it is need not be looked at again before it changes.
        let seen = Seen::File(look.path().to_owned(), Stamp::of(stat));
        match self.read_at(look) {
            Ok(content) => {
                let is_young = content.stamp.is_younger_than(HALF_WRITTEN);
                let seen = Seen::after(look.path(), content.stamp);
                (seen, load(look, &content, held), is_young)
            }
            Err(error @ Error::MalformedStore { .. }) => (seen, Err(error), false),
            Err(error) => (Seen::Unclear, Err(error), false),
        }
    }

    fn read_at(&self, look: &Look<'_>) -> Result<Content> {
        let malformed = |reason: &str| Error::MalformedStore {
            path: look.path().to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(what) = look.stat().and_then(not_a_file) {
            return Err(malformed(what));
        }
        let content = read_file(look.path(), MAX_DOCUMENT).map_err(|error| match error {
            ReadError::NotAFile(what) => malformed(what),
            ReadError::TooLarge => malformed(TOO_LARGE),
            ReadError::Missing => self.io(look, rustix::io::Errno::NOENT.into()),
            ReadError::Io(error) => self.io(look, error),
        })?;
        if content.is_open_to_others() && !self.warned.open_to_others.swap(true, Ordering::Relaxed)
        {
            let path = look.path().display();
            tracing::warn!("{path} can be read by others; mend it with: chmod 600 {path}");
        }
        Ok(content)
    }

    fn io(&self, look: &Look<'_>, error: std::io::Error) -> Error {
        Error::io(format!("reading {}", look.path().display()), error)
    }
}

/// What came of reading the file.
struct Read {
    /// Where it lies, for people.
    source: String,
    seen: Seen,
    loaded: Result<Loaded>,
}

impl Loaded {
    /// For how long it is to be seen whether a document is one half of what is being written.
    fn may_be_half_of(&self, held: Option<&Loaded>, is_young: bool) -> Duration {
        let Some(held) = held.filter(|held| held.content.is_some()) else {
            return Duration::ZERO;
        };
        if self.content.is_none() {
            return HALF_WRITTEN;
        }
        let is_gone = |name: &SecretName| !self.document.contains(name);
        match is_young && self.document.is_yaml() && held.document.names().any(is_gone) {
            true => HALF_OF_YAML,
            false => Duration::ZERO,
        }
    }
}

/// The document of this content. Bytes that are the held document's are not parsed again.
fn load(look: &Look<'_>, content: &Content, held: Option<&Loaded>) -> Result<Loaded> {
    let print = ContentPrint::of(look.path(), &content.bytes);
    let modified = content.stamp.modified();
    if let Some(held) = held
        && held.content.as_ref() == Some(&print)
    {
        return Ok(Loaded {
            modified,
            ..held.clone()
        });
    }
    let parsed = parse_document(place::is_yaml(look.path()), &content.bytes);
    let mut document = parsed.map_err(|error| malformed_at(look.path(), error))?;
    if let Some(held) = held {
        document.take_opened(&held.document);
    }
    Ok(Loaded {
        document: Arc::new(document),
        content: Some(print),
        modified,
    })
}

/// The document at a path, if there is a file, and its stamp.
///
/// # Errors
/// [`Error::MalformedStore`], [`Error::Io`].
pub(crate) fn read_document(path: &Path) -> Result<Option<(Document, Stamp)>> {
    let malformed = |reason: String| Error::MalformedStore {
        path: path.to_owned(),
        reason,
    };
    let content = match read_file(path, MAX_DOCUMENT) {
        Ok(content) => content,
        Err(ReadError::Missing) => return Ok(None),
        Err(ReadError::NotAFile(what)) => return Err(malformed(what.to_owned())),
        Err(ReadError::TooLarge) => return Err(malformed(TOO_LARGE.to_owned())),
        Err(ReadError::Io(error)) => {
            return Err(Error::io(format!("reading {}", path.display()), error));
        }
    };
    let parsed = parse_document(place::is_yaml(path), &content.bytes);
    let document = parsed.map_err(|error| malformed_at(path, error))?;
    Ok(Some((document, content.stamp)))
}

/// The same with the file's path.
fn malformed_at(path: &Path, error: Error) -> Error {
    match error {
        Error::Malformed { reason, .. } => Error::MalformedStore {
            path: path.to_owned(),
            reason,
        },
        other => other,
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &str {
        "file"
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        self.look(Duration::MAX);
        let (tell, told) = mpsc::channel();
        drop(self.ask(name, Box::new(move |held| drop(tell.send(held)))));
        match told.recv() {
            Ok(Held::Value(provided)) => Ok(Some(provided)),
            Ok(Held::Absent { .. }) => Ok(None),
            Ok(Held::Failed(error)) => Err(error),
            Ok(Held::Unknown) | Err(mpsc::RecvError) => Err(self.no_answer()),
        }
    }

    fn held(&self, name: &SecretName) -> Held {
        held_in(&self.view(), name)
    }

    fn ask(&self, name: &SecretName, done: Asked) -> Result<(), Asked> {
        match self.held(name) {
            Held::Unknown => {}
            held => {
                done(held);
                return Ok(());
            }
        }
        self.0.state().want_key();
        let (shared, name, no_answer) = (self.0.clone(), name.clone(), self.no_answer());
        self.look_then(Box::new(move || {
            let view = shared.state().view(shared.options.max_stale);
            done(match held_in(&view, &name) {
                Held::Unknown => Held::Failed(no_answer),
                held => held,
            });
        }));
        Ok(())
    }

    fn names(&self) -> Vec<SecretName> {
        self.0.state().names()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.0.state().has(name)
    }

    fn standing(&self) -> Standing {
        self.view().standing(Instant::now())
    }

    fn bring_up_to_date(&self, done: Done) {
        match self.standing() {
            Standing::Unknown => self.look_then(done),
            Standing::Whole | Standing::Outdated | Standing::Failed(_) => done(),
        }
    }

    fn on_change(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.0.changed.set(changed));
    }

    fn refresh(&self) -> Refreshed {
        self.look(Duration::MAX);
        self.0.state().take_refreshed()
    }

    fn look(&self, patience: Duration) {
        let patience = patience.min(self.patience());
        self.0.watch.look(&self.0, patience);
    }

    fn join_watchers(&self) {
        self.0.is_peer.store(true, Ordering::Relaxed);
        self.look(SHORTEST_PATIENCE);
    }

    fn take_news(&self) -> News {
        let mut state = self.0.state();
        News {
            view: Some(state.view(self.0.options.max_stale)),
            changes: state.take_refreshed(),
            own: state.take_own_changes(),
        }
    }

    fn keeps_documents(&self) -> bool {
        true
    }

    fn report(&self) -> ProviderReport {
        self.0.state().report(self.0.options.max_stale)
    }

    fn store(&self) -> Option<&dyn SecretStore> {
        Some(self)
    }
}

impl FileProvider {
    /// Looks at the store in the background: calls `done` after a look that began later than this call, or when it takes too
    /// long.
    fn look_then(&self, done: Done) {
        let once = Arc::new(Mutex::new(Some(done)));
        let call = |once: &Mutex<Option<Done>>| {
            let done = once.lock().unwrap_or_else(|e| e.into_inner()).take();
            if let Some(done) = done {
                done();
            }
        };
        let late = once.clone();
        let timer = after(self.patience(), move || call(&late));
        let looked = move || {
            drop(timer);
            call(&once);
        };
        self.0.watch.look_then(&self.0, Box::new(looked));
    }

    fn no_answer(&self) -> Error {
        Error::Unavailable {
            provider: "file".to_owned(),
            reason: format!(
                "the filesystem of the secrets file gave no answer within {} s",
                self.patience().as_secs_f64()
            ),
        }
    }
}

fn held_in(view: &FileView, name: &SecretName) -> Held {
    match view.find(name, Instant::now()) {
        Viewed::Value { provided, .. } => Held::Value(provided),
        Viewed::Absent { .. } => Held::Absent { as_of: AsOf::now() },
        Viewed::Failed(error) => Held::Failed(error),
        Viewed::Unknown => Held::Unknown,
    }
}

impl Shared {
    /// The file's path as it is now: links followed.
    fn path_now(&self) -> Result<PathBuf> {
        Ok(self.options.place.look()?.path().to_owned())
    }

    fn peers(&self) -> MutexGuard<'_, Option<Arc<Peers>>> {
        self.peers.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn is_peer(&self) -> bool {
        self.is_peer.load(Ordering::Relaxed)
    }

    /// Where writers wait for this watcher, if they are to.
    fn join_peers(&self) -> Option<Arc<Peers>> {
        let store = self.is_peer().then(|| self.path_now().ok()).flatten()?;
        self.peers_of(&store, true)
    }

    /// The watchers of the store at this path.
    fn peers_of(&self, store: &Path, create: bool) -> Option<Arc<Peers>> {
        let mut peers = self.peers();
        let held = peers.take().filter(|peers| peers.is_beside(store));
        *peers = held.or_else(|| Peers::open(store, create).map(Arc::new));
        peers.clone()
    }
}

#[cfg(test)]
mod tests;
