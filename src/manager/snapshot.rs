//! All providers' documents of one moment. A snapshot never changes, never waits, and touches neither disk nor network.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::provider_failed;
use crate::error::Error;
use crate::provider::{AsOf, ProviderReport, Standing, View, Viewed};
use crate::secret::{SecretName, SecretValue};
use crate::settings::Ttl;

/// What all providers held at one moment, with the number of its generation: two snapshots of one generation show the
/// same values.
pub struct Snapshot {
    generation: u64,
    sources: Vec<Source>,
    ttl: Arc<Ttl>,
    /// Joined when it is first asked for.
    names: OnceLock<Vec<(SecretName, Arc<str>)>>,
}

/// One provider of a snapshot.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) name: Arc<str>,
    pub(super) view: Arc<dyn View>,
}

/// A value as a snapshot has it.
#[derive(Clone, Debug)]
pub struct Version {
    /// What a file of this name holds: the text as it is stored, be it with a newline at its end.
    pub raw: SecretValue,
    /// The provider that has it.
    pub provider: Arc<str>,
    /// When the value last changed, as far as the provider can tell.
    pub changed_at: SystemTime,
    pub(super) as_of: AsOf,
}

impl Version {
    /// When the provider was asked.
    pub fn fetched_at(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.as_of.at.elapsed()).unwrap_or(now)
    }

    /// The secret's value: without the newline that ends a single line.
    pub fn value(&self) -> SecretValue {
        self.raw.without_newline()
    }

    /// The length in bytes of what a file of this name holds.
    pub fn size(&self) -> usize {
        self.raw.len()
    }
}

/// What a snapshot can say of a key.
#[derive(Debug)]
pub enum Lookup {
    /// The value, which may be served for this long (zero: just now) unless the generation changes.
    Fresh(Version, Duration),
    /// The value as it was last held. A provider must be asked before it may be read.
    Stale(Version),
    /// No provider has the key.
    Missing,
    /// It could not be found out.
    Failed(Error),
    /// A provider must be asked.
    Unknown,
}

impl Lookup {
    /// The value that may be served.
    pub fn fresh(self) -> Option<Version> {
        match self {
            Lookup::Fresh(version, _) => Some(version),
            _ => None,
        }
    }

    /// The value, however old.
    pub fn last_held(self) -> Option<Version> {
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

    /// The number of changes before this snapshot.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// What can be said of a key: the first provider that has it wins, and one that fails is passed over.
    pub fn find(&self, name: &SecretName) -> Lookup {
        let now = Instant::now();
        let mut failure: Option<Error> = None;
        let mut passed_for = Duration::MAX;
        let (mut ask_if_missing, mut ask) = (false, false);
        for source in &self.sources {
            match source.view.find(name, now) {
                Viewed::Value {
                    provided,
                    valid_for,
                } => {
                    let ttl = *self.ttl.keys.get(name).unwrap_or(&self.ttl.default);
                    let age = now.saturating_duration_since(provided.as_of.at);
                    let version = Version {
                        raw: provided.value,
                        provider: source.name.clone(),
                        changed_at: provided.changed_at,
                        as_of: provided.as_of,
                    };
                    return match valid_for {
                        Some(valid_for) if !ask => {
                            // What is found behind a provider that failed is good for this once.
                            let valid_for = match failure {
                                Some(_) => Duration::ZERO,
                                None => valid_for.min(passed_for).min(ttl.saturating_sub(age)),
                            };
                            Lookup::Fresh(version, valid_for)
                        }
                        _ => Lookup::Stale(version),
                    };
                }
                Viewed::Absent {
                    is_answer,
                    passed_for: passed,
                } => {
                    ask_if_missing |= !is_answer;
                    match passed {
                        Some(passed) => passed_for = passed_for.min(passed),
                        None => ask = true,
                    }
                }
                Viewed::Unknown => return Lookup::Unknown,
                Viewed::Failed(error) if error.ends_chain() => {
                    return match ask {
                        true => Lookup::Unknown,
                        false => Lookup::Failed(error),
                    };
                }
                Viewed::Failed(error) => {
                    failure.get_or_insert_with(|| {
                        provider_failed(&source.name, name.as_str(), &error)
                    });
                }
            }
        }
        match failure {
            _ if ask || ask_if_missing => Lookup::Unknown,
            Some(error) => Lookup::Failed(error),
            None => Lookup::Missing,
        }
    }

    /// Whether any provider has the key as last held; decrypts nothing.
    pub fn has(&self, name: &SecretName) -> bool {
        self.sources.iter().any(|source| source.view.has(name))
    }

    /// All keys to list, each with the provider that it would be read from; in order.
    pub fn names(&self) -> &[(SecretName, Arc<str>)] {
        self.names.get_or_init(|| {
            let mut listed = BTreeMap::new();
            for (place, source) in self.sources.iter().enumerate() {
                for name in source.view.names() {
                    // An earlier provider may have a key that it does not list by itself.
                    listed.entry(name).or_insert_with_key(|name| {
                        let mut earlier = self.sources[..place].iter();
                        let having = earlier.find(|source| source.view.has(name));
                        having.unwrap_or(source).name.clone()
                    });
                }
            }
            listed.into_iter().collect()
        })
    }

    /// Whether [`names`](Self::names) lists all there is: not where a provider can say nothing of any key, or should be
    /// asked first.
    pub fn standing(&self) -> Standing {
        let now = Instant::now();
        let mut whole = Standing::Whole;
        for source in &self.sources {
            match source.view.standing(now) {
                Standing::Whole => {}
                Standing::Failed(error) => {
                    return Standing::Failed(provider_failed(&source.name, "a listing", &error));
                }
                Standing::Unknown => whole = Standing::Unknown,
                Standing::Outdated if matches!(whole, Standing::Whole) => {
                    whole = Standing::Outdated;
                }
                Standing::Outdated => {}
            }
        }
        whole
    }

    /// The providers whose keys are not in this snapshot because they failed or have never answered, each with the
    /// reason where it failed.
    pub fn missing_sources(&self) -> Vec<(Arc<str>, Option<Error>)> {
        let now = Instant::now();
        let missing = |source: &Source| match source.view.standing(now) {
            Standing::Failed(error) => Some((source.name.clone(), Some(error))),
            Standing::Unknown => Some((source.name.clone(), None)),
            Standing::Whole | Standing::Outdated => None,
        };
        self.sources.iter().filter_map(missing).collect()
    }

    /// The state of all providers, in the order of the chain.
    pub fn reports(&self) -> Vec<ProviderReport> {
        let now = Instant::now();
        let reports = self.sources.iter().enumerate();
        let report = |(place, source): (usize, &Source)| ProviderReport {
            priority: place + 1,
            ..source.view.report(now)
        };
        reports.map(report).collect()
    }

    /// The state of one provider.
    pub fn report(&self, provider: &str) -> Option<ProviderReport> {
        let mut sources = self.sources.iter();
        let place = sources.position(|source| &*source.name == provider)?;
        Some(ProviderReport {
            priority: place + 1,
            ..self.sources.get(place)?.view.report(Instant::now())
        })
    }
}
