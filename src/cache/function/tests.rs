//! `cached!`: its keys, its time to live, what it does not keep.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

static CALLS: AtomicU32 = AtomicU32::new(0);

crate::cached! {
    ttl = 60, key_prefix = "tests";
    /// Counts its calls.
    fn describe(id: u32, kind: &str) -> String {
        CALLS.fetch_add(1, Ordering::SeqCst);
        format!("{kind} {id}")
    }
}

#[test]
fn the_key_is_prefix_name_and_arguments() {
    assert_eq!(
        key("mymodule", "get_user", &[&123]),
        "mymodule:get_user:123"
    );
    assert_eq!(key("mymodule", "all", &[]), "mymodule:all");
    assert_eq!(key("a:b", "f", &[&"x", &true, &1.5]), "a:b:f:x:true:1.5");
}

#[test]
fn two_calls_never_share_a_key() {
    let call = |one: &str, two: &str| key("p", "f", &[&one, &two]);
    assert_ne!(call("a:b", "c"), call("a", "b:c"));
    assert_ne!(call("a\\", "b"), call("a", "\\b"));
    assert_ne!(call("a\\:", "b"), call("a:", "b"));
    assert_eq!(call("a", "http://h:1"), "p:f:a:http://h:1");
}

#[test]
fn a_result_is_computed_once_and_the_cache_is_reached_by_the_functions_name() {
    assert_eq!(describe(1, "user"), "user 1");
    assert_eq!(describe(1, "user"), "user 1");
    assert_eq!(describe(1, "group"), "group 1");
    assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    let held = describe::cache().get("tests:describe:1:user");
    assert_eq!(held.as_deref(), Some("user 1"));
    let named = function_caches().get("tests:describe").unwrap();
    assert_eq!(named.invalidate_prefix("tests:describe:1:u"), 1);
    assert_eq!(describe(1, "user"), "user 1");
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
    assert_eq!(describe::cache().stats().default_ttl, 60.0);
    assert_eq!(describe::cache().stats().max_size, MAX_SIZE);
    describe::cache().clear();
    assert!(describe::cache().is_empty());
}

#[test]
fn concurrent_callers_cost_one_computation() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    const CALLERS: usize = 16;
    crate::cached! {
        ttl = 60, key_prefix = "tests";
        fn slow(id: u32) -> u32 {
            CALLS.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            id * 2
        }
    }
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                barrier.wait();
                assert_eq!(slow(21), 42);
            });
        }
    });
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
}

#[test]
fn an_error_is_not_cached_even_behind_a_type_alias() {
    type Outcome<T> = std::result::Result<T, String>;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    crate::cached! {
        ttl = 60, key_prefix = "tests", max_size = 2;
        fn half(of: u32) -> Outcome<u32> {
            CALLS.fetch_add(1, Ordering::SeqCst);
            if of % 2 == 1 {
                return Err(format!("{of} is odd"));
            }
            Ok(of.checked_div(2).ok_or("never")?)
        }
    }
    for _ in 0..2 {
        assert_eq!(half(4), Ok(2));
        assert_eq!(half(3), Err("3 is odd".to_owned()));
    }
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
    for of in [6, 8, 10] {
        half(of).unwrap();
    }
    assert_eq!(half::cache().len(), 2);
}

#[test]
fn a_none_is_cached() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    crate::cached! {
        ttl = Duration::from_secs(5), key_prefix = "tests";
        fn find(_id: u32) -> Option<u32> {
            CALLS.fetch_add(1, Ordering::SeqCst);
            None
        }
    }
    assert_eq!((find(1), find(1)), (None, None));
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
}

#[test]
fn concurrent_tasks_cost_one_computation_and_errors_are_not_cached() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    crate::cached! {
        ttl = 60, key_prefix = "tests";
        async fn fetch(name: &str) -> Result<String, String> {
            CALLS.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            match name {
                "bad" => Err("bad".to_owned()),
                name => Ok(name.to_owned()),
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16).map(|_| tokio::spawn(fetch("a"))).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok("a".to_owned()));
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
        assert!(fetch("bad").await.is_err());
        assert!(fetch("bad").await.is_err());
    });
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
    assert_eq!(fetch::cache().get("tests:fetch:a"), Some(Ok("a".into())));
}
