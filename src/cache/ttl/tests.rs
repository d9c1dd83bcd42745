//! Expiry, eviction, invalidation and statistics of a cache whose clock the test sets.

use super::*;
use crate::cache::cleaner::Clean;
use crate::clock::Instant;
use crate::sync::Mutex;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

struct ByHand {
    cache: TtlCache<u32>,
    now: Arc<Mutex<Instant>>,
}

fn by_hand(max_size: usize) -> ByHand {
    let now = Arc::new(Mutex::new(Instant::now()));
    let options = CacheOptions {
        default_ttl: Duration::from_secs(10),
        max_size,
        cleanup_interval: None,
    };
    ByHand {
        cache: TtlCache::with_clock(options, Clock::Manual(now.clone())),
        now,
    }
}

impl ByHand {
    fn advance(&self, seconds: u64) {
        *self.now.lock() += Duration::from_secs(seconds);
    }
}

fn plain(max_size: usize) -> TtlCache<u32> {
    TtlCache::new(CacheOptions {
        default_ttl: Duration::MAX,
        max_size,
        cleanup_interval: None,
    })
}

#[test]
fn an_entry_lives_as_long_as_its_ttl_and_no_longer() {
    let by_hand = by_hand(10);
    let cache = &by_hand.cache;
    cache.set("default", 1);
    cache.set_with_ttl("short", 2, Duration::from_secs(1));
    cache.set_with_ttl("ever", 3, Duration::MAX);
    cache.set_with_ttl("never", 4, Duration::ZERO);
    assert_eq!(cache.get("never"), None);
    assert_eq!(cache.ttl_left("default"), Some(Duration::from_secs(10)));
    assert_eq!(cache.ttl_left("ever"), Some(Duration::MAX));

    by_hand.advance(1);
    assert_eq!(cache.ttl_left("short"), None);
    assert_eq!(cache.stats().expired_count, 1);
    assert_eq!(cache.get("short"), None);
    assert_eq!(cache.stats().expired_count, 0, "the look-up took it out");

    by_hand.advance(8);
    assert_eq!(cache.get("default"), Some(1));
    by_hand.advance(1);
    assert_eq!(cache.get("default"), None, "a look-up does not prolong it");
    by_hand.advance(1_000_000_000);
    assert_eq!(cache.get("ever"), Some(3));
}

#[test]
fn a_full_cache_evicts_expired_entries_before_the_least_recently_used() {
    let by_hand = by_hand(3);
    let cache = &by_hand.cache;
    cache.set("old", 1);
    cache.set_with_ttl("short", 2, Duration::from_secs(1));
    cache.set("new", 3);
    by_hand.advance(2);
    cache.set("more", 4);
    assert_eq!(cache.stats().evictions, 0);
    assert_eq!(cache.get("old"), Some(1));

    cache.set("yet more", 5);
    assert_eq!(cache.stats().evictions, 1);
    assert_eq!(cache.get("new"), None, "old was looked up after new");
    assert_eq!(cache.get("old"), Some(1));
    assert_eq!(cache.len(), 3);
}

#[test]
fn a_cache_of_size_zero_stores_nothing() {
    let cache = plain(0);
    cache.set("a", 1);
    assert_eq!(cache.get("a"), None);
    assert_eq!(cache.get_or_set("a", || Ok::<_, ()>(2)), Ok(2));
    assert!(cache.is_empty());
    assert_eq!(cache.stats().hit_rate, 0.0);
}

#[test]
fn the_cleaner_removes_expired_entries_and_ends_with_the_cache() {
    let cache = TtlCache::new(CacheOptions {
        default_ttl: Duration::from_millis(1),
        max_size: 10,
        cleanup_interval: Some(Duration::ZERO),
    });
    let held = Arc::new(());
    cache.set("a", held.clone());
    cache.set_with_ttl("b", held.clone(), Duration::MAX);
    while Arc::strong_count(&held) != 2 {
        std::thread::yield_now();
    }
    assert_eq!(cache.len(), 1);

    let shared = Arc::downgrade(&cache.0);
    drop(cache);
    while shared.strong_count() != 0 || Arc::strong_count(&held) != 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_cleaner_that_sleeps_for_a_day_ends_at_once() {
    let cache = TtlCache::<u32>::new(CacheOptions {
        default_ttl: Duration::MAX,
        max_size: 10,
        cleanup_interval: Some(Duration::from_secs(86_400)),
    });
    let signal = cache.0.cleaner.get().unwrap().watch();
    drop(cache);
    while signal.strong_count() != 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_value_may_use_its_cache_while_it_is_dropped() {
    #[derive(Clone)]
    struct Nosy(#[allow(dead_code)] Arc<Inner>);
    struct Inner(TtlCache<Nosy>, Arc<AtomicUsize>);
    impl Drop for Inner {
        fn drop(&mut self) {
            let _ = self.0.stats();
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let cache: TtlCache<Nosy> = TtlCache::new(CacheOptions {
        default_ttl: Duration::MAX,
        max_size: 2,
        cleanup_interval: None,
    });
    let dropped = Arc::new(AtomicUsize::new(0));
    let new = || Nosy(Arc::new(Inner(cache.clone(), dropped.clone())));
    for key in ["a", "a", "b", "c", "d"] {
        cache.set(key, new());
    }
    cache.set_with_ttl("e", new(), Duration::ZERO);
    cache.delete("d");
    cache.invalidate_prefix("c");
    cache.set("f", new());
    cache.clear();
    assert_eq!(dropped.load(Ordering::Relaxed), 7);
}

#[test]
fn concurrent_threads_find_only_values_that_were_set() {
    // Small enough to be full most of the time, whatever the others remove.
    let cache = plain(10);
    let keys: Vec<String> = (0..100).map(|i| format!("{}:{i}", i % 7)).collect();
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (cache, keys) = (&cache, &keys);
            scope.spawn(move || {
                let mut random = thread * 7919 + 1;
                for _ in 0..20_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let at = (random >> 33) % keys.len();
                    let (key, value) = (&keys[at], at as u32);
                    match (random >> 20) % 12 {
                        0..5 => assert!(cache.get(key).is_none_or(|found| found == value)),
                        5..8 => cache.set(key, value),
                        8 => assert_eq!(cache.get_or_set(key, || Ok::<_, ()>(value)), Ok(value)),
                        9 => _ = cache.delete(key),
                        10 => _ = cache.invalidate_prefix(&key[..2]),
                        _ if (random >> 40) % 64 == 0 => _ = cache.clear(),
                        _ => assert!(cache.stats().size <= 10),
                    }
                    assert!(cache.len() <= 10);
                }
            });
        }
    });
    assert_eq!(cache.0.lock().flights.len(), 0);
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.misses > 0 && stats.evictions > 0);
}

/// The same in the plainest way: entries in the order of use, the least recent first.
struct Model {
    entries: Vec<(String, u32, Option<u64>)>,
    max_size: usize,
    now: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Model {
    fn find(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(held, ..)| held == key)
    }
    fn expired(&self, at: usize) -> bool {
        self.entries[at]
            .2
            .is_some_and(|expires| expires <= self.now)
    }
    fn get(&mut self, key: &str) -> Option<u32> {
        match self.find(key) {
            Some(at) if !self.expired(at) => {
                self.hits += 1;
                let entry = self.entries.remove(at);
                self.entries.push(entry);
                Some(self.entries.last()?.1)
            }
            found => {
                self.misses += 1;
                found.map(|at| self.entries.remove(at));
                None
            }
        }
    }
    fn set(&mut self, key: &str, value: u32, ttl: Option<u64>) {
        let replaced = self.find(key).map(|at| self.entries.remove(at));
        if ttl == Some(0) || self.max_size == 0 {
            return;
        }
        if replaced.is_none() && self.entries.len() >= self.max_size {
            self.clean();
        }
        if self.entries.len() >= self.max_size {
            self.entries.remove(0);
            self.evictions += 1;
        }
        let expires = ttl.map(|ttl| self.now + ttl);
        self.entries.push((key.into(), value, expires));
    }
    fn clean(&mut self) {
        let now = self.now;
        self.entries
            .retain(|(.., expires)| expires.is_none_or(|expires| expires > now));
    }
    fn remove(&mut self, condition: impl Fn(&str) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|(key, ..)| !condition(key));
        before - self.entries.len()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Get(String),
    TtlLeft(String),
    Set(String, u32, Option<u64>),
    GetOrSet(String, Result<u32, ()>),
    Delete(String),
    Invalidate(String),
    Clear,
    Clean,
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || "(user|u):[1-4]:?";
    let ttl = prop_oneof![Just(None), (0..12u64).prop_map(Some)];
    let step = prop_oneof![
        6 => key().prop_map(Step::Get),
        2 => key().prop_map(Step::TtlLeft),
        8 => (key(), any::<u32>(), ttl).prop_map(|(k, v, t)| Step::Set(k, v, t)),
        4 => (key(), any::<u32>(), any::<bool>())
            .prop_map(|(k, v, ok)| Step::GetOrSet(k, ok.then_some(v).ok_or(()))),
        2 => key().prop_map(Step::Delete),
        2 => "(u(ser(:[1-4])?)?)?".prop_map(Step::Invalidate),
        1 => Just(Step::Clear),
        1 => Just(Step::Clean),
        4 => (0..6u64).prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_cache_behaves_like_the_model(max_size in 0..7usize, steps in steps()) {
        let by_hand = by_hand(max_size);
        let cache = &by_hand.cache;
        let mut model = Model { entries: Vec::new(), max_size, now: 0, hits: 0, misses: 0, evictions: 0 };
        for step in steps {
            match &step {
                Step::Get(key) => prop_assert_eq!(cache.get(key), model.get(key)),
                Step::TtlLeft(key) => {
                    let live = model.find(key).filter(|&at| !model.expired(at));
                    let left = live.map(|at| match model.entries[at].2 {
                        Some(expires) => Duration::from_secs(expires - model.now),
                        None => Duration::MAX,
                    });
                    prop_assert_eq!(cache.ttl_left(key), left);
                }
                Step::Set(key, value, ttl) => {
                    match ttl {
                        Some(10) => cache.set(key, *value),
                        Some(ttl) => cache.set_with_ttl(key, *value, Duration::from_secs(*ttl)),
                        None => cache.set_with_ttl(key, *value, Duration::MAX),
                    }
                    model.set(key, *value, *ttl);
                }
                Step::GetOrSet(key, computed) => {
                    let expected = match model.get(key) {
                        Some(value) => Ok(value),
                        None => {
                            if let Ok(value) = computed {
                                model.set(key, *value, Some(10));
                            }
                            *computed
                        }
                    };
                    prop_assert_eq!(cache.get_or_set(key, || *computed), expected);
                }
                Step::Delete(key) => prop_assert_eq!(cache.delete(key), model.remove(|k| k == key) == 1),
                Step::Invalidate(prefix) => {
                    prop_assert_eq!(cache.invalidate_prefix(prefix), model.remove(|k| k.starts_with(prefix.as_str())));
                }
                Step::Clear => prop_assert_eq!(cache.clear(), model.remove(|_| true)),
                Step::Clean => {
                    cache.0.clean();
                    model.clean();
                }
                Step::Advance(seconds) => {
                    by_hand.advance(*seconds);
                    model.now += seconds;
                }
            }
            let stats = cache.stats();
            prop_assert_eq!(stats.size, model.entries.len());
            prop_assert_eq!(stats.expired_count, (0..model.entries.len()).filter(|&at| model.expired(at)).count());
            prop_assert_eq!((stats.hits, stats.misses, stats.evictions), (model.hits, model.misses, model.evictions));
            let expected = model.hits as f64 / (model.hits + model.misses).max(1) as f64;
            prop_assert!((stats.hit_rate - expected).abs() < 1e-9);
            let state = cache.0.lock();
            let order: Vec<String> = state.entries.iter().rev().map(|(key, _)| key.to_string()).collect();
            let expected: Vec<String> = model.entries.iter().map(|(key, ..)| key.clone()).collect();
            prop_assert_eq!(order, expected);
            prop_assert_eq!(state.flights.len(), 0);
        }
    }
}
