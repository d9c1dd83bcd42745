//! The document last fetched from a backend, with its times. Knows no attempts and no failures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::BackendDocument;
use super::saved::SavedDocument;
use crate::provider::{ChangeKind, KeyChange, Provided};
use crate::secret::SecretName;

#[derive(Clone)]
pub(super) struct CachedDocument {
    pub(super) document: Arc<BackendDocument>,
    /// When the call that returned it began: it may lack later changes at the backend.
    pub(super) as_of: Instant,
    /// When the first document changed, as the backend says: the time of a key that has not changed since.
    changed_at: SystemTime,
    /// When single keys changed since the first document.
    keys_changed_at: Arc<HashMap<SecretName, SystemTime>>,
}

impl CachedDocument {
    pub(super) fn new(document: BackendDocument, as_of: Instant, changed_at: SystemTime) -> Self {
        Self {
            document: Arc::new(document),
            as_of,
            changed_at,
            keys_changed_at: Arc::default(),
        }
    }

    /// Replaces the document by a newer one; returns the changes.
    pub(super) fn replace(
        &mut self,
        document: BackendDocument,
        as_of: Instant,
        changed_at: SystemTime,
    ) -> Vec<KeyChange> {
        let changes = self.document.changes_to(&document);
        if !changes.is_empty() {
            let times = Arc::make_mut(&mut self.keys_changed_at);
            for change in &changes {
                match change.kind {
                    ChangeKind::Deleted => times.remove(&change.name),
                    ChangeKind::Set | ChangeKind::Rotated => {
                        times.insert(change.name.clone(), changed_at)
                    }
                };
            }
        }
        self.document = Arc::new(document);
        self.as_of = as_of;
        changes
    }

    pub(super) fn get(&self, name: &SecretName) -> Option<Provided> {
        Some(Provided {
            value: self.document.get(name)?.clone(),
            changed_at: *self.keys_changed_at.get(name).unwrap_or(&self.changed_at),
            as_of: self.as_of,
        })
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.as_of)
    }

    /// The document for the next process.
    pub(super) fn save(&self, is_invalidated: bool, now: Instant) -> SavedDocument<'_> {
        let (entries, left_out) = self.document.parts();
        let as_of = SystemTime::now().checked_sub(self.age(now));
        let changed = self.keys_changed_at.iter();
        SavedDocument {
            as_of: as_of.unwrap_or(UNIX_EPOCH).into(),
            is_invalidated,
            changed_at: self.changed_at.into(),
            entries,
            left_out,
            changed: changed
                .map(|(name, at)| (name.as_str(), (*at).into()))
                .collect(),
        }
    }

    /// The document of another process, and whether its age is known.
    pub(super) fn restore(saved: &SavedDocument<'_>, now: Instant) -> (Self, bool) {
        // A time in the future means that the clock was set back since the save.
        let age = saved.as_of.age();
        let as_of = now.checked_sub(age.unwrap_or_default());
        let document = BackendDocument::from_parts(&saved.entries, &saved.left_out);
        let changed = saved.changed.iter();
        let restored = Self {
            document: Arc::new(document),
            as_of: as_of.unwrap_or(now),
            changed_at: saved.changed_at.time(),
            keys_changed_at: Arc::new(
                changed
                    .filter_map(|(key, at)| Some((SecretName::new(key).ok()?, at.time())))
                    .collect(),
            ),
        };
        (restored, age.is_some() && as_of.is_some())
    }
}
