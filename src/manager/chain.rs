//! Reading: the first provider that has a key wins, and one that fails is passed over but not forgotten.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::desk::{Answered, Flight, Kept, Told};
use super::{Event, Found, Link, Lookup, SecretsManager, Snapshot, Version, provider_failed};
use crate::error::{Error, Result};
use crate::provider::{AsOf, Done, Held, Standing};
use crate::secret::SecretName;

/// What is called with a key's answer.
pub type AnswerDone = Box<dyn FnOnce(Lookup) + Send>;
/// What is called with the snapshot that holds all answers.
pub type SnapshotDone = Box<dyn FnOnce(Arc<Snapshot>) + Send>;

impl Answered {
    fn lookup(&self) -> Lookup {
        match self {
            Answered::Found(kept) => Lookup::Fresh(kept.version.clone(), kept.left()),
            Answered::Missing { .. } => Lookup::Missing,
            Answered::Failed(error) => Lookup::Failed(error.duplicate()),
        }
    }
}

/// A walk along the chain: how far it came, and what it met.
struct Walk {
    place: usize,
    failure: Option<Error>,
    /// As of when it is known that no provider so far has the key.
    as_of: AsOf,
}

/// Where a walk ended.
enum Walked {
    /// `true`: the answer may be cached.
    At(Answered, bool),
    /// At a provider that must be asked.
    Pending,
}

impl Walk {
    fn new() -> Self {
        Self {
            place: 0,
            failure: None,
            as_of: AsOf::now(),
        }
    }
}

impl SecretsManager {
    /// A key's value, with where and when it was found. May wait for a provider, bounded by the provider's timeouts.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no provider has it; [`Error::ProviderFailed`] if one that could have it could not be asked
    /// and none after it has it; [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] at once.
    pub fn find(&self, name: &SecretName) -> Result<Found> {
        self.refresh();
        if let Some(answered) = self.at_hand(name) {
            return answered.into_result(name);
        }
        let (tell, told) = mpsc::channel();
        let told_by = move |answered: &Answered| drop(tell.send(answered.clone()));
        self.question(name, Box::new(told_by));
        let answered = told.recv().unwrap_or_else(|_| Answered::lost(name));
        self.note_read(name, &answered);
        answered.into_result(name)
    }

    /// Asks for a key in the background; N who ask at once cost one question, bounded by the providers' timeouts. `done`
    /// is called with the answer, from any thread and with no lock held, when all who listen to changes have been told:
    /// [`Lookup::Fresh`] with what may be served now, [`Lookup::Missing`] or [`Lookup::Failed`].
    pub fn ask(&self, name: &SecretName, done: AnswerDone) {
        self.question(name, Box::new(move |answered| done(answered.lookup())));
    }

    /// Asks in the background for all that is listed. `done` is called as for [`ask`](Self::ask), with the snapshot that
    /// holds what every provider has answered, or held before where it failed.
    pub fn ask_all(&self, done: SnapshotDone) {
        let me = self.me.clone();
        let last = Self::when_all(Box::new(move || {
            if let Some(manager) = me.upgrade() {
                manager.publish();
                done(manager.snapshot());
            }
        }));
        for link in self.links.iter() {
            let last = last.clone();
            link.provider.bring_up_to_date(Box::new(move || drop(last)));
        }
    }

    /// What the present snapshot can say of a key, counted by the `secrets` cache as a hit or a miss, and noted as read
    /// by the provider, which then renews it before it ends.
    pub fn look_up(&self, name: &SecretName) -> Lookup {
        let epoch = self.desk.epoch();
        let lookup = self.snapshot().find(name);
        let is_hit = self.desk.count(name);
        if let Lookup::Fresh(version, valid_for) = &lookup {
            if !is_hit && !valid_for.is_zero() {
                let kept = Kept::new(version.clone());
                self.desk.keep(name, Answered::Found(kept), epoch);
            }
            self.note_provider_read(name, &version.provider);
        }
        lookup
    }

    fn note_provider_read(&self, name: &SecretName, provider: &str) {
        if let Some(link) = self.links.iter().find(|link| &*link.name == provider) {
            link.provider.note_read(name);
        }
    }

    fn question(&self, name: &SecretName, told: Told) {
        if let Some(flight) = self.desk.join(name, told)
            && let Some(question) = Question::new(self, name, flight)
        {
            question.go_on(None);
        }
    }

    /// Calls `done` when the last holder of it lets go.
    fn when_all(done: Done) -> Arc<WhenAll> {
        Arc::new(WhenAll(Mutex::new(Some(done))))
    }

    /// All keys to list, when every provider has answered or failed: waits, bounded by the providers' timeouts.
    ///
    /// # Errors
    /// Beside the names that are known, [`Error::ProviderFailed`] if a provider could say nothing.
    pub fn list(&self) -> (Vec<(SecretName, Arc<str>)>, Result<()>) {
        let (done, ended) = mpsc::channel();
        self.ask_all(Box::new(move |_| done.send(()).unwrap_or_default()));
        // An error says that nobody will tell any more.
        let _ = ended.recv();
        let whole = match self.standing() {
            Standing::Failed(error) => Err(error),
            Standing::Whole | Standing::Outdated | Standing::Unknown => Ok(()),
        };
        (self.names(), whole)
    }

    /// All keys to list, each with the provider that it would be read from; in order, and without waiting.
    pub fn names(&self) -> Vec<(SecretName, Arc<str>)> {
        self.refresh();
        self.snapshot().names().to_vec()
    }

    /// Whether [`names`](Self::names) lists all there is: not where a provider can say nothing of any key, or should be
    /// asked first ([`ask_all`](Self::ask_all)).
    pub fn standing(&self) -> Standing {
        self.snapshot().standing()
    }

    /// Takes in what changed without us: edits of the file, by one look at it. Waits for a disk, bounded by
    /// `timeout.total`; what hangs then is served as it was held.
    pub fn refresh(&self) {
        self.refresh_within(Duration::MAX);
    }

    pub(super) fn refresh_within(&self, patience: Duration) {
        self.links
            .iter()
            .for_each(|link| link.provider.look(patience));
        self.publish();
    }

    /// The answer at hand, or what the providers hold; `None` if one must be asked.
    fn at_hand(&self, name: &SecretName) -> Option<Answered> {
        let answered = self.desk.cached(name).or_else(|| {
            let epoch = self.desk.epoch();
            match self.walk(name, &mut Walk::new(), None) {
                Walked::At(answered, true) => Some(self.desk.keep(name, answered, epoch)),
                Walked::At(answered, false) => Some(answered),
                Walked::Pending => None,
            }
        })?;
        self.note_read(name, &answered);
        Some(answered)
    }

    /// The provider is to know which of its keys are read, though most readers are served by the cache.
    fn note_read(&self, name: &SecretName, answered: &Answered) {
        if let Answered::Found(kept) = answered {
            self.note_provider_read(name, &kept.version.provider);
        }
    }

    /// Goes on with a walk: to its end, or to a provider that must be asked. `answer` is what the one that it stopped at
    /// has said since.
    fn walk(&self, name: &SecretName, walk: &mut Walk, mut answer: Option<Held>) -> Walked {
        while let Some(link) = self.links.get(walk.place) {
            match answer.take().unwrap_or_else(|| link.provider.held(name)) {
                Held::Value(provided) => {
                    self.tell_if_up(link);
                    let kept = Kept::new(Version {
                        raw: provided.value,
                        provider: link.name.clone(),
                        changed_at: provided.changed_at,
                        as_of: provided.as_of,
                    });
                    return Walked::At(Answered::Found(kept), walk.failure.is_none());
                }
                Held::Absent { as_of } => {
                    self.tell_if_up(link);
                    walk.as_of = walk.as_of.and(as_of);
                }
                Held::Unknown => return Walked::Pending,
                Held::Failed(error) if error.ends_chain() => {
                    return Walked::At(Answered::Failed(error.into()), false);
                }
                Held::Failed(error) => {
                    self.tell_down(link, &error);
                    walk.failure
                        .get_or_insert_with(|| provider_failed(&link.name, name.as_str(), &error));
                }
            }
            walk.place += 1;
        }
        match walk.failure.take() {
            Some(error) => Walked::At(Answered::Failed(error.into()), false),
            None => Walked::At(Answered::Missing { as_of: walk.as_of }, true),
        }
    }

    fn tell_down(&self, link: &Link, error: &Error) {
        if !link.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!("the {} provider is passed over: {error}", link.name);
            self.tell(&[Event::new("provider_down", None, Some(&link.name))]);
        }
    }

    fn tell_if_up(&self, link: &Link) {
        if link.is_down.load(Ordering::Relaxed)
            && let Some(event) = link.check_health()
        {
            self.tell(&[event]);
        }
    }
}

struct WhenAll(Mutex<Option<Done>>);

impl Drop for WhenAll {
    fn drop(&mut self) {
        if let Some(done) = self.0.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            done();
        }
    }
}

/// A question that is under way for all who joined its flight. It lands the flight whatever happens, so that nobody
/// waits for an answer that was lost.
struct Question {
    manager: Arc<SecretsManager>,
    name: SecretName,
    flight: Arc<Flight>,
    walk: Walk,
    answered: Option<(Answered, bool)>,
}

impl Question {
    /// `None` where the manager is being dropped: nobody is left to wait.
    fn new(manager: &SecretsManager, name: &SecretName, flight: Arc<Flight>) -> Option<Self> {
        // It may have been answered between the look that found nothing and the question's begin.
        let cached = manager.desk.cached(name);
        Some(Self {
            manager: manager.me.upgrade()?,
            name: name.clone(),
            flight,
            walk: Walk::new(),
            answered: cached.map(|answered| (answered, false)),
        })
    }

    /// Walks on to the end, or to a provider that goes on when it has answered. One that can only be asked by waiting
    /// has a thread of its own for it.
    fn go_on(mut self, answer: Option<Held>) {
        if self.answered.is_some() {
            return;
        }
        let (name, links) = (self.name.clone(), self.manager.links.clone());
        let max_stale = self.manager.max_stale;
        let walk = &mut self.walk;
        if let Walked::At(answered, cacheable) = self.manager.walk(&name, walk, answer) {
            self.answered = Some((answered, cacheable));
            return;
        }
        let place = walk.place;
        let Some(link) = links.get(place) else { return };
        let go_on = move |held| self.go_on(Some(held));
        let Err(go_on) = link.provider.ask(&name, Box::new(go_on)) else {
            return;
        };
        let ask = move || {
            if let Some(link) = links.get(place) {
                go_on(link.ask(&name, max_stale));
            }
        };
        // Where there is no thread, what was to be done is dropped, and with it the question.
        let thread = std::thread::Builder::new().name("fetch".to_owned());
        if let Err(error) = thread.spawn(ask) {
            tracing::warn!("no thread could be started that asks for a secret: {error}");
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let (answered, cacheable) = self
            .answered
            .take()
            .unwrap_or_else(|| (Answered::lost(&self.name), false));
        // Those who listen are told before those who wait.
        self.manager.publish();
        let desk = &self.manager.desk;
        desk.land(&self.name, &self.flight, answered, cacheable);
    }
}
