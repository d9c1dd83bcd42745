//! From what the providers hold to a new snapshot: everybody who listens is told of it before anybody is answered.

use std::sync::{Arc, RwLock};

use zeroize::Zeroizing;

use super::snapshot::{Snapshot, Source};
use super::{Event, SecretsManager};
use crate::cache::NamedCache;
use crate::provider::{ChangeKind, Refreshed, Standing, to_bytes};
use crate::secret::SecretName;

/// What became another than it was in the snapshot before.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    /// The snapshot that is in place now.
    pub snapshot: Arc<Snapshot>,
    /// The keys that changed, as far as that is known.
    pub keys: Vec<Changed>,
    /// Whether any other key may read differently, too: something was invalidated, or a provider failed or came back.
    pub any: bool,
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub name: SecretName,
    /// How it changed.
    pub kind: ChangeKind,
    /// Where it changed.
    pub provider: Arc<str>,
    /// Whether it was written through this manager.
    pub own: bool,
}

/// What is called for each change of the snapshot.
pub type ChangeListener = Box<dyn Fn(&ChangeSet) + Send + Sync>;

/// Those who listen to changes.
#[derive(Default)]
pub(super) struct ChangeListeners(RwLock<Vec<ChangeListener>>);

impl ChangeListeners {
    fn tell(&self, changes: &ChangeSet) {
        let all = self.0.read().unwrap_or_else(|e| e.into_inner());
        all.iter().for_each(|listener| listener(changes));
    }
}

impl SecretsManager {
    /// What all providers held last. Costs the clone of an `Arc`; never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current().clone()
    }

    /// Calls `listener` for each change from now on: when the new snapshot is in place, and before anybody learns of the
    /// change otherwise: before a writer's call returns, and before those who wait for a backend are answered. Changes
    /// come one after the other, on the thread that notices them. A listener must be quick, and may take snapshots, but
    /// not ask, write or invalidate. Who writes the same store in another way, be it in another process, returns when
    /// the listener has been called for that, or after a second.
    pub fn on_change(&self, listener: ChangeListener) {
        let add = |listener| {
            let mut all = self.changes.0.write().unwrap_or_else(|e| e.into_inner());
            all.push(listener);
        };
        add(listener);
        let links = self.links.iter();
        links.for_each(|link| link.provider.join_watchers());
    }

    /// Puts a new snapshot in place if a provider has something new. When it returns, all that was new when it was
    /// called has been told to all who listen. Touches no disk.
    pub(super) fn publish(&self) {
        self.publish_with(false);
    }

    /// The same after something was invalidated.
    pub(super) fn publish_invalidated(&self) {
        self.publish_with(true);
    }

    fn publish_with(&self, invalidated: bool) {
        let (old, events) = {
            // Held until everybody was told: else who finds nothing new could answer before that.
            let _turn = self.refreshing.lock().unwrap_or_else(|e| e.into_inner());
            let before = self.snapshot();
            let mut sources = Vec::with_capacity(self.links.len());
            let mut events = Vec::new();
            let mut keys = Vec::new();
            let (mut differs, mut any) = (before.sources().len() != self.links.len(), invalidated);
            let (mut outdated, mut all_outdated) = (Vec::new(), false);
            for (place, link) in self.links.iter().enumerate() {
                let (view, changes, own) = link.take_news();
                let changed = |kind: ChangeKind, name: &SecretName, own| Changed {
                    name: name.clone(),
                    kind,
                    provider: link.name.clone(),
                    own,
                };
                for change in own {
                    keys.push(changed(change.kind, &change.name, true));
                    outdated.push(change.name);
                }
                match changes {
                    Refreshed::Nothing => {}
                    Refreshed::Names(names) => {
                        any |= names.is_empty();
                        for change in names {
                            keys.push(changed(change.kind, &change.name, false));
                            let key = Some(change.name.as_str());
                            events.push(Event::new(change.kind.event(), key, Some(&link.name)));
                            outdated.push(change.name);
                        }
                        events.extend(link.check_health());
                    }
                    Refreshed::All => {
                        (any, all_outdated) = (true, true);
                        events.push(Event::new("invalidated", None, Some(&link.name)));
                        events.extend(link.check_health());
                    }
                }
                if let Some(source) = before.sources().get(place)
                    && !std::ptr::addr_eq(Arc::as_ptr(&source.view), Arc::as_ptr(&view))
                {
                    differs = true;
                    // The first answer of a provider shows names that were not there.
                    let now = std::time::Instant::now();
                    any |= matches!(source.view.standing(now), Standing::Unknown);
                }
                sources.push(Source {
                    name: link.name.clone(),
                    view,
                });
            }
            let is_visible = any || !keys.is_empty();
            if !is_visible && !differs {
                return;
            }
            for (source, link) in sources.iter_mut().zip(self.links.iter()) {
                if let Some(view) = link.outdate(&outdated) {
                    source.view = view;
                }
            }
            let generation = before.generation() + u64::from(is_visible);
            let snapshot = Arc::new(Snapshot::new(generation, sources, self.ttl.clone()));
            let old = std::mem::replace(&mut *self.current(), snapshot.clone());
            // After the new snapshot is in place: what is cached from now on comes from it.
            if all_outdated {
                self.desk.clear();
            }
            outdated.iter().for_each(|name| self.desk.drop_name(name));
            if is_visible {
                let changes = ChangeSet {
                    snapshot,
                    keys,
                    any,
                };
                self.changes.tell(&changes);
            }
            ((old, before), events)
        };
        // Outside the lock: it may be the last holder of all that was held.
        drop(old);
        self.tell(&events);
    }
}

impl SecretsManager {
    /// What of the backends must outlive this process: their documents with their times, and Vault's lease. Holds values.
    pub fn save_backends(&self) -> Zeroizing<Vec<u8>> {
        let saved = self.links.iter();
        let saved: Vec<(&str, Zeroizing<Vec<u8>>)> = saved
            .filter_map(|link| Some((&*link.name, link.provider.save()?)))
            .collect();
        let saved: Vec<(&str, &[u8])> = saved
            .iter()
            .map(|(name, saved)| (*name, saved.as_slice()))
            .collect();
        to_bytes(&saved)
    }

    /// Takes up what [`save_backends`](Self::save_backends) gave in another process: before anything is asked for. What
    /// was saved of another source, or cannot be read, is passed over.
    pub fn restore_backends(&self, saved: &[u8]) {
        let saved: Vec<(&str, &[u8])> = postcard::from_bytes(saved).unwrap_or_default();
        for (name, saved) in saved {
            if let Some(link) = self.links.iter().find(|link| &*link.name == name) {
                link.provider.restore(saved);
            }
        }
        self.publish();
    }

    /// Calls `unsaved` when [`save_backends`](Self::save_backends) would give something new: a log-in succeeded, or a
    /// call has ended, before those who wait for it are answered. From any thread; only the first call counts.
    pub fn on_backends_changed(&self, unsaved: impl Fn() + Send + Sync + 'static) {
        let unsaved = Arc::new(unsaved);
        for link in self.links.iter() {
            let unsaved = unsaved.clone();
            link.provider.on_save(Box::new(move || unsaved()));
        }
    }
}
