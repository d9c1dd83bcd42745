//! A source that answers key by key, as a provider of the chain: each key's last answer, how long it is fresh, and one
//! call for all callers at once. Knows no other provider.

mod record;
mod view;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use zeroize::Zeroizing;

use super::backend::{FAILING_BACKEND_TIMEOUT, Timer, after};
use super::{Callback, Done, Provided, Provider, ProviderChanges, ProviderUpdate, View};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::logging::PROVIDER_FAILURES;
use crate::metrics::CallCounters;
use crate::secret::SecretName;
use crate::settings::Ttl;
use crate::sync::{self, LARGE_STACK, Mutex};
use view::KeyedView;

/// How many last answers are kept for one source.
const MAX_ANSWERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A source that answers key by key.
pub trait KeyedSource: Send + Sync + 'static {
    /// The provider's name.
    fn name(&self) -> &str;

    /// The source of its values, for people.
    fn source(&self) -> String {
        self.name().to_owned()
    }

    /// The value, or `None` if there is no such key. May wait, within the source's own timeouts.
    ///
    /// # Errors
    /// Why it cannot answer. After [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] the chain asks no further
    /// provider.
    fn get(&self, name: &SecretName) -> Result<Option<Provided>>;

    /// The names to list; never waits.
    fn names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    /// How long a key that it failed for is not asked for again.
    fn retry_pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Ends what it still does. Called once, at the end; may wait for some seconds.
    fn close(&self) {}
}

/// The provider over one [`KeyedSource`].
pub struct KeyedProvider(Arc<Shared>);

struct Shared {
    rules: Arc<Rules>,
    /// A leaf lock.
    state: Mutex<State>,
    changed: OnceLock<Callback>,
    /// Called when there is something new to save for the next process.
    unsaved: OnceLock<Callback>,
    calls: CallCounters,
}

struct Rules {
    source: Arc<dyn KeyedSource>,
    ttl: Ttl,
    max_stale: Duration,
}

struct State {
    answers: LruCache<SecretName, CachedAnswer>,
    /// The calls that may answer a new caller, with their waiters.
    calls: HashMap<SecretName, Waiters>,
    /// The outcome of the last call.
    last: LastCall,
    /// The changes that the chain has not taken yet.
    pending: ProviderChanges,
    view: Option<Arc<KeyedView>>,
}

/// The outcome of the last call, for people.
#[derive(Clone, Default)]
struct LastCall {
    /// Why it failed, if it did.
    failure: Option<Arc<Error>>,
    success: Option<SystemTime>,
    error: Option<(String, SystemTime)>,
    took: Option<Duration>,
}

/// The waiters of one call. Locked only while the state is locked.
type Waiters = Arc<Mutex<Vec<Done>>>;

/// The last answer for a key.
#[derive(Clone)]
struct CachedAnswer {
    /// The value, if the source has the key.
    provided: Option<Provided>,
    as_of: Instant,
    /// It was invalidated, and is served only if the source fails.
    is_stale: bool,
    /// Why the source has given no newer answer.
    failure: Option<Arc<Error>>,
    /// When it may be asked again, if it failed.
    retry_at: Option<Instant>,
}

impl KeyedProvider {
    /// The provider over this source. `max_stale`: how long the last value of a key is served while the source fails.
    pub fn new(source: Arc<dyn KeyedSource>, ttl: Ttl, max_stale: Duration) -> Self {
        Self(Arc::new(Shared {
            rules: Arc::new(Rules {
                source,
                ttl,
                max_stale,
            }),
            state: Mutex::new(State {
                answers: LruCache::new(MAX_ANSWERS),
                calls: HashMap::new(),
                last: LastCall::default(),
                pending: ProviderChanges::default(),
                view: None,
            }),
            changed: OnceLock::new(),
            unsaved: OnceLock::new(),
            calls: CallCounters::default(),
        }))
    }
}

impl Shared {
    fn view(&self, state: &mut State) -> Arc<dyn View> {
        let new_view = || {
            let answers = state.answers.iter();
            Arc::new(KeyedView {
                rules: self.rules.clone(),
                answers: answers.map(|(k, v)| (k.clone(), v.clone())).collect(),
                last: state.last.clone(),
            })
        };
        state.view.get_or_insert_with(new_view).clone()
    }

    /// Answers the waiters of a call with what there is.
    fn release(&self, waiters: &Waiters) {
        let waiters = {
            let _state = self.state.lock();
            std::mem::take(&mut *waiters.lock())
        };
        waiters.into_iter().for_each(|done| done());
    }
}

impl State {
    fn apply(
        &mut self,
        name: &SecretName,
        result: Result<Option<Provided>>,
        began: Instant,
        is_stale: bool,
        retry_pause: Duration,
    ) {
        let answer = match (result, self.answers.pop(name)) {
            // A later call has already answered.
            (_, Some(last)) if is_stale && last.as_of >= began => last,
            (Ok(mut provided), last) => {
                self.pending.health |= self.last.failure.take().is_some();
                self.last.success = Some(SystemTime::now());
                self.last.took = Some(began.elapsed());
                if let (Some(new), Some(old)) = (&mut provided, last.and_then(|last| last.provided))
                    && new.value == old.value
                {
                    new.changed_at = new.changed_at.min(old.changed_at);
                }
                CachedAnswer {
                    as_of: provided.as_ref().map_or(began, |provided| provided.as_of),
                    provided,
                    is_stale,
                    failure: None,
                    retry_at: None,
                }
            }
            (Err(error), last) => {
                let error = Arc::new(error);
                self.last.error = Some((error.reason(), SystemTime::now()));
                self.pending.health |= self.last.failure.replace(error.clone()).is_none();
                CachedAnswer {
                    as_of: last.as_ref().map_or(began, |last| last.as_of),
                    provided: last.and_then(|last| last.provided),
                    is_stale,
                    failure: Some(error),
                    retry_at: Instant::now().checked_add(retry_pause),
                }
            }
        };
        self.answers.put(name.clone(), answer);
        if self
            .answers
            .iter()
            .all(|(_, answer)| answer.failure.is_none())
        {
            self.last.error = None;
        }
        self.view = None;
    }
}

/// A running call. When it ends, even by a panic, its waiters are called.
struct Call {
    shared: Arc<Shared>,
    name: SecretName,
    waiters: Waiters,
    /// For a key that the source failed for before.
    _release: Option<Timer>,
}

impl Call {
    fn run(&self) {
        let began = Instant::now();
        let call = self.shared.calls.begin();
        let result = self.shared.rules.source.get(&self.name);
        match result {
            Ok(_) => call.succeeded(),
            Err(_) => drop(call),
        }
        let mut state = self.shared.state.lock();
        let (is_stale, was_failing) = (!self.is_current(&state), state.last.failure.is_some());
        let retry_pause = self.shared.rules.source.retry_pause();
        state.apply(&self.name, result, began, is_stale, retry_pause);
        if let (false, Some(error)) = (was_failing, &state.last.failure) {
            let source = self.shared.rules.source.name();
            let reason = error.reason();
            tracing::warn!(target: PROVIDER_FAILURES, "the {source} provider failed: {reason}");
        }
    }

    /// Whether nothing was invalidated since the call began.
    fn is_current(&self, state: &State) -> bool {
        let current = state.calls.get(&self.name);
        current.is_some_and(|current| Arc::ptr_eq(current, &self.waiters))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let waiters = {
            let mut state = self.shared.state.lock();
            if self.is_current(&state) {
                state.calls.remove(&self.name);
            }
            std::mem::take(&mut *self.waiters.lock())
        };
        for notify in [&self.shared.changed, &self.shared.unsaved] {
            if let Some(notify) = notify.get() {
                notify();
            }
        }
        waiters.into_iter().for_each(|done| done());
    }
}

impl Provider for KeyedProvider {
    fn name(&self) -> &str {
        self.0.rules.source.name()
    }

    fn view(&self) -> Arc<dyn View> {
        self.0.view(&mut self.0.state.lock())
    }

    fn take_update(&self) -> ProviderUpdate {
        let mut state = self.0.state.lock();
        ProviderUpdate {
            changes: std::mem::take(&mut state.pending),
            view: self.0.view(&mut state),
        }
    }

    fn ask(&self, name: Option<&SecretName>, done: Done) {
        let Some(name) = name else { return done() };
        let mut state = self.0.state.lock();
        let answer = state.answers.peek(name);
        if answer.is_some_and(|answer| !answer.find(name, &self.0.rules, Instant::now()).must_ask())
        {
            drop(state);
            return done();
        }
        if let Some(waiters) = state.calls.get(name) {
            return waiters.lock().push(done);
        }
        let waiters: Waiters = Arc::new(Mutex::new(vec![done]));
        // One that has recovered answers within this.
        let release = answer
            .is_some_and(|answer| answer.retry_at.is_some())
            .then(|| {
                let (shared, waiters) = (self.0.clone(), waiters.clone());
                after(FAILING_BACKEND_TIMEOUT, move || shared.release(&waiters))
            });
        let call = Call {
            shared: self.0.clone(),
            name: name.clone(),
            waiters,
            _release: release,
        };
        state.calls.insert(name.clone(), call.waiters.clone());
        drop(state);
        // If the thread cannot be started, the call ends here.
        if let Err(error) = sync::spawn("fetch", LARGE_STACK, move || call.run()) {
            tracing::warn!("cannot start a thread that fetches a secret: {error}");
        }
    }

    fn calls(&self) -> Option<&CallCounters> {
        Some(&self.0.calls)
    }

    fn expire(&self, prefix: &str) {
        let mut state = self.0.state.lock();
        let is_expired = |name: &SecretName| name.as_str().starts_with(prefix);
        state.calls.retain(|name, _| !is_expired(name));
        for (name, answer) in state.answers.iter_mut() {
            if is_expired(name) {
                (answer.is_stale, answer.retry_at) = (true, None);
            }
        }
        state.view = None;
    }

    fn expire_names(&self, names: &[SecretName]) -> Option<Arc<dyn View>> {
        let mut state = self.0.state.lock();
        let mut has_changed = false;
        for name in names {
            state.calls.remove(name);
            if let Some(answer) = state.answers.peek_mut(name) {
                (answer.is_stale, has_changed) = (true, true);
            }
        }
        has_changed.then(|| {
            state.view = None;
            self.0.view(&mut state)
        })
    }

    fn on_change(&self, changed: Callback) {
        drop(self.0.changed.set(changed));
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        Some(self.0.save())
    }

    fn restore(&self, saved: &[u8]) {
        self.0.restore(saved);
    }

    fn on_unsaved(&self, changed: Callback) {
        drop(self.0.unsaved.set(changed));
    }

    fn close(&self) {
        self.0.rules.source.close();
    }
}

#[cfg(test)]
mod tests;
