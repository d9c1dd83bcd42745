//! A map that knows which of its keys were touched, so that just these are noted for whoever serves the mount next.

use std::collections::hash_map::{HashMap, Iter, Values};
use std::hash::Hash;

/// A [`HashMap`] that collects the keys of what was added, removed, or could have been changed.
pub(super) struct Tracked<K, V> {
    map: HashMap<K, V>,
    touched: Vec<K>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            touched: Vec::new(),
        }
    }
}

impl<K: Copy + Ord + Hash, V> Tracked<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.map.get_mut(key)?;
        self.touched.push(*key);
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.touched.push(key);
        self.map.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.map.remove(key)?;
        self.touched.push(*key);
        Some(value)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let touched = &mut self.touched;
        self.map.retain(|key, value| {
            let kept = keep(key, value);
            if !kept {
                touched.push(*key);
            }
            kept
        });
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        self.map.iter()
    }

    pub(super) fn values(&self) -> Values<'_, K, V> {
        self.map.values()
    }

    /// The keys that were touched since the last time, each once.
    pub(super) fn take_touched(&mut self) -> Vec<K> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Forgets what was touched.
    pub(super) fn untouch(&mut self) {
        self.touched.clear();
    }
}
