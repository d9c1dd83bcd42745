//! `get_or_set` under many schedules of its callers: one computation, and no caller waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cache::{CacheOptions, SECRETS, TtlCache};
use crate::sync::tests::check;
use shuttle::thread;

fn cache() -> TtlCache<u32> {
    TtlCache::new(CacheOptions {
        cleanup_interval: None,
        ..SECRETS
    })
}

#[test]
fn shuttle_concurrent_callers_compute_once() {
    check(|| {
        let (cache, runs) = (cache(), Arc::new(AtomicUsize::new(0)));
        let threads = [1, 2, 3].map(|_| {
            let (cache, runs) = (cache.clone(), runs.clone());
            thread::spawn(move || {
                cache.get_or_set("key", || {
                    runs.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    Ok::<u32, ()>(7)
                })
            })
        });
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(7));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(cache.get("key"), Some(7));
    });
}

#[test]
fn shuttle_an_error_leaves_no_caller_waiting() {
    check(|| {
        let (cache, runs) = (cache(), Arc::new(AtomicUsize::new(0)));
        let threads = [1, 2, 3].map(|_| {
            let (cache, runs) = (cache.clone(), runs.clone());
            thread::spawn(move || {
                cache.get_or_set("key", || {
                    thread::yield_now();
                    match runs.fetch_add(1, Ordering::SeqCst) {
                        0 => Err("the backend is down"),
                        _ => Ok(7),
                    }
                })
            })
        });
        let answers = threads.map(|thread| thread.join().unwrap());
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(failed >= 1, "the first caller gets its own error");
        // Those that came after the error computed once more, together.
        let runs = runs.load(Ordering::SeqCst);
        assert_eq!(runs, if failed == 3 { 1 } else { 2 });
        assert_eq!(cache.0.lock().flights.len(), 0);
    });
}

#[test]
fn shuttle_a_caller_that_gives_up_leaves_no_other_waiting() {
    check(|| {
        let cache = cache();
        let give_up = [1, 2].map(|_| {
            let cache = cache.clone();
            thread::spawn(move || {
                let compute = || std::future::pending::<Result<u32, ()>>();
                let mut asking = Box::pin(cache.get_or_set_async("key", compute));
                let mut context = Context::from_waker(Waker::noop());
                // It leads, or waits, or finds the value. Then it is cancelled.
                let _ = asking.as_mut().poll(&mut context);
                thread::yield_now();
            })
        });
        let callers = [1, 2].map(|_| {
            let cache = cache.clone();
            thread::spawn(move || cache.get_or_set("key", || Ok::<u32, ()>(7)))
        });
        for caller in callers {
            assert_eq!(caller.join().unwrap(), Ok(7));
        }
        for thread in give_up {
            thread.join().unwrap();
        }
        assert_eq!(cache.0.lock().flights.len(), 0);
    });
}

#[test]
fn shuttle_a_value_that_was_computed_before_an_invalidation_is_not_cached() {
    check(|| {
        let (cache, source) = (cache(), Arc::new(AtomicUsize::new(1)));
        let reader = {
            let (cache, source) = (cache.clone(), source.clone());
            thread::spawn(move || {
                cache.get_or_set("key", || {
                    let read = source.load(Ordering::SeqCst) as u32;
                    thread::yield_now();
                    Ok::<u32, ()>(read)
                })
            })
        };
        thread::yield_now();
        source.store(2, Ordering::SeqCst);
        cache.delete("key");
        reader.join().unwrap().unwrap();
        assert_ne!(cache.get("key"), Some(1));
    });
}
