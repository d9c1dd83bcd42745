//! All providers' documents at one moment. A snapshot never changes, never waits, and touches neither disk nor network.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::add_failure;
use crate::clock::Instant;
use crate::error::Error;
use crate::provider::{ListingState, ProviderReport, View, ViewLookup, no_answer};
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;

/// All providers' views at one moment. Two snapshots of the same generation have the same values.
pub struct Snapshot {
    generation: u64,
    sources: Vec<Source>,
    ttl: Arc<Ttl>,
    /// Merged at the first use.
    names: OnceLock<Vec<(SecretName, Arc<str>)>>,
}

/// One provider of a snapshot.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) name: Arc<str>,
    pub(super) view: Arc<dyn View>,
}

/// A value in a snapshot.
#[derive(Clone, Debug)]
pub struct SecretVersion {
    /// The content of the file: the text as it is stored, perhaps with a newline at its end.
    pub raw: SecretValue,
    /// The provider that has it.
    pub provider: Arc<str>,
    /// When the value last changed, as far as the provider knows.
    pub changed_at: SystemTime,
    as_of: Instant,
}

impl SecretVersion {
    /// When the provider was asked.
    pub fn fetched_at(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.as_of.elapsed()).unwrap_or(now)
    }

    /// The secret's value: without the newline that ends a single line.
    pub fn value(&self) -> SecretValue {
        self.raw.without_newline()
    }

    /// The size of the file, in bytes.
    pub fn size(&self) -> usize {
        self.raw.len()
    }
}

/// What a snapshot has for a key.
#[derive(Debug)]
pub enum Lookup {
    /// The value, and how long it may be served unless the generation changes (zero: only now).
    Fresh(SecretVersion, Duration),
    /// The last value. A provider must be asked before a reader gets one.
    Stale(SecretVersion),
    /// No provider has the key.
    Missing,
    /// A provider failed that may have the key.
    Failed(Error),
    /// A provider must be asked.
    Unknown,
}

impl Lookup {
    /// The value, if it may be served.
    pub fn fresh(self) -> Option<SecretVersion> {
        match self {
            Lookup::Fresh(version, _) => Some(version),
            _ => None,
        }
    }

    /// The value, however old it is.
    pub fn last_known(self) -> Option<SecretVersion> {
        match self {
            Lookup::Fresh(version, _) | Lookup::Stale(version) => Some(version),
            _ => None,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot(generation {})", self.generation)
    }
}

impl Snapshot {
    pub(super) fn new(generation: u64, sources: Vec<Source>, ttl: Arc<Ttl>) -> Self {
        Self {
            generation,
            sources,
            ttl,
            names: OnceLock::new(),
        }
    }

    /// The number of visible changes before this snapshot.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Looks a key up: the first provider that has it wins, and one that fails is skipped.
    pub fn find(&self, name: &SecretName) -> Lookup {
        self.walk(name, 0).0
    }

    /// The same for a reader that has asked the first `asked` providers: their answers count as they are. The second
    /// value is the index of the first provider that must be asked before the answer can be [`Lookup::Fresh`],
    /// [`Lookup::Missing`] or [`Lookup::Failed`].
    pub(super) fn walk(&self, name: &SecretName, asked: usize) -> (Lookup, Option<usize>) {
        let now = Instant::now();
        let mut failure: Option<Error> = None;
        let mut skip_for = Duration::MAX;
        let (mut must_ask, mut must_ask_if_missing) = (None, None);
        for (index, source) in self.sources.iter().enumerate() {
            let is_asked = index < asked;
            let first = |must_ask: Option<usize>| must_ask.or(Some(index));
            let settled = |time: Option<Duration>| time.or(is_asked.then_some(Duration::ZERO));
            let failed = match source.view.find(name, now) {
                ViewLookup::Value {
                    provided,
                    valid_for,
                } => {
                    let ttl = self.ttl.of(name);
                    let age = now.saturating_duration_since(provided.as_of);
                    let version = SecretVersion {
                        raw: provided.value,
                        provider: source.name.clone(),
                        changed_at: provided.changed_at,
                        as_of: provided.as_of,
                    };
                    return match settled(valid_for) {
                        Some(valid_for) if must_ask.is_none() => {
                            // A value found after a failed provider is served only once.
                            let valid_for = match failure {
                                Some(_) => Duration::ZERO,
                                None => valid_for.min(skip_for).min(ttl.saturating_sub(age)),
                            };
                            (Lookup::Fresh(version, valid_for), None)
                        }
                        _ => (Lookup::Stale(version), first(must_ask)),
                    };
                }
                ViewLookup::Absent {
                    is_fresh,
                    skip_for: skip,
                } => {
                    if !is_fresh && !is_asked {
                        must_ask_if_missing = first(must_ask_if_missing);
                    }
                    match settled(skip) {
                        Some(skip) => skip_for = skip_for.min(skip),
                        None => must_ask = first(must_ask),
                    }
                    continue;
                }
                ViewLookup::Failed { must_ask: true, .. } | ViewLookup::Unknown if !is_asked => {
                    return (Lookup::Unknown, first(must_ask));
                }
                ViewLookup::Failed { error, .. } => error,
                ViewLookup::Unknown => no_answer(&source.name),
            };
            if failed.ends_chain() {
                return match must_ask {
                    Some(_) => (Lookup::Unknown, must_ask),
                    None => (Lookup::Failed(failed), None),
                };
            }
            add_failure(&mut failure, &source.name, name.as_str(), &failed);
        }
        match (must_ask.or(must_ask_if_missing), failure) {
            (Some(index), _) => (Lookup::Unknown, Some(index)),
            (None, Some(error)) => (Lookup::Failed(error), None),
            (None, None) => (Lookup::Missing, None),
        }
    }

    /// Looks a key up for a reader that has asked all providers: their answers count as they are. [`Lookup::Unknown`] if a
    /// provider has the key, and must be asked for its value alone.
    pub fn find_settled(&self, name: &SecretName) -> Lookup {
        let now = Instant::now();
        let lacks_value = |source: &Source| {
            source.view.has(name) && matches!(source.view.find(name, now), ViewLookup::Unknown)
        };
        match self.sources.iter().any(lacks_value) {
            true => self.find(name),
            false => self.walk(name, self.sources.len()).0,
        }
    }

    /// The first provider that has the key cached; decrypts nothing.
    pub fn provider_of(&self, name: &SecretName) -> Option<&Arc<str>> {
        let source = self.sources.iter().find(|source| source.view.has(name))?;
        Some(&source.name)
    }

    /// Whether a provider has the key cached; decrypts nothing.
    pub fn has(&self, name: &SecretName) -> bool {
        self.sources.iter().any(|source| source.view.has(name))
    }

    /// All keys to list, sorted, each with the provider that it would be read from.
    pub fn names(&self) -> &[(SecretName, Arc<str>)] {
        self.names.get_or_init(|| {
            let mut listed = BTreeMap::new();
            for (index, source) in self.sources.iter().enumerate() {
                for name in source.view.names() {
                    // An earlier provider may have a key that it does not list.
                    listed.entry(name).or_insert_with_key(|name| {
                        let mut earlier = self.sources[..index].iter();
                        let having = earlier.find(|source| source.view.has(name));
                        having.unwrap_or(source).name.clone()
                    });
                }
            }
            listed.into_iter().collect()
        })
    }

    /// Whether [`names`](Self::names) is complete: no provider failed or must be asked first.
    pub fn listing_state(&self) -> ListingState {
        let now = Instant::now();
        let mut state = ListingState::Complete;
        let mut failure = None;
        for source in &self.sources {
            match source.view.listing_state(now) {
                ListingState::Complete => {}
                ListingState::Failed(error) => {
                    add_failure(&mut failure, &source.name, "a list of names", &error);
                }
                ListingState::Unknown => state = ListingState::Unknown,
                ListingState::Outdated if matches!(state, ListingState::Complete) => {
                    state = ListingState::Outdated;
                }
                ListingState::Outdated => {}
            }
        }
        failure.map_or(state, ListingState::Failed)
    }

    /// Whether a provider must be asked before [`names`](Self::names) has all that can be had. Another one may fail meanwhile.
    pub fn must_ask_for_names(&self) -> bool {
        let now = Instant::now();
        self.sources.iter().any(|source| {
            let state = source.view.listing_state(now);
            matches!(state, ListingState::Unknown | ListingState::Outdated)
        })
    }

    /// The providers whose keys are missing here because they failed or have not answered yet, each with its failure.
    pub fn missing_sources(&self) -> Vec<(Arc<str>, Option<Error>)> {
        let now = Instant::now();
        let missing = |source: &Source| match source.view.listing_state(now) {
            ListingState::Failed(error) => Some((source.name.clone(), Some(error))),
            ListingState::Unknown => Some((source.name.clone(), None)),
            ListingState::Complete | ListingState::Outdated => None,
        };
        self.sources.iter().filter_map(missing).collect()
    }

    /// The state of all providers, in the order of the chain.
    pub fn reports(&self) -> Vec<ProviderReport> {
        let indices = 0..self.sources.len();
        indices.filter_map(|index| self.report_at(index)).collect()
    }

    /// The state of one provider.
    pub fn report(&self, provider: &str) -> Option<ProviderReport> {
        let mut sources = self.sources.iter();
        self.report_at(sources.position(|source| &*source.name == provider)?)
    }

    /// A provider's state. Its keys are also those that only others list, such as a variable that overrides the file.
    fn report_at(&self, index: usize) -> Option<ProviderReport> {
        let view = &self.sources.get(index)?.view;
        let report = view.report(Instant::now());
        let listed: HashSet<String> = report.keys.into_iter().collect();
        let names = self.names().iter().map(|(name, _)| name);
        let has = |name: &&SecretName| listed.contains(name.as_str()) || view.has(name);
        Some(ProviderReport {
            priority: index + 1,
            keys: names.filter(has).map(ToString::to_string).collect(),
            ..report
        })
    }
}
