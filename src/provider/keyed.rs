//! A source that answers key by key, as a provider of the chain: each key's last answer, how long it is fresh, and one
//! call for all callers at once. Knows no other provider.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;

use super::{
    Callback, Done, Provided, Provider, ProviderChanges, ProviderReport, ProviderUpdate, View,
    ViewLookup,
};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::secret::SecretName;
use crate::settings::Ttl;
use crate::sync::{self, LARGE_STACK, Mutex};

/// How many last answers are kept for one source.
const MAX_ANSWERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A source that answers key by key.
pub trait KeyedSource: Send + Sync + 'static {
    /// The provider's name.
    fn name(&self) -> &str;

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
}

/// The provider over one [`KeyedSource`].
pub struct KeyedProvider(Arc<Shared>);

struct Shared {
    rules: Arc<Rules>,
    /// A leaf lock.
    state: Mutex<State>,
    changed: OnceLock<Callback>,
}

struct Rules {
    source: Arc<dyn KeyedSource>,
    ttl: Ttl,
    max_stale: Duration,
}

struct State {
    answers: LruCache<SecretName, Answer>,
    /// The calls that may answer a new caller, with their waiters.
    calls: HashMap<SecretName, Waiters>,
    /// Why the last call failed, if it did.
    failure: Option<Arc<Error>>,
    /// The changes that the chain has not taken yet.
    pending: ProviderChanges,
    view: Option<Arc<KeyedView>>,
}

/// The waiters of one call. Locked only while the state is locked.
type Waiters = Arc<Mutex<Vec<Done>>>;

/// The last answer for a key.
#[derive(Clone)]
struct Answer {
    /// The value, if the source has the key.
    provided: Option<Provided>,
    as_of: Instant,
    /// It was invalidated, and is served only if the source fails.
    is_stale: bool,
    /// Why the source has given no newer answer.
    failure: Option<Arc<Error>>,
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
                failure: None,
                pending: ProviderChanges::default(),
                view: None,
            }),
            changed: OnceLock::new(),
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
                failure: state.failure.clone(),
            })
        };
        state.view.get_or_insert_with(new_view).clone()
    }
}

impl State {
    fn apply(
        &mut self,
        name: &SecretName,
        result: Result<Option<Provided>>,
        began: Instant,
        is_stale: bool,
    ) {
        let answer = match (result, self.answers.pop(name)) {
            // A later call has already answered.
            (_, Some(last)) if is_stale && last.as_of >= began => last,
            (Ok(provided), _) => {
                self.pending.health |= self.failure.take().is_some();
                Answer {
                    as_of: provided.as_ref().map_or(began, |provided| provided.as_of),
                    provided,
                    is_stale,
                    failure: None,
                }
            }
            (Err(error), last) => {
                let error = Arc::new(error);
                self.pending.health |= self.failure.replace(error.clone()).is_none();
                Answer {
                    as_of: last.as_ref().map_or(began, |last| last.as_of),
                    provided: last.and_then(|last| last.provided),
                    is_stale,
                    failure: Some(error),
                }
            }
        };
        self.answers.put(name.clone(), answer);
        self.view = None;
    }
}

/// A running call. When it ends, even by a panic, its waiters are called.
struct Call {
    shared: Arc<Shared>,
    name: SecretName,
    waiters: Waiters,
}

impl Call {
    fn run(&self) {
        let began = Instant::now();
        let result = self.shared.rules.source.get(&self.name);
        let mut state = self.shared.state.lock();
        let (is_stale, was_failing) = (!self.is_current(&state), state.failure.is_some());
        state.apply(&self.name, result, began, is_stale);
        if let (false, Some(error)) = (was_failing, &state.failure) {
            let source = self.shared.rules.source.name();
            tracing::warn!("the {source} provider failed: {error}");
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
        if let Some(changed) = self.shared.changed.get() {
            changed();
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
        let call = Call {
            shared: self.0.clone(),
            name: name.clone(),
            waiters: Arc::new(Mutex::new(vec![done])),
        };
        state.calls.insert(name.clone(), call.waiters.clone());
        drop(state);
        // If the thread cannot be started, the call ends here.
        if let Err(error) = sync::spawn("fetch", LARGE_STACK, move || call.run()) {
            tracing::warn!("cannot start a thread that fetches a secret: {error}");
        }
    }

    fn expire(&self, prefix: &str) {
        let mut state = self.0.state.lock();
        let is_expired = |name: &SecretName| name.as_str().starts_with(prefix);
        state.calls.retain(|name, _| !is_expired(name));
        let names = state.answers.iter().map(|(name, _)| name.clone());
        let expired: Vec<SecretName> = names.filter(is_expired).collect();
        for name in expired {
            state.answers.pop(&name);
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
}

impl Answer {
    fn find(&self, name: &SecretName, rules: &Rules, now: Instant) -> ViewLookup {
        let age = now.saturating_duration_since(self.as_of);
        let fresh_for = |ttl: Duration| {
            let left = ttl.saturating_sub(age);
            (!left.is_zero() && !self.is_stale).then_some(left)
        };
        let ttl = rules.ttl.of(name);
        let is_servable = |error: &Error| age < rules.max_stale && !error.ends_chain();
        match (&self.provided, &self.failure) {
            (Some(provided), failure)
                if failure.as_ref().is_none_or(|error| is_servable(error)) =>
            {
                ViewLookup::Value {
                    provided: provided.clone(),
                    valid_for: fresh_for(ttl).filter(|_| failure.is_none()),
                }
            }
            (_, Some(error)) => ViewLookup::Failed {
                error: error.duplicate(),
                must_ask: true,
            },
            _ => ViewLookup::Absent {
                is_fresh: fresh_for(rules.ttl.missing).is_some(),
                skip_for: fresh_for(ttl.max(rules.ttl.missing)),
            },
        }
    }
}

/// The last answers of a source.
struct KeyedView {
    rules: Arc<Rules>,
    answers: HashMap<SecretName, Answer>,
    failure: Option<Arc<Error>>,
}

impl View for KeyedView {
    fn find(&self, name: &SecretName, now: Instant) -> ViewLookup {
        let answer = self.answers.get(name);
        answer.map_or(ViewLookup::Unknown, |answer| {
            answer.find(name, &self.rules, now)
        })
    }

    fn names(&self) -> Vec<SecretName> {
        self.rules.source.names()
    }

    fn has(&self, name: &SecretName) -> bool {
        let answer = self.answers.get(name);
        answer.is_some_and(|answer| answer.provided.is_some()) || self.names().contains(name)
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        let name = self.rules.source.name();
        ProviderReport {
            name: name.to_owned(),
            configured: true,
            available: self.failure.is_none(),
            source: name.to_owned(),
            keys: self.names().iter().map(ToString::to_string).collect(),
            last_error: self.failure.as_ref().map(ToString::to_string),
            ..ProviderReport::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{no_answer, wait_for};

    /// A source that fails for all keys but one, for which it panics.
    struct Failing;

    impl KeyedSource for Failing {
        fn name(&self) -> &str {
            "failing"
        }
        fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
            assert_ne!(name.as_str(), "PANIC", "as the test has it");
            Err(no_answer("failing"))
        }
    }

    #[test]
    fn every_call_ends_in_an_answer_and_leaves_no_waiter_behind() {
        let provider = KeyedProvider::new(Arc::new(Failing), Ttl::default(), Duration::MAX);
        let names = (0..500).map(|number| format!("PROBED_{number}"));
        for name in names.chain(["PANIC".to_owned()]) {
            let name = SecretName::new(&name).unwrap();
            wait_for(|done| provider.ask(Some(&name), done));
            let found = provider.view().find(&name, Instant::now());
            match name.as_str() {
                "PANIC" => assert!(matches!(found, ViewLookup::Unknown), "{found:?}"),
                _ => assert!(matches!(found, ViewLookup::Failed { .. }), "{found:?}"),
            }
        }
        assert!(provider.0.state.lock().calls.is_empty());
    }
}
