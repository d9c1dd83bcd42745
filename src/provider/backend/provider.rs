//! A backend as a link of the chain: one call for all who ask at once, tried again within bounds, and made in advance
//! for keys that are read often.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::runtime::runtime;
use super::saved::Saved;
use super::state::{BACKOFF, PATIENCE, Rules, State};
use super::view::BackendView;
use super::{Backend, FetchError, Fetched, Retry};
use crate::error::{Error, Result};
use crate::provider::{
    Asked, Done, Held, News, Provided, Provider, ProviderReport, Refreshed, Standing,
};
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;

/// How often a call is tried again at most, where readers would get an error otherwise.
const RETRIES: u32 = 2;
/// No key was read since the last fetch.
const NOTHING_READ: u64 = u64::MAX;

/// How a backend's document is kept.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// For how long values and "no such key" are good.
    pub ttl: Ttl,
    /// For how long the last document is served while the backend fails.
    pub max_stale: Duration,
    /// For how long a question may take, all attempts together.
    pub timeout: Duration,
}

/// The provider over one backend. It makes no call before somebody asks.
pub struct BackendProvider {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Box<dyn Backend>,
    runtime: Handle,
    rules: Arc<Rules>,
    timeout: Duration,
    // Nothing waits under it, and nobody is called.
    inner: Mutex<Inner>,
    /// Whether there is something that `refresh` has not told yet.
    has_untold: AtomicBool,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// There is something new that should outlive this process.
    unsaved: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The shortest time to live, in milliseconds, of the keys that were read since the last fetch began.
    read_ttl: AtomicU64,
    /// Told when it has become shorter, or a fetch has ended.
    read: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    state: State,
    /// What readers see of the state; `None`: it changed since.
    view: Option<Arc<BackendView>>,
    /// Who waits for the attempt under way.
    waiting: Vec<Waiter>,
    /// Who asked after an invalidation, while an attempt from before it is under way.
    waiting_for_next: Vec<Waiter>,
    refreshes_ahead: bool,
}

enum Waiter {
    /// For a key.
    Key(SecretName, Asked),
    /// For a document, whatever is in it.
    Document(Done),
}

impl BackendProvider {
    /// The provider over this backend.
    ///
    /// # Errors
    /// [`Error::Io`] where the thread that asks backends cannot be started.
    pub fn new(backend: impl Backend, options: BackendOptions) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                runtime: runtime()?,
                rules: Arc::new(Rules {
                    provider: backend.name(),
                    ttl: options.ttl,
                    max_stale: options.max_stale,
                }),
                backend: Box::new(backend),
                timeout: options.timeout,
                inner: Mutex::default(),
                has_untold: AtomicBool::new(false),
                changed: OnceLock::new(),
                unsaved: OnceLock::new(),
                read_ttl: AtomicU64::new(NOTHING_READ),
                read: Arc::default(),
            }),
        })
    }

    /// Waits until what is held is fresh, or could not be had.
    fn wait_for_document(&self) {
        let (done, ended) = mpsc::channel();
        self.bring_up_to_date(Box::new(move || {
            let _ = done.send(());
        }));
        // An error says that it was dropped: nobody will tell any more.
        let _ = ended.recv();
    }
}

impl Drop for BackendProvider {
    fn drop(&mut self) {
        // Who refreshes ahead finds that nobody is left.
        self.shared.read.notify_one();
    }
}

impl Provider for BackendProvider {
    fn name(&self) -> &str {
        self.shared.rules.provider
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        let (tell, told) = mpsc::channel();
        drop(self.ask(name, Box::new(move |held| drop(tell.send(held)))));
        match told.recv() {
            Ok(Held::Value(provided)) => Ok(Some(provided)),
            Ok(Held::Absent { .. }) => Ok(None),
            Ok(Held::Failed(error)) => Err(error),
            Ok(Held::Unknown) | Err(mpsc::RecvError) => Err(Error::Unavailable {
                provider: self.name().to_owned(),
                reason: "its answer was lost".to_owned(),
            }),
        }
    }

    fn held(&self, name: &SecretName) -> Held {
        let inner = self.shared.inner();
        inner.state.held(name, &self.shared.rules, Instant::now())
    }

    fn ask(&self, name: &SecretName, done: Asked) -> Result<(), Asked> {
        let now = Instant::now();
        let mut inner = self.shared.inner();
        match inner.state.held(name, &self.shared.rules, now) {
            Held::Unknown => {
                let waiter = Waiter::Key(name.clone(), done);
                self.shared.wait(&mut inner, waiter, now);
            }
            answer => {
                drop(inner);
                done(answer);
            }
        }
        Ok(())
    }

    fn get_by_key(&self, key: &str) -> Result<Option<SecretValue>> {
        self.wait_for_document();
        let inner = self.shared.inner();
        match inner.state.standing(&self.shared.rules, Instant::now()) {
            Standing::Failed(error) => Err(error),
            Standing::Whole | Standing::Outdated | Standing::Unknown => {
                let document = inner.state.document();
                Ok(document.and_then(|document| document.get_by_key(key).cloned()))
            }
        }
    }

    fn standing(&self) -> Standing {
        let inner = self.shared.inner();
        inner.state.standing(&self.shared.rules, Instant::now())
    }

    fn bring_up_to_date(&self, done: Done) {
        let now = Instant::now();
        let mut inner = self.shared.inner();
        match inner.state.standing(&self.shared.rules, now) {
            Standing::Outdated | Standing::Unknown => {
                self.shared.wait(&mut inner, Waiter::Document(done), now);
            }
            Standing::Whole | Standing::Failed(_) => {
                drop(inner);
                done();
            }
        }
    }

    fn expire(&self) {
        let mut inner = self.shared.inner();
        inner.state.expire(Instant::now());
        inner.view = None;
    }

    fn note_read(&self, name: &SecretName) {
        let ttl = self.shared.rules.ttl_of(name).as_millis();
        let ttl = u64::try_from(ttl).unwrap_or(NOTHING_READ);
        let noted = &self.shared.read_ttl;
        if ttl < noted.load(Ordering::Relaxed) && ttl < noted.fetch_min(ttl, Ordering::Relaxed) {
            self.shared.read.notify_one();
        }
    }

    fn on_change(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.shared.changed.set(changed));
    }

    fn names(&self) -> Vec<SecretName> {
        let inner = self.shared.inner();
        let names = inner.state.document().map(|document| document.names());
        names.into_iter().flatten().cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        let inner = self.shared.inner();
        let document = inner.state.document();
        document.is_some_and(|document| document.get(name).is_some())
    }

    fn refresh(&self) -> Refreshed {
        if !self.shared.has_untold.swap(false, Ordering::Relaxed) {
            return Refreshed::Nothing;
        }
        match self.shared.inner().state.take_untold() {
            Some(changes) => Refreshed::Names(changes),
            None => Refreshed::Nothing,
        }
    }

    fn keeps_documents(&self) -> bool {
        true
    }

    fn take_news(&self) -> News {
        let shared = &self.shared;
        let mut inner = shared.inner();
        let changes = match shared.has_untold.swap(false, Ordering::Relaxed) {
            true => inner.state.take_untold(),
            false => None,
        };
        let Inner { state, view, .. } = &mut *inner;
        let new_view = || BackendView::new(state, &shared.rules, shared.backend.source());
        News {
            view: Some(view.get_or_insert_with(new_view).clone()),
            changes: changes.map_or(Refreshed::Nothing, Refreshed::Names),
            own: Vec::new(),
        }
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        let shared = &self.shared;
        let own = shared.backend.save();
        let own = own.as_ref().map(|own| own.as_slice());
        let source = shared.backend.source();
        Some(shared.inner().state.save(&source, own, Instant::now()))
    }

    fn restore(&self, saved: &[u8]) {
        let shared = &self.shared;
        let source = shared.backend.source();
        let Some(saved) = Saved::read(saved, &source) else {
            return;
        };
        if let Some(own) = saved.own {
            shared.backend.restore(own);
        }
        let mut inner = shared.inner();
        inner.state.restore(&saved, Instant::now());
        inner.view = None;
    }

    fn on_save(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.shared.unsaved.set(changed));
        let shared = Arc::downgrade(&self.shared);
        self.shared.backend.on_save(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.tell_unsaved();
            }
        }));
    }

    fn report(&self) -> ProviderReport {
        let shared = &self.shared;
        let inner = shared.inner();
        inner
            .state
            .report(&shared.rules, &shared.backend.source(), Instant::now())
    }
}

impl Shared {
    fn tell_unsaved(&self) {
        if let Some(unsaved) = self.unsaved.get() {
            unsaved();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Has one wait for the attempt that will answer him, which is begun if need be.
    fn wait(self: &Arc<Self>, inner: &mut Inner, waiter: Waiter, now: Instant) {
        if !inner.state.is_under_way() {
            inner.waiting.push(waiter);
            self.begin(inner, now);
        } else if inner.state.attempt_counts() {
            inner.waiting.push(waiter);
        } else {
            inner.waiting_for_next.push(waiter);
        }
    }

    fn begin(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        inner.state.begin(now);
        self.read_ttl.store(NOTHING_READ, Ordering::Relaxed);
        // With something to serve, or after a failure, nobody is made to wait for a second try.
        let was_failing = inner.state.is_failing();
        let tries_again = !was_failing && !inner.state.is_usable(&self.rules, now);
        let shared = self.clone();
        let fetching = self
            .runtime
            .spawn(async move { shared.fetch(tries_again).await });
        let shared = self.clone();
        self.runtime.spawn(async move {
            // A task that panicked has an answer, too.
            let ended = |_| Err(FetchError::passing("the call ended unexpectedly"));
            let result = fetching.await.unwrap_or_else(ended);
            shared.finish(result);
        });
        if was_failing {
            let shared = self.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                shared.lose_patience(now);
            });
        }
    }

    /// One fetch, tried again within the time that a question may take.
    async fn fetch(&self, tries_again: bool) -> Result<Fetched, FetchError> {
        let mut last = None;
        let attempts = async {
            for attempt in 0.. {
                let error = match self.backend.fetch().await {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => error,
                };
                let pause = match error.retry {
                    Retry::No => return Err(error),
                    Retry::Soon => BACKOFF,
                    Retry::After(pause) => pause.max(BACKOFF),
                };
                if !tries_again || attempt == RETRIES {
                    return Err(error);
                }
                last = Some(error);
                tokio::time::sleep(pause + jitter()).await;
            }
            Err(FetchError::passing("it was tried too often"))
        };
        let in_time = tokio::time::timeout(self.timeout, attempts).await;
        in_time.unwrap_or_else(|_| {
            Err(last.unwrap_or_else(|| {
                FetchError::passing(format!(
                    "{} gave no answer within {} s (setting timeout.total)",
                    self.backend.source(),
                    self.timeout.as_secs_f64()
                ))
            }))
        })
    }

    /// Takes in what came of the attempt, tells what changed, and answers who waited.
    fn finish(self: &Arc<Self>, result: Result<Fetched, FetchError>) {
        let waiting = {
            let mut inner = self.inner();
            inner.state.finish(result, &self.rules, Instant::now());
            inner.view = None;
            self.has_untold.store(true, Ordering::Relaxed);
            if !inner.refreshes_ahead && inner.state.document().is_some() {
                inner.refreshes_ahead = true;
                self.refresh_ahead();
            }
            let waiting = std::mem::take(&mut inner.waiting);
            if !inner.waiting_for_next.is_empty() {
                inner.waiting = std::mem::take(&mut inner.waiting_for_next);
                self.begin(&mut inner, Instant::now());
            }
            waiting
        };
        // First what changed: who is answered may look elsewhere, too.
        if let Some(changed) = self.changed.get() {
            changed();
        }
        self.tell_unsaved();
        self.answer(waiting);
        self.read.notify_one();
    }

    /// The backend failed before and does not answer now: those who wait get what there is.
    fn lose_patience(&self, begun: Instant) {
        let waiting = {
            let mut inner = self.inner();
            if !inner.state.is_attempt_of(begun) {
                return;
            }
            let mut waiting = std::mem::take(&mut inner.waiting);
            waiting.append(&mut inner.waiting_for_next);
            waiting
        };
        self.answer(waiting);
    }

    fn answer(&self, waiting: Vec<Waiter>) {
        for waiter in waiting {
            match waiter {
                Waiter::Key(name, done) => {
                    let now = Instant::now();
                    let answer = self.inner().state.answer(&name, &self.rules, now);
                    done(answer);
                }
                Waiter::Document(done) => done(),
            }
        }
    }

    /// Fetches anew, before they end, documents with keys that are read, for as long as the provider is there.
    fn refresh_ahead(self: &Arc<Self>) {
        let (shared, read) = (Arc::downgrade(self), self.read.clone());
        self.runtime.spawn(async move {
            while let Some(due) = refresh_when_due(&shared) {
                match due {
                    Due::NotKnown => read.notified().await,
                    Due::At(due) => {
                        drop(tokio::time::timeout_at(due.into(), read.notified()).await);
                    }
                }
            }
        });
    }
}

enum Due {
    At(Instant),
    /// Until somebody reads, or an attempt ends.
    NotKnown,
}

/// Begins an attempt if it is time; when to look again, or `None` if the provider is gone.
fn refresh_when_due(shared: &Weak<Shared>) -> Option<Due> {
    let shared = shared.upgrade()?;
    let ttl = match shared.read_ttl.load(Ordering::Relaxed) {
        NOTHING_READ => return Some(Due::NotKnown),
        milliseconds => Duration::from_millis(milliseconds),
    };
    let now = Instant::now();
    let mut inner = shared.inner();
    match inner.state.refresh_at(ttl) {
        Some(due) if due > now => Some(Due::At(due)),
        Some(_) => {
            shared.begin(&mut inner, now);
            Some(Due::NotKnown)
        }
        None => Some(Due::NotKnown),
    }
}

/// Up to half a second, so that many hosts that failed together do not come back together.
fn jitter() -> Duration {
    let mut random = [0; 2];
    if getrandom::fill(&mut random).is_err() {
        return Duration::ZERO;
    }
    Duration::from_millis(u64::from(u16::from_ne_bytes(random)) % 500)
}

#[cfg(test)]
mod tests;
