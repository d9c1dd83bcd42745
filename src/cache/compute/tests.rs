//! One computation for concurrent callers, on threads and in tasks.

use super::*;
use crate::cache::{CacheOptions, SECRETS, TtlCache};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

fn cache() -> TtlCache<u32> {
    TtlCache::new(CacheOptions {
        cleanup_interval: None,
        ..SECRETS
    })
}

/// The number of callers in the key's flight.
fn members(cache: &TtlCache<u32>, key: &str) -> usize {
    cache.0.lock().flights.participants(key)
}

/// Waits until `count` callers are in the key's flight; any of them may lead.
async fn joined(cache: &TtlCache<u32>, key: &str, count: usize) {
    while members(cache, key) != count {
        tokio::task::yield_now().await;
    }
}

/// Waits until the key is being computed: a caller that has only joined may still be overtaken.
async fn computing(cache: &TtlCache<u32>, key: &str) {
    while !cache.0.lock().flights.is_computing(key) {
        tokio::task::yield_now().await;
    }
}

/// Counts runs, and the runs at one time.
#[derive(Default)]
struct Runs {
    all: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Run<'a>(&'a Runs);

impl Runs {
    fn begin(&self) -> Run<'_> {
        self.all.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Run(self)
    }
    fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

const CALLERS: usize = 1000;

/// A thousand tasks ask for one key; run number `i` ends, when all have come, as `outcome` says for `i`. All their
/// answers.
async fn a_thousand_tasks(
    cache: &TtlCache<u32>,
    runs: &Arc<Runs>,
    outcome: fn(usize) -> Result<u32, u32>,
) -> Vec<Result<u32, u32>> {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (cache, runs, go) = (cache.clone(), runs.clone(), go.clone());
            tokio::spawn(async move {
                let compute = || async move {
                    let run = runs.begin();
                    let number = runs.all();
                    let _permit = go.acquire().await.unwrap();
                    drop(run);
                    outcome(number)
                };
                cache.get_or_set_async("key", compute).await
            })
        })
        .collect();
    joined(cache, "key", CALLERS).await;
    go.add_permits(1);
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_compute_once() {
    let (cache, runs) = (cache(), Arc::new(Runs::default()));
    let answers = a_thousand_tasks(&cache, &runs, |_| Ok(7)).await;
    assert!(answers.iter().all(|answer| *answer == Ok(7)));
    assert_eq!(runs.all(), 1);
    assert_eq!(cache.get("key"), Some(7));
    assert_eq!(members(&cache, "key"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_error_costs_a_thousand_tasks_one_computation() {
    let (cache, runs) = (cache(), Arc::new(Runs::default()));
    let answers = a_thousand_tasks(&cache, &runs, |run| Err(run as u32)).await;
    assert!(answers.iter().all(|answer| *answer == Err(1)));
    assert_eq!(runs.all(), 1);
    assert_eq!(members(&cache, "key"), 0);
    // The error is not cached: a later caller computes.
    assert_eq!(cache.get_or_set("key", || Ok::<_, u32>(7)), Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_computation_is_taken_over_by_one() {
    let (cache, runs) = (cache(), Arc::new(Runs::default()));
    let started = Arc::new(Notify::new());
    let first = tokio::spawn({
        let (cache, started) = (cache.clone(), started.clone());
        async move {
            let never = || async {
                started.notify_one();
                std::future::pending::<Result<u32, u32>>().await
            };
            cache.get_or_set_async("key", never).await
        }
    });
    started.notified().await;
    let tasks: Vec<_> = (1..CALLERS)
        .map(|_| {
            let (cache, runs) = (cache.clone(), runs.clone());
            tokio::spawn(async move {
                let compute = || async {
                    let _run = runs.begin();
                    tokio::task::yield_now().await;
                    Ok::<_, u32>(7)
                };
                cache.get_or_set_async("key", compute).await
            })
        })
        .collect();
    joined(&cache, "key", CALLERS).await;
    assert_eq!(runs.all(), 0);
    first.abort();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(7));
    }
    assert_eq!(runs.all(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_waiters_delay_no_other() {
    let cache = cache();
    for round in 0..50 {
        let key = format!("key {round}");
        let spawn = |ends: bool| {
            let (cache, key) = (cache.clone(), key.clone());
            tokio::spawn(async move {
                let compute = || async {
                    if !ends {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, ()>(7)
                };
                cache.get_or_set_async(&key, compute).await
            })
        };
        let first = spawn(false);
        computing(&cache, &key).await;
        let waiters: Vec<_> = (0..20).map(|_| spawn(true)).collect();
        joined(&cache, &key, 21).await;
        // The next in line may be woken and aborted at the same moment.
        first.abort();
        for waiter in &waiters[..19] {
            waiter.abort();
        }
        for waiter in waiters {
            match waiter.await {
                Ok(answer) => assert_eq!(answer, Ok(7)),
                Err(error) => assert!(error.is_cancelled()),
            }
        }
        assert_eq!(members(&cache, &key), 0);
    }
}

#[test]
fn threads_compute_once_and_take_over_after_failure_and_panic() {
    for first in ["succeeds", "fails", "panics"] {
        let (cache, runs) = (cache(), Runs::default());
        let answers = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let compute = || {
                        let _run = runs.begin();
                        let is_first = runs.all() == 1;
                        while is_first && members(&cache, "key") != 64 {
                            std::thread::yield_now();
                        }
                        match first {
                            "fails" if is_first => Err(()),
                            // No panic message on the test's screen.
                            "panics" if is_first => std::panic::resume_unwind(Box::new(())),
                            _ => Ok(7),
                        }
                    };
                    let call = std::panic::AssertUnwindSafe(|| cache.get_or_set("key", compute));
                    let answer = std::panic::catch_unwind(call);
                    answers.lock().unwrap().push(answer.unwrap_or(Err(())));
                });
            }
        });
        let answers = answers.into_inner().unwrap();
        // All waiters get an error. A panic hits only its own thread, and another takes over.
        let (failed, computed, cached) = match first {
            "fails" => (64, 1, None),
            "panics" => (1, 2, Some(7)),
            _ => (0, 1, Some(7)),
        };
        assert_eq!(answers.iter().filter(|a| a.is_err()).count(), failed);
        assert_eq!((runs.all(), runs.most()), (computed, 1), "{first}");
        assert_eq!(cache.get("key"), cached);
        assert_eq!(members(&cache, "key"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_and_tasks_share_a_computation() {
    let cache = cache();
    let (finish, finished) = oneshot::channel::<u32>();
    let task = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get_or_set_async("key", || async { finished.await.map_err(drop) })
                .await
        }
    });
    computing(&cache, "key").await;
    let thread = std::thread::spawn({
        let cache = cache.clone();
        move || cache.get_or_set("key", || Ok::<_, ()>(8))
    });
    joined(&cache, "key", 2).await;
    finish.send(7).unwrap();
    assert_eq!(task.await.unwrap(), Ok(7));
    assert_eq!(thread.join().unwrap(), Ok(7));
}

#[test]
fn a_value_computed_while_its_key_changed_is_not_cached() {
    type Change = fn(&TtlCache<u32>);
    let changes: [(Change, Option<u32>); 5] = [
        (|cache| assert!(!cache.delete("user:1")), None),
        (|cache| assert_eq!(cache.clear(), 0), None),
        (
            |cache| assert_eq!(cache.invalidate_prefix("user:"), 0),
            None,
        ),
        (|cache| cache.set("user:1", 9), Some(9)),
        (
            |cache| assert_eq!(cache.invalidate_prefix("user:10"), 0),
            Some(7),
        ),
    ];
    for (change, after) in changes {
        let cache = cache();
        let computed = cache.get_or_set("user:1", || {
            change(&cache);
            Ok::<_, ()>(7)
        });
        assert_eq!(computed, Ok(7));
        assert_eq!(cache.get("user:1"), after);
        assert_eq!(members(&cache, "user:1"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_after_an_invalidation_does_not_get_an_earlier_value() {
    let cache = cache();
    let (finish, finished) = oneshot::channel::<u32>();
    let old = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get_or_set_async("key", || async { finished.await.map_err(drop) })
                .await
        }
    });
    computing(&cache, "key").await;
    cache.delete("key");
    assert_eq!(cache.get_or_set("key", || Ok::<_, ()>(8)), Ok(8));
    finish.send(7).unwrap();
    assert_eq!(old.await.unwrap(), Ok(7));
    assert_eq!(cache.get("key"), Some(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_another_type_of_error_computes_for_itself() {
    let cache = cache();
    let (fail, failed) = oneshot::channel::<()>();
    let first = tokio::spawn({
        let cache = cache.clone();
        async move {
            let compute = || async {
                failed.await.ok();
                Err(())
            };
            cache.get_or_set_async("key", compute).await
        }
    });
    computing(&cache, "key").await;
    let second = tokio::spawn({
        let cache = cache.clone();
        async move {
            let compute = || async { Ok::<_, String>(7) };
            cache.get_or_set_async("key", compute).await
        }
    });
    joined(&cache, "key", 2).await;
    fail.send(()).unwrap();
    assert_eq!(first.await.unwrap(), Err(()));
    assert_eq!(second.await.unwrap(), Ok(7));
}

#[test]
fn a_cache_without_entries_still_computes_once_for_all_waiters() {
    let cache = TtlCache::new(CacheOptions {
        default_ttl: Duration::ZERO,
        max_size: 0,
        cleanup_interval: None,
    });
    let runs = Runs::default();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let compute = || {
                    let _run = runs.begin();
                    while members(&cache, "key") != 16 {
                        std::thread::yield_now();
                    }
                    Ok::<_, ()>(7)
                };
                assert_eq!(cache.get_or_set("key", compute), Ok(7));
            });
        }
    });
    assert_eq!(runs.all(), 1);
    assert!(cache.is_empty());
}
