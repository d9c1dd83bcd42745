//! The answers at hand: the cache, the questions that are under way, and what keeps an answer from being kept when it
//! was invalidated while it was computed. Asks no provider.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::{Answer, Found};
use crate::cache::{CacheOptions, CacheStats, NamedCache, SECRETS, TtlCache};
use crate::error::{Error, Result};
use crate::provider::AsOf;
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;

/// For how long the answer to a background question is at hand when it may not be cached: long enough for those who
/// waited for it to come and take it.
const HAND_OVER: Duration = Duration::from_secs(1);

/// A value with where and when it was found.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) value: SecretValue,
    pub(super) provider: Arc<str>,
    pub(super) changed_at: SystemTime,
    pub(super) as_of: AsOf,
    /// `None`: it is not in the cache.
    pub(super) until: Option<Instant>,
}

impl Kept {
    pub(super) fn found(self) -> Found {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        Found {
            value: self.value,
            provider: self.provider,
            changed_at: self.changed_at,
            fetched_at: SystemTime::now() - self.as_of.at.elapsed(),
            expires_in: self.until.map(left).unwrap_or_default(),
        }
    }
}

/// An answer of the chain.
#[derive(Clone)]
pub(super) enum Answered {
    Found(Kept),
    Missing { as_of: AsOf },
    Failed(Arc<Error>),
}

impl From<Option<Answered>> for Answer {
    fn from(answered: Option<Answered>) -> Self {
        match answered {
            Some(Answered::Found(kept)) => Answer::Found(kept.found()),
            Some(Answered::Missing { .. }) => Answer::Missing,
            Some(Answered::Failed(error)) => Answer::Failed(error.duplicate()),
            None => Answer::Pending,
        }
    }
}

impl Answered {
    pub(super) fn into_result(self, name: &SecretName) -> Result<Found> {
        match self {
            Answered::Found(kept) => Ok(kept.found()),
            Answered::Missing { .. } => Err(Error::NotFound {
                name: name.to_string(),
            }),
            Answered::Failed(error) => Err(error.duplicate()),
        }
    }
}

/// What is called with the answer to a question that was asked in the background.
pub(super) type Told = Box<dyn FnOnce(&Answered) + Send>;

/// One question that is under way, and who waits for it.
#[derive(Default)]
pub(super) struct Flight {
    landing: Mutex<Landing>,
    landed: Condvar,
}

#[derive(Default)]
struct Landing {
    answer: Option<Answered>,
    /// Who asked in the background.
    waiting: Vec<Told>,
    hand_over: bool,
}

impl Flight {
    fn landing(&self) -> MutexGuard<'_, Landing> {
        self.landing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for the answer. Whoever leads the flight lands it, bounded by the providers' own timeouts.
    pub(super) fn wait(&self) -> Answered {
        let mut landing = self.landing();
        loop {
            if let Some(answer) = &landing.answer {
                return answer.clone();
            }
            let woken = self.landed.wait(landing);
            landing = woken.unwrap_or_else(|e| e.into_inner());
        }
    }
}

/// Whether one leads a question, or another does already.
pub(super) enum Joined {
    Leads(Arc<Flight>),
    Follows(Arc<Flight>),
}

pub(super) struct Desk {
    cache: TtlCache<Answered>,
    ttl: Arc<Ttl>,
    /// Held while an answer is put into the cache or taken out, so that the two cannot cross. Nothing waits under it,
    /// and only the cache's and a flight's own locks are taken inside.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Counts invalidations: an answer that was begun before one is not cached after it.
    epoch: u64,
    flights: HashMap<SecretName, Arc<Flight>>,
    handed_over: HashMap<SecretName, (Instant, Answered)>,
}

fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(7 + name.len());
    key.push_str("secret:");
    key.push_str(name);
    key
}

impl Desk {
    pub(super) fn new(ttl: Arc<Ttl>) -> Self {
        Self {
            cache: TtlCache::new(CacheOptions {
                default_ttl: ttl.default,
                ..SECRETS
            }),
            ttl,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The answer in the cache.
    pub(super) fn cached(&self, name: &SecretName) -> Option<Answered> {
        self.cache.get(&key_of(name.as_str()))
    }

    /// The answer at hand.
    pub(super) fn look_up(&self, name: &SecretName) -> Option<Answered> {
        if let Some(answer) = self.cached(name) {
            return Some(answer);
        }
        let mut inner = self.inner();
        let (until, answer) = inner.handed_over.get(name)?;
        if Instant::now() < *until {
            return Some(answer.clone());
        }
        inner.handed_over.remove(name);
        None
    }

    /// Counts a look at the cache for a name: whether it was there.
    pub(super) fn count(&self, name: &SecretName) -> bool {
        self.cached(name).is_some()
    }

    /// To be taken before a provider is asked.
    pub(super) fn epoch(&self) -> u64 {
        self.inner().epoch
    }

    /// Caches an answer, unless something was invalidated since `epoch`; gives it with its time to live.
    pub(super) fn keep(&self, name: &SecretName, answer: Answered, epoch: u64) -> Answered {
        let inner = self.inner();
        if inner.epoch == epoch {
            self.cache_answer(name, answer)
        } else {
            answer
        }
    }

    fn cache_answer(&self, name: &SecretName, answer: Answered) -> Answered {
        let (ttl, as_of) = match &answer {
            Answered::Found(kept) => {
                let ttl = self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
                (*ttl, kept.as_of)
            }
            Answered::Missing { as_of } => (self.ttl.missing, *as_of),
            Answered::Failed(_) => return answer,
        };
        let left = ttl.saturating_sub(as_of.at.elapsed());
        if left.is_zero() || as_of.is_stale {
            return answer;
        }
        let answer = match answer {
            Answered::Found(kept) => Answered::Found(Kept {
                // A time beyond all clocks is for ever.
                until: as_of.at.checked_add(ttl).or(kept.until),
                ..kept
            }),
            other => other,
        };
        self.cache
            .set_with_ttl(&key_of(name.as_str()), answer.clone(), left);
        answer
    }

    /// Joins the question about a name, or begins it. `told` is called when it is answered; with `hand_over`, the answer
    /// is at hand for a moment afterwards.
    pub(super) fn join(&self, name: &SecretName, told: Option<Told>, hand_over: bool) -> Joined {
        let mut inner = self.inner();
        let (flight, leads) = match inner.flights.get(name) {
            Some(flight) => (flight.clone(), false),
            None => {
                let flight = Arc::new(Flight::default());
                inner.flights.insert(name.clone(), flight.clone());
                (flight, true)
            }
        };
        {
            let mut landing = flight.landing();
            landing.hand_over |= hand_over;
            landing.waiting.extend(told);
        }
        match leads {
            true => Joined::Leads(flight),
            false => Joined::Follows(flight),
        }
    }

    /// Ends a question: keeps the answer if it may be kept and was not invalidated meanwhile, and tells all who wait.
    pub(super) fn land(
        &self,
        name: &SecretName,
        flight: &Arc<Flight>,
        answer: Answered,
        cacheable: bool,
    ) {
        let (waiting, answer) = {
            let mut inner = self.inner();
            let is_current = inner
                .flights
                .get(name)
                .is_some_and(|current| Arc::ptr_eq(current, flight));
            let mut answer = answer;
            let mut landing = flight.landing();
            if is_current {
                inner.flights.remove(name);
                if cacheable {
                    answer = self.cache_answer(name, answer);
                }
                if landing.hand_over {
                    let now = Instant::now();
                    inner.handed_over.retain(|_, (until, _)| *until > now);
                    let handed_over = (now + HAND_OVER, answer.clone());
                    inner.handed_over.insert(name.clone(), handed_over);
                }
            }
            landing.answer = Some(answer.clone());
            (std::mem::take(&mut landing.waiting), answer)
        };
        flight.landed.notify_all();
        waiting.into_iter().for_each(|told| told(&answer));
    }

    /// Drops what is known about a name. A question under way goes on for those who asked before.
    pub(super) fn drop_name(&self, name: &SecretName) {
        let mut inner = self.inner();
        inner.epoch += 1;
        inner.flights.remove(name);
        inner.handed_over.remove(name);
        self.cache.delete(&key_of(name.as_str()));
    }

    /// Drops the answers that could not be cached: a provider failed, or came back.
    pub(super) fn drop_uncached(&self) {
        self.inner().handed_over.clear();
    }
}

impl NamedCache for Desk {
    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    fn clear(&self) -> usize {
        let mut inner = self.inner();
        inner.epoch += 1;
        inner.flights.clear();
        inner.handed_over.clear();
        self.cache.clear()
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let mut inner = self.inner();
        inner.epoch += 1;
        let stays = |name: &SecretName| !key_of(name.as_str()).starts_with(prefix);
        inner.flights.retain(|name, _| stays(name));
        inner.handed_over.retain(|name, _| stays(name));
        self.cache.invalidate_prefix(prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::{Lookup, SecretsManager};
    use super::*;
    use crate::provider::{Provided, Provider, ProviderReport};

    struct Failing;

    impl Provider for Failing {
        fn name(&self) -> &str {
            "failing"
        }
        fn get(&self, _name: &SecretName) -> Result<Option<Provided>> {
            Err(Error::Unavailable {
                provider: "failing".to_owned(),
                reason: "it is down".to_owned(),
            })
        }
        fn names(&self) -> Vec<SecretName> {
            Vec::new()
        }
        fn report(&self) -> ProviderReport {
            ProviderReport::default()
        }
    }

    #[test]
    fn names_that_are_asked_for_while_a_provider_fails_leave_nothing_behind() {
        let manager = SecretsManager::builder()
            .with_provider(Arc::new(Failing))
            .build();
        for number in 0..500 {
            let name = SecretName::new(&format!("PROBED_{number}")).unwrap();
            let (answer, answered) = mpsc::channel();
            manager.ask(&name, Box::new(move |lookup| answer.send(lookup).unwrap()));
            let lookup = answered.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(matches!(lookup, Lookup::Failed(_)), "{lookup:?}");
        }
        let inner = manager.desk.inner();
        assert!(inner.flights.is_empty() && inner.handed_over.is_empty());
        assert_eq!(manager.desk.cache.stats().size, 0);
    }
}
