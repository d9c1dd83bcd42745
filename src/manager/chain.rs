//! Reading: the first provider that has a key wins, and one that fails is passed over but not forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::desk::{Answered, Done, Flight, Joined, Kept};
use super::{Answer, Event, Found, Link, SecretsManager};
use crate::cache::NamedCache;
use crate::error::{Error, Result};
use crate::provider::{Held, Provided, Refreshed};
use crate::secret::SecretName;

/// Where a walk along the chain ended.
enum Walked {
    /// `true`: the answer may be cached.
    At(Answered, bool),
    /// At a provider that must be asked.
    Pending,
}

impl SecretsManager {
    /// What can be said about a key without waiting, by the files as they are now. A few microseconds when it is cached.
    pub fn held(&self, name: &SecretName) -> Answer {
        self.refresh();
        match self.held_or_pending(name) {
            Some(Answered::Found(kept)) => Answer::Found(kept.found()),
            Some(Answered::Missing) => Answer::Missing,
            Some(Answered::Failed(error)) => Answer::Failed(error.duplicate()),
            None => Answer::Pending,
        }
    }

    /// A key's value, with where and when it was found. May wait for a provider, bounded by the provider's timeouts.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no provider has it; [`Error::ProviderFailed`] if one that could have it could not be asked
    /// and none after it has it; [`Error::CannotDecrypt`] and [`Error::KeyUnusable`] at once.
    pub fn find(&self, name: &SecretName) -> Result<Found> {
        self.refresh();
        if let Some(answered) = self.held_or_pending(name) {
            return answered.into_result(name);
        }
        let flight = match self.desk.join(name, None) {
            Joined::Leads(flight) => {
                self.lead(name, &flight);
                flight
            }
            Joined::Follows(flight) => flight,
        };
        flight.wait().into_result(name)
    }

    /// Asks for a key in the background; N who ask at once cost one thread and one question. `done` is called when the
    /// answer is at hand, so that [`held`](Self::held) gives it (a failure for one second), unless the key was
    /// invalidated meanwhile.
    pub fn fetch(self: &Arc<Self>, name: &SecretName, done: Box<dyn FnOnce() + Send>) {
        let done: Done = done;
        let Joined::Leads(flight) = self.desk.join(name, Some(done)) else {
            return;
        };
        let (manager, asked, its_flight) = (self.clone(), name.clone(), flight.clone());
        let spawned = std::thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || manager.lead(&asked, &its_flight));
        if let Err(error) = spawned {
            let error = Error::io("starting a thread that asks for a secret", error);
            self.desk
                .land(name, &flight, Answered::Failed(error.into()), false);
        }
    }

    /// All keys to list, each with the provider that it would be read from; in order, and without waiting.
    pub fn names(&self) -> Vec<(SecretName, Arc<str>)> {
        self.refresh();
        let mut listed = BTreeMap::new();
        for (place, link) in self.links.iter().enumerate() {
            for name in link.provider.names() {
                // An earlier provider may have a key that it does not list by itself.
                listed.entry(name).or_insert_with_key(|name| {
                    let earlier = self.links[..place].iter();
                    let mut having = earlier.filter(|link| link.provider.has(name));
                    having.next().unwrap_or(link).name.clone()
                });
            }
        }
        listed.into_iter().collect()
    }

    /// Why a provider can say nothing of any key, if one cannot: then a listing is not whole.
    pub fn outage(&self) -> Option<Error> {
        let probe = SecretName::new("_").ok()?;
        self.links
            .iter()
            .find_map(|link| match link.provider.held(&probe) {
                Held::Failed(error) if !ends_chain(&error) => Some(Error::ProviderFailed {
                    name: "a listing".into(),
                    provider: link.name.to_string(),
                    reason: error.to_string(),
                }),
                _ => None,
            })
    }

    /// Takes in what changed without us: edits of the file, by one `statx`. Readers do so by themselves; a watcher calls
    /// this to have the events sooner.
    pub fn refresh(&self) {
        let mut events = Vec::new();
        {
            let _turn = self.refreshing.lock().unwrap_or_else(|e| e.into_inner());
            for link in &self.links {
                match link.provider.refresh() {
                    Refreshed::Nothing => continue,
                    Refreshed::Names(changes) => {
                        self.desk.drop_uncached();
                        for change in &changes {
                            self.desk.drop_name(&change.name);
                            let key = Some(change.name.as_str());
                            events.push(Event::new(change.kind.event(), key, Some(&link.name)));
                        }
                    }
                    Refreshed::All => {
                        self.desk.clear();
                        events.push(Event::new("invalidated", None, Some(&link.name)));
                    }
                }
                events.extend(link.check_health());
            }
        }
        self.tell(&events);
    }

    /// The answer at hand, or what the providers hold; `None` if one must be asked.
    fn held_or_pending(&self, name: &SecretName) -> Option<Answered> {
        if let Some(answered) = self.desk.look_up(name) {
            return Some(answered);
        }
        let epoch = self.desk.epoch();
        match self.walk(name, false) {
            Walked::At(answered, true) => Some(self.desk.keep(name, answered, epoch)),
            Walked::At(answered, false) => Some(answered),
            Walked::Pending => None,
        }
    }

    /// Answers a question for all who joined it.
    fn lead(&self, name: &SecretName, flight: &Arc<Flight>) {
        /// Lands the flight whatever happens, so that nobody waits for a thread that is gone.
        struct Landing<'a>(
            &'a SecretsManager,
            &'a SecretName,
            &'a Arc<Flight>,
            Option<(Answered, bool)>,
        );
        impl Drop for Landing<'_> {
            fn drop(&mut self) {
                let (answered, cacheable) = self.3.take().unwrap_or_else(|| {
                    let error = std::io::Error::other("the provider ended unexpectedly");
                    let error = Error::io(format!("asking for {}", self.1), error);
                    (Answered::Failed(error.into()), false)
                });
                self.0.desk.land(self.1, self.2, answered, cacheable);
            }
        }
        let mut landing = Landing(self, name, flight, None);
        // It may have been answered between the look that found nothing and the question's begin.
        landing.3 = Some(match self.desk.look_up(name) {
            Some(answered) => (answered, false),
            None => match self.walk(name, true) {
                Walked::At(answered, cacheable) => (answered, cacheable),
                Walked::Pending => (Answered::Missing, false),
            },
        });
    }

    fn walk(&self, name: &SecretName, may_wait: bool) -> Walked {
        let mut failure = None;
        for link in &self.links {
            let held = match link.provider.held(name) {
                Held::Unknown if may_wait => link.ask(name, self.max_stale),
                Held::Unknown => return Walked::Pending,
                held => held,
            };
            match held {
                Held::Value(provided) => {
                    self.tell_if_up(link);
                    let kept = Kept {
                        value: provided.value,
                        provider: link.name.clone(),
                        changed_at: provided.changed_at,
                        fetched_at: SystemTime::now(),
                        until: None,
                    };
                    return Walked::At(Answered::Found(kept), failure.is_none());
                }
                Held::Absent | Held::Unknown => self.tell_if_up(link),
                Held::Failed(error) if ends_chain(&error) => {
                    return Walked::At(Answered::Failed(error.into()), false);
                }
                Held::Failed(error) => {
                    self.tell_down(link, &error);
                    failure.get_or_insert_with(|| Error::ProviderFailed {
                        name: name.to_string(),
                        provider: link.name.to_string(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        match failure {
            Some(error) => Walked::At(Answered::Failed(error.into()), false),
            None => Walked::At(Answered::Missing, true),
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

/// The value is there and cannot be read: no other provider's value may stand in for it.
fn ends_chain(error: &Error) -> bool {
    matches!(
        error,
        Error::CannotDecrypt { .. } | Error::KeyUnusable { .. }
    )
}

impl Link {
    /// Asks the provider, which may wait. For one that keeps no documents, a value that is young enough stands in for
    /// a failure.
    fn ask(&self, name: &SecretName, max_stale: std::time::Duration) -> Held {
        let answer = self.provider.get(name);
        if self.provider.keeps_documents() {
            return match answer {
                Ok(Some(provided)) => Held::Value(provided),
                Ok(None) => Held::Absent,
                Err(error) => Held::Failed(error),
            };
        }
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        match answer {
            Ok(Some(provided)) => {
                last.put(name.clone(), (provided.clone(), Instant::now()));
                Held::Value(provided)
            }
            Ok(None) => {
                last.pop(name);
                Held::Absent
            }
            Err(error) if ends_chain(&error) => Held::Failed(error),
            Err(error) => match last.get(name) {
                Some((provided, at)) if at.elapsed() < max_stale => {
                    let Provided { value, changed_at } = provided.clone();
                    Held::Value(Provided { value, changed_at })
                }
                _ => Held::Failed(error),
            },
        }
    }

    /// The event, if the provider failed or came back since the last one.
    fn check_health(&self) -> Option<Event> {
        let is_down = !self.provider.report().available;
        let was_down = self.is_down.swap(is_down, Ordering::Relaxed);
        let event = match (was_down, is_down) {
            (false, true) => "provider_down",
            (true, false) => "provider_up",
            _ => return None,
        };
        Some(Event::new(event, None, Some(&self.name)))
    }
}
