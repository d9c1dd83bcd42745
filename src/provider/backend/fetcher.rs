//! Fetches a backend's document: one call for all callers at once, retried within bounds, and repeated in advance for
//! keys that are read often. Knows no protocol.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::runtime::runtime;
use super::state::{FAILING_BACKEND_TIMEOUT, MIN_BACKOFF, State};
use super::{Backend, FetchError, Fetched, Retry};
use crate::clock::Instant;
use crate::error::Result;
use crate::metrics::CallCounters;
use crate::provider::source_view::Rules;
use crate::provider::{Callback, Done};
use crate::secret::SecretName;
use crate::settings::Ttl;
use crate::sync::{Mutex, MutexGuard};

/// How often a call is retried if readers would otherwise get an error.
const MAX_RETRIES: u32 = 2;
/// How long the end of a mount or of a command waits for a backend's server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The value of `read_ttl` if no key was read since the last fetch.
const NO_READ: u64 = u64::MAX;

/// How a backend's document is cached.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// How long values and "no such key" are fresh.
    pub ttl: Ttl,
    /// How long the last document is served while the backend fails.
    pub max_stale: Duration,
    /// The most keys that the document may have.
    pub max_keys: usize,
    /// How long a fetch may take, all its retries together.
    pub timeout: Duration,
}

/// Fetches the document of one backend, and keeps what is known of it.
pub(super) struct Fetcher {
    pub(super) backend: Box<dyn Backend>,
    rules: Arc<Rules>,
    runtime: Handle,
    timeout: Duration,
    pub(super) calls: CallCounters,
    /// A leaf lock: never held across a wait or a callback.
    inner: Mutex<Inner>,
    pub(super) changed: OnceLock<Callback>,
    /// Called when there is something new to save for the next process.
    pub(super) unsaved: OnceLock<Callback>,
    /// The shortest time to live, in milliseconds, among the keys read since the last fetch began.
    read_ttl: AtomicU64,
    /// Notified when `read_ttl` falls or a fetch ends.
    read: Arc<Notify>,
}

pub(super) struct Inner {
    pub(super) state: State,
    /// Waiters for the current attempt.
    waiting: Vec<Done>,
    /// Waiters that asked after an invalidation, while an attempt from before it runs.
    waiting_for_next: Vec<Done>,
    refreshes_ahead: bool,
}

impl Fetcher {
    pub(super) fn new(backend: impl Backend, options: BackendOptions) -> Result<Arc<Self>> {
        let rules = Rules {
            provider: backend.name().to_owned(),
            ttl: Some(options.ttl),
            max_stale: options.max_stale,
            hangs: Box::new(|_| None),
        };
        let mut state = State::new(rules, options.max_keys);
        state.source.current_mut().source = backend.source();
        let rules = state.source.current().rules.clone();
        Ok(Arc::new(Self {
            runtime: runtime()?,
            inner: Mutex::new(Inner {
                state,
                waiting: Vec::new(),
                waiting_for_next: Vec::new(),
                refreshes_ahead: false,
            }),
            rules,
            backend: Box::new(backend),
            timeout: options.timeout,
            calls: CallCounters::default(),
            changed: OnceLock::new(),
            unsaved: OnceLock::new(),
            read_ttl: AtomicU64::new(NO_READ),
            read: Arc::default(),
        }))
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(super) fn notify_unsaved(&self) {
        if let Some(unsaved) = self.unsaved.get() {
            unsaved();
        }
    }

    /// Lets the task that refreshes ahead notice that the provider was dropped.
    pub(super) fn wake_refresher(&self) {
        self.read.notify_one();
    }

    /// Records that a key was read, so that the document is fetched again before the key expires.
    pub(super) fn record_read(&self, name: &SecretName) {
        let ttl = self.rules.ttl_of(name).as_millis();
        let ttl = u64::try_from(ttl).unwrap_or(NO_READ);
        let shortest = &self.read_ttl;
        if ttl < shortest.load(Ordering::Relaxed)
            && ttl < shortest.fetch_min(ttl, Ordering::Relaxed)
        {
            self.read.notify_one();
        }
    }

    /// Calls `done` when the document is fresh enough for the key (`None`: for a listing), or could not be fetched.
    pub(super) fn ask(self: &Arc<Self>, name: Option<&SecretName>, done: Done) {
        let now = Instant::now();
        let mut inner = self.inner();
        if inner.state.must_ask(name, now) {
            self.wait(&mut inner, done, now);
        } else {
            drop(inner);
            done();
        }
    }

    /// Closes the backend, then calls `done`.
    pub(super) fn close(self: Arc<Self>, done: Done) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.backend.close()).await;
            if closed.is_err() {
                tracing::debug!(
                    "the {} provider was not closed in time",
                    self.backend.name()
                );
            }
            done();
        });
    }

    /// Adds a waiter to the attempt that will answer it, and begins that attempt if none runs.
    fn wait(self: &Arc<Self>, inner: &mut Inner, waiter: Done, now: Instant) {
        if !inner.state.has_attempt() {
            inner.waiting.push(waiter);
            self.begin(inner, now);
        } else if inner.state.attempt_is_current() {
            inner.waiting.push(waiter);
        } else {
            inner.waiting_for_next.push(waiter);
        }
    }

    fn begin(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        inner.state.begin(now);
        self.read_ttl.store(NO_READ, Ordering::Relaxed);
        // Readers wait for retries only if there is nothing to serve and the backend has not failed before.
        let was_failing = inner.state.source.is_failing();
        let retries = !was_failing && !inner.state.source.current().is_servable(now);
        let fetcher = self.clone();
        let fetch = self
            .runtime
            .spawn(async move { fetcher.fetch(retries).await });
        let fetcher = self.clone();
        self.runtime.spawn(async move {
            // A fetch that panicked counts as failed.
            let ended = |_| Err(FetchError::passing("the call ended unexpectedly"));
            let result = fetch.await.unwrap_or_else(ended);
            fetcher.finish(result);
        });
        if was_failing {
            let fetcher = self.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(FAILING_BACKEND_TIMEOUT).await;
                fetcher.release_waiters(now);
            });
        }
    }

    /// One fetch, with retries, all within the timeout.
    async fn fetch(&self, retries: bool) -> Result<Fetched, FetchError> {
        let mut last = None;
        let attempts = async {
            for attempt in 0.. {
                let call = self.calls.begin();
                let error = match self.backend.fetch().await {
                    Ok(fetched) => {
                        call.succeeded();
                        return Ok(fetched);
                    }
                    Err(error) => error,
                };
                drop(call);
                let pause = match error.retry {
                    Retry::No => return Err(error),
                    Retry::Soon => MIN_BACKOFF,
                    Retry::After(pause) => pause.max(MIN_BACKOFF),
                };
                if !retries || attempt == MAX_RETRIES {
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

    /// Records the outcome of the attempt, reports the changes, then answers the waiters.
    fn finish(self: &Arc<Self>, result: Result<Fetched, FetchError>) {
        let waiting = {
            let mut inner = self.inner();
            inner.state.source.current_mut().source = self.backend.source();
            inner.state.finish(result, Instant::now());
            if !inner.refreshes_ahead && inner.state.source.current().cached.is_some() {
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
        // Before the answers: a waiter may read other keys as soon as it is answered.
        if let Some(changed) = self.changed.get() {
            changed();
        }
        self.notify_unsaved();
        waiting.into_iter().for_each(|done| done());
        self.read.notify_one();
    }

    /// The backend failed before and has not answered for a while: answers the waiters with what there is. `began`
    /// identifies the attempt.
    fn release_waiters(&self, began: Instant) {
        let waiting = {
            let mut inner = self.inner();
            if !inner.state.is_attempt_of(began) {
                return;
            }
            let mut waiting = std::mem::take(&mut inner.waiting);
            waiting.append(&mut inner.waiting_for_next);
            waiting
        };
        waiting.into_iter().for_each(|done| done());
    }

    /// Fetches documents again before their recently read keys expire, until the provider is dropped.
    fn refresh_ahead(self: &Arc<Self>) {
        let (fetcher, read) = (Arc::downgrade(self), self.read.clone());
        self.runtime.spawn(async move {
            while let Some(next) = refresh_if_due(&fetcher) {
                match next {
                    NextRefresh::Unknown => read.notified().await,
                    NextRefresh::At(due) => {
                        let left = due - Instant::now();
                        drop(tokio::time::timeout(left, read.notified()).await);
                    }
                }
            }
        });
    }
}

enum NextRefresh {
    At(Instant),
    /// Not before a key is read or an attempt ends.
    Unknown,
}

/// Begins an attempt if it is due; returns when to check again, or `None` if the provider was dropped.
fn refresh_if_due(fetcher: &Weak<Fetcher>) -> Option<NextRefresh> {
    let fetcher = fetcher.upgrade()?;
    let ttl = match fetcher.read_ttl.load(Ordering::Relaxed) {
        NO_READ => return Some(NextRefresh::Unknown),
        milliseconds => Duration::from_millis(milliseconds),
    };
    let now = Instant::now();
    let mut inner = fetcher.inner();
    match inner.state.refresh_at(ttl) {
        Some(due) if due > now => Some(NextRefresh::At(due)),
        Some(_) => {
            fetcher.begin(&mut inner, now);
            Some(NextRefresh::Unknown)
        }
        None => Some(NextRefresh::Unknown),
    }
}

/// Up to half a second, so that hosts that failed together do not retry together.
fn jitter() -> Duration {
    let mut random = [0; 2];
    if getrandom::fill(&mut random).is_err() {
        return Duration::ZERO;
    }
    Duration::from_millis(u64::from(u16::from_ne_bytes(random)) % 500)
}
