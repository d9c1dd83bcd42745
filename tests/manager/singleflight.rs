//! Concurrent readers share one fetch, and an answer that was invalidated during its computation is not cached.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::FileProvider;
use simpletuner_live::provider::file::{FileOptions, StoreLocation};

use crate::provider::{Has, Remote};
use crate::{Home, name, value};

const CALLERS: usize = 1000;

fn over(remote: &Arc<Remote>) -> Arc<SecretsManager> {
    SecretsManager::builder()
        .with_source(remote.clone())
        .build()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_thousand_threads_cost_a_slow_provider_one_request() {
    let remote = Remote::new(Has::Value("slow"));
    let manager = over(&remote);
    let (begin, served) = (Barrier::new(CALLERS), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let gate = remote.close();
        for _ in 0..CALLERS {
            let ask = || {
                begin.wait();
                assert_eq!(value(&manager, "K"), "slow");
                served.fetch_add(1, Ordering::SeqCst);
            };
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            thread.spawn_scoped(scope, ask).unwrap();
        }
        // No caller has an answer yet, and each has missed the cache.
        wait_until("all callers ask", || {
            manager.caches().stats()["secrets"].misses >= CALLERS as u64
        });
        assert_eq!(served.load(Ordering::SeqCst), 0);
        drop(gate);
    });
    assert_eq!(served.into_inner(), CALLERS);
    assert_eq!(remote.calls(), 1);
}

#[test]
fn a_thousand_background_reads_cost_one_request_and_all_get_its_answer() {
    for has in [Has::Value("slow"), Has::Nothing, Has::Failure] {
        let remote = Remote::new(has);
        let manager = over(&remote);
        let gate = remote.close();
        let (notified, all) = mpsc::channel();
        for _ in 0..CALLERS {
            let notified = notified.clone();
            manager.find_async(&name("K"), Box::new(move |_| notified.send(()).unwrap()));
        }
        assert!(
            all.try_recv().is_err(),
            "notified before there is an answer"
        );
        drop(gate);
        for _ in 0..CALLERS {
            all.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        assert_eq!(remote.calls(), 1);
    }
}

#[test]
fn fetches_of_different_keys_do_not_wait_for_each_other() {
    let remote = Remote::new(Has::Value("v"));
    let manager = over(&remote);
    let gate = remote.close();
    for key in ["A", "B", "C"] {
        manager.find_async(&name(key), Box::new(|_| {}));
    }
    wait_until("three requests", || remote.calls() == 3);
    drop(gate);
    assert_eq!(value(&manager, "A"), "v");
}

/// Reads on one thread, invalidates while the provider computes, then reads again.
fn asked_during(invalidate: impl FnOnce(&SecretsManager)) -> (String, usize) {
    let home = Home::make();
    let remote = Remote::new(Has::Value("old"));
    let settings = home.settings();
    let file = FileProvider::new(FileOptions {
        location: StoreLocation::at(home.path("secrets.json")),
        key: simpletuner_live::credential::KeySource::new(None, settings.key_file),
        encrypt: false,
        max_stale: settings.max_stale,
        max_keys: 10_000,
        keep_previous: 1,
        lock_timeout: settings.timeout.total,
    });
    let manager = SecretsManager::builder()
        .with_source(remote.clone())
        .with_provider(Arc::new(file))
        .build();
    std::thread::scope(|scope| {
        let gate = remote.close();
        let asked_before = scope.spawn(|| value(&manager, "K"));
        wait_until("it is asked", || remote.calls() == 1);
        remote.now_has(Has::Value("new"));
        invalidate(&manager);
        drop(gate);
        assert_eq!(asked_before.join().unwrap(), "old");
    });
    (value(&manager, "K"), remote.calls())
}

#[test]
fn an_answer_computed_before_an_invalidation_is_not_cached_after_it() {
    let cached = ("old".to_owned(), 1);
    let asked_again = ("new".to_owned(), 2);
    assert_eq!(asked_during(|_| {}), cached);
    assert_eq!(asked_during(|manager| manager.clear_cache()), asked_again);
    let prefix = |prefix: &'static str| {
        asked_during(move |manager| {
            manager.invalidate_prefix(prefix);
        })
    };
    assert_eq!(prefix("secret:K"), asked_again);
    assert_eq!(prefix("user:"), cached);
    assert_eq!(
        asked_during(|manager| {
            manager.caches().clear();
        }),
        asked_again
    );
    assert_eq!(
        asked_during(|manager| {
            manager.set("K", "written").unwrap();
        }),
        asked_again
    );
    assert_eq!(
        asked_during(|manager| {
            manager.set("ANOTHER", "written").unwrap();
        }),
        cached
    );
}

#[test]
fn a_reader_after_an_invalidation_does_not_join_an_earlier_fetch() {
    let remote = Remote::new(Has::Value("old"));
    let manager = over(&remote);
    std::thread::scope(|scope| {
        let gate = remote.close();
        let before = scope.spawn(|| value(&manager, "K"));
        wait_until("the first request", || remote.calls() == 1);
        remote.now_has(Has::Value("new"));
        manager.clear_cache();
        let after = scope.spawn(|| value(&manager, "K"));
        wait_until("the second request", || remote.calls() == 2);
        gate.let_one_through();
        assert_eq!(before.join().unwrap(), "old");
        drop(gate);
        assert_eq!(after.join().unwrap(), "new");
    });
    assert_eq!(
        (value(&manager, "K"), remote.calls()),
        ("new".to_owned(), 2)
    );
}
