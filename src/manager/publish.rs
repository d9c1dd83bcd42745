//! Publishes a new snapshot when a provider has an update. The change listeners run before any waiter gets an answer.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::chain::cache_key;
use super::snapshot::{Snapshot, Source};
use super::{Event, SecretsManager};
use crate::provider::{ChangeKind, KeyChange, ListingState, ProviderUpdate, SecretStore, to_bytes};
use crate::secret::SecretName;
use crate::sync::RwLock;

/// The difference between a new snapshot and the one before it.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    /// The new snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The keys known to have changed.
    pub keys: Vec<ChangedKey>,
    /// Whether any other key may have changed too: something was invalidated, or a provider failed or recovered.
    pub any: bool,
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    /// The key.
    pub name: SecretName,
    /// How it changed.
    pub kind: ChangeKind,
    /// The provider where it changed.
    pub provider: Arc<str>,
    /// Whether it was written through this manager.
    pub own: bool,
}

/// Called for each change of the snapshot.
pub type ChangeListener = Box<dyn Fn(&ChangeSet) + Send + Sync>;

/// The change listeners.
#[derive(Default)]
pub(super) struct ChangeListeners(RwLock<Vec<ChangeListener>>);

impl ChangeListeners {
    fn notify(&self, changes: &ChangeSet) {
        let all = self.0.read();
        all.iter().for_each(|listener| listener(changes));
    }
}

impl SecretsManager {
    /// The current snapshot. Costs the clone of an `Arc`; never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.lock().clone()
    }

    /// Calls `listener` for each change from now on. It runs once the new snapshot is in place, and before the change
    /// shows in any other way: before a write returns, and before a reader that waits for a backend gets its answer.
    /// Calls come one after the other, on the thread that notices the change. A listener must be quick. It may take
    /// snapshots, but not read, write or invalidate. A writer of the same store in another manager or process returns
    /// once the listener has run for its write, or after a second.
    pub fn on_change(&self, listener: ChangeListener) {
        let add = |listener| {
            let mut all = self.changes.0.write();
            all.push(listener);
        };
        add(listener);
        let stores = self.chain.iter().filter_map(|entry| entry.provider.store());
        stores.for_each(SecretStore::join_watchers);
    }

    /// Publishes a new snapshot if a provider has an update. When it returns, the listeners have run for every update
    /// that was there when it was called. Touches no disk.
    pub(super) fn publish(&self) {
        self.publish_with(false);
    }

    /// The same, after an invalidation.
    pub(super) fn publish_invalidated(&self) {
        self.publish_with(true);
    }

    fn publish_with(&self, invalidated: bool) {
        let (old, events) = {
            // Held until the listeners have run: a second caller finds no update, and would answer its waiters too
            // early.
            let _turn = self.publish_lock.lock();
            let before = self.snapshot();
            let mut sources = Vec::with_capacity(self.chain.len());
            let mut events = Vec::new();
            let mut keys = Vec::new();
            let (mut differs, mut any) = (before.sources().len() != self.chain.len(), invalidated);
            let mut all_stale = false;
            for (index, entry) in self.chain.iter().enumerate() {
                let ProviderUpdate { view, changes } = entry.provider.take_update();
                let changed = |change: KeyChange, own| ChangedKey {
                    name: change.name,
                    kind: change.kind,
                    provider: entry.name.clone(),
                    own,
                };
                keys.extend(changes.own.into_iter().map(|change| changed(change, true)));
                for change in changes.keys {
                    let key = Some(change.name.as_str());
                    events.push(Event::new(change.kind.event(), key, Some(&entry.name)));
                    keys.push(changed(change, false));
                }
                if changes.any {
                    events.push(Event::new("invalidated", None, Some(&entry.name)));
                }
                if changes.key_rotated {
                    events.push(Event::new("key_rotated", None, Some(&entry.name)));
                }
                if changes.any || changes.health {
                    events.extend(entry.check_health(&view));
                }
                any |= changes.any || changes.health;
                all_stale |= changes.any;
                if let Some(source) = before.sources().get(index)
                    && !std::ptr::addr_eq(Arc::as_ptr(&source.view), Arc::as_ptr(&view))
                {
                    differs = true;
                    // A provider's first answer brings new names.
                    let now = crate::clock::Instant::now();
                    any |= matches!(source.view.listing_state(now), ListingState::Unknown);
                }
                sources.push(Source {
                    name: entry.name.clone(),
                    view,
                });
            }
            let is_visible = any || !keys.is_empty();
            if !is_visible && !differs {
                return;
            }
            let stale: Vec<SecretName> = keys.iter().map(|key| key.name.clone()).collect();
            for (source, entry) in sources.iter_mut().zip(self.chain.iter()) {
                if let Some(view) = entry.provider.expire_names(&stale) {
                    source.view = view;
                }
            }
            let generation = before.generation() + u64::from(is_visible);
            let snapshot = Arc::new(Snapshot::new(generation, sources, self.ttl.clone()));
            let old = std::mem::replace(&mut *self.current.lock(), snapshot.clone());
            if all_stale {
                self.cache.clear();
            }
            for name in &stale {
                self.cache.delete(&cache_key(name));
            }
            if is_visible {
                let changes = ChangeSet {
                    snapshot,
                    keys,
                    any,
                };
                self.changes.notify(&changes);
            }
            ((old, before), events)
        };
        // Outside the lock, because this may free whole documents.
        drop(old);
        self.emit(&events);
    }
}

impl SecretsManager {
    /// The backends' state for the next process: their documents with their times, and Vault's lease. Contains values.
    pub fn save_backends(&self) -> Zeroizing<Vec<u8>> {
        let saved = self.chain.iter();
        let saved: Vec<(&str, Zeroizing<Vec<u8>>)> = saved
            .filter_map(|entry| Some((&*entry.name, entry.provider.save()?)))
            .collect();
        let saved: Vec<(&str, &[u8])> = saved
            .iter()
            .map(|(name, saved)| (*name, saved.as_slice()))
            .collect();
        to_bytes(&saved)
    }

    /// Gives back what the backends hold at their servers: Vault's token of a log-in is revoked. To be called at the end, and not if
    /// another process takes over their state. Waits for some seconds at most; a second caller waits for the first one, because the
    /// process may end when either returns.
    pub fn close(&self) {
        let _closing = self.closing.lock();
        self.chain.iter().for_each(|entry| entry.provider.close());
    }

    /// Restores the state that [`save_backends`](Self::save_backends) returned in another process. To be called before
    /// the first read. Ignores the state of another source, and one that cannot be parsed.
    pub fn restore_backends(&self, saved: &[u8]) {
        let saved: Vec<(&str, &[u8])> = postcard::from_bytes(saved).unwrap_or_default();
        for (name, saved) in saved {
            if let Some(entry) = self.chain.iter().find(|entry| &*entry.name == name) {
                entry.provider.restore(saved);
            }
        }
        self.publish();
    }

    /// Registers a callback for when [`save_backends`](Self::save_backends) would return something new: after a log-in,
    /// and after a call to a backend, before its waiters get their answers. It runs on any thread. Only the first one
    /// is registered.
    pub fn on_backends_changed(&self, unsaved: impl Fn() + Send + Sync + 'static) {
        let unsaved = Arc::new(unsaved);
        for entry in self.chain.iter() {
            let unsaved = unsaved.clone();
            entry.provider.on_unsaved(Box::new(move || unsaved()));
        }
    }
}
