//! Providers in memory: a store that is written to, and a backend whose document ages and that answers when the test lets
//! it. What they hold outlives the server over them. Each change of the store is noted, for the reference to judge.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use simpletuner_live::clock::Instant;
use simpletuner_live::error::{Error, Result};
use simpletuner_live::provider::{
    Callback, ChangeKind, Done, KeyChange, ListingState, Provided, Provider, ProviderChanges,
    ProviderReport, ProviderUpdate, SecretStore, View, ViewLookup,
};
use simpletuner_live::secret::{Change, SecretName, SecretValue};

type Document = BTreeMap<SecretName, SecretValue>;

/// A change that the tree made in the store: the name, and its new value if it has one.
#[derive(Clone, PartialEq, Eq)]
pub struct Mutation {
    pub name: String,
    pub value: Option<Vec<u8>>,
}

impl std::fmt::Debug for Mutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self
            .value
            .as_ref()
            .map(|value| String::from_utf8_lossy(value));
        write!(f, "{} = {value:?}", self.name)
    }
}

/// What lies behind a provider.
#[derive(Default)]
pub struct Source {
    is_store: bool,
    /// What the backend has; readers get it when it was asked for.
    upstream: Document,
    held: Document,
    has_answered: bool,
    is_fresh: bool,
    view: Option<Arc<MemoryView>>,
    own: Vec<KeyChange>,
    news: Vec<KeyChange>,
    mutations: Vec<Mutation>,
}

pub type Shared = Arc<Mutex<Source>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Source {
    pub fn store() -> Shared {
        Arc::new(Mutex::new(Self {
            is_store: true,
            has_answered: true,
            is_fresh: true,
            ..Self::default()
        }))
    }

    pub fn backend() -> Shared {
        Arc::default()
    }

    /// What a reader must get who asks now.
    pub fn truth(&self, name: &str) -> Option<Vec<u8>> {
        let document = if self.is_store {
            &self.held
        } else {
            &self.upstream
        };
        Some(document.get(name)?.as_bytes().to_vec())
    }

    pub fn take_mutations(&mut self) -> Vec<Mutation> {
        std::mem::take(&mut self.mutations)
    }

    fn put(&mut self, name: &SecretName, value: Option<SecretValue>) {
        match value {
            Some(value) => self.held.insert(name.clone(), value),
            None => self.held.remove(name),
        };
        self.view = None;
    }

    /// Somebody else edits the store, or the backend gets another value.
    pub fn edit(&mut self, name: &str, value: Option<&str>) {
        let name = SecretName::new(name).unwrap();
        let value = value.map(SecretValue::new);
        if self.is_store {
            let kind = match value {
                Some(_) => ChangeKind::Set,
                None => ChangeKind::Deleted,
            };
            self.put(&name, value);
            self.news.push(KeyChange { name, kind });
            return;
        }
        match value {
            Some(value) => self.upstream.insert(name, value),
            None => self.upstream.remove(&name),
        };
    }

    fn view(&mut self, name: &'static str) -> Arc<MemoryView> {
        let view = self.view.get_or_insert_with(|| {
            Arc::new(MemoryView {
                name,
                document: self.held.clone(),
                has_answered: self.has_answered,
                is_fresh: self.is_fresh,
                at: Instant::now(),
            })
        });
        view.clone()
    }

    fn fetched(&mut self) {
        let differs = |name: &&SecretName| self.held.get(*name) != self.upstream.get(*name);
        let names: Vec<SecretName> = self
            .held
            .keys()
            .chain(self.upstream.keys())
            .filter(differs)
            .cloned()
            .collect();
        let kind = ChangeKind::Rotated;
        self.news
            .extend(names.into_iter().map(|name| KeyChange { name, kind }));
        self.held = self.upstream.clone();
        (self.has_answered, self.is_fresh, self.view) = (true, true, None);
    }
}

/// A provider of one server over what outlives it.
pub struct Memory {
    name: &'static str,
    source: Shared,
    changed: OnceLock<Callback>,
    waiting: Mutex<Vec<Done>>,
}

impl Memory {
    pub fn new(name: &'static str, source: &Shared) -> Arc<Self> {
        Arc::new(Self {
            name,
            source: source.clone(),
            changed: OnceLock::new(),
            waiting: Mutex::default(),
        })
    }

    /// Something changed behind it.
    pub fn notice(&self) {
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }

    /// The backend answers all that it was asked; whether there was anything.
    pub fn answer(&self) -> bool {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        if waiting.is_empty() {
            return false;
        }
        lock(&self.source).fetched();
        self.notice();
        waiting.into_iter().for_each(|done| done());
        true
    }
}

struct MemoryView {
    name: &'static str,
    document: Document,
    has_answered: bool,
    is_fresh: bool,
    at: Instant,
}

impl View for MemoryView {
    fn find(&self, name: &SecretName, _: Instant) -> ViewLookup {
        let Some(value) = self.document.get(name) else {
            return match (self.is_fresh, self.has_answered) {
                (true, _) => ViewLookup::ABSENT,
                (false, true) => ViewLookup::Absent {
                    is_fresh: false,
                    skip_for: None,
                },
                (false, false) => ViewLookup::Unknown,
            };
        };
        ViewLookup::Value {
            provided: Provided {
                value: value.clone(),
                changed_at: SystemTime::UNIX_EPOCH,
                as_of: self.at,
            },
            valid_for: self.is_fresh.then_some(Duration::from_secs(3600)),
        }
    }

    fn names(&self) -> Vec<SecretName> {
        self.document.keys().cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.document.contains_key(name)
    }

    fn listing_state(&self, _: Instant) -> ListingState {
        match (self.is_fresh, self.has_answered) {
            (true, _) => ListingState::Complete,
            (false, true) => ListingState::Outdated,
            (false, false) => ListingState::Unknown,
        }
    }

    fn report(&self, _: Instant) -> ProviderReport {
        ProviderReport {
            name: self.name.into(),
            available: Some(true),
            ..ProviderReport::default()
        }
    }
}

impl Provider for Memory {
    fn name(&self) -> &str {
        self.name
    }

    fn view(&self) -> Arc<dyn View> {
        lock(&self.source).view(self.name)
    }

    fn ask(&self, _: Option<&SecretName>, done: Done) {
        if lock(&self.source).is_fresh {
            return done();
        }
        lock(&self.waiting).push(done);
    }

    fn expire(&self, _: &str) {
        let mut source = lock(&self.source);
        source.is_fresh = source.is_store;
        source.view = None;
    }

    fn on_change(&self, changed: Callback) {
        let _ = self.changed.set(changed);
    }

    fn take_update(&self) -> ProviderUpdate {
        let mut source = lock(&self.source);
        ProviderUpdate {
            view: source.view(self.name),
            changes: ProviderChanges {
                keys: std::mem::take(&mut source.news),
                own: std::mem::take(&mut source.own),
                ..ProviderChanges::default()
            },
        }
    }

    fn store(&self) -> Option<&dyn SecretStore> {
        let is_store = lock(&self.source).is_store;
        is_store.then_some(self as &dyn SecretStore)
    }
}

impl SecretStore for Memory {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        let mut source = lock(&self.source);
        for change in changes {
            let (name, value, kind) = match change {
                Change::Set(name, value) => (name, Some(value.clone()), ChangeKind::Set),
                Change::Delete(name) if source.held.contains_key(name) => {
                    (name, None, ChangeKind::Deleted)
                }
                Change::Delete(name) => {
                    return Err(Error::NotFound {
                        name: name.to_string(),
                    });
                }
            };
            source.mutations.push(Mutation {
                name: name.to_string(),
                value: value.as_ref().map(|value| value.as_bytes().to_vec()),
            });
            source.put(name, value);
            let name = name.clone();
            source.own.push(KeyChange { name, kind });
        }
        Ok(())
    }

    fn rename(&self, from: &SecretName, to: &SecretName) -> Result<()> {
        let value = lock(&self.source).held.get(from).cloned();
        let value = value.ok_or_else(|| Error::NotFound {
            name: from.to_string(),
        })?;
        self.apply(&[Change::Set(to.clone(), value), Change::Delete(from.clone())])
    }

    fn encrypt_all(&self) -> Result<usize> {
        Ok(0)
    }

    fn path(&self) -> PathBuf {
        "/nowhere".into()
    }
}
