//! Backends behind snapshots: concurrent readers share one call, and listeners run before any reader is answered.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use simpletuner_live::manager::{Lookup, SecretsManager};
use simpletuner_live::provider::ListingState;
use simpletuner_live::provider::backend::{
    Backend, BackendDocument, BackendOptions, BackendProvider, FetchError, Fetched, Fetching,
};
use simpletuner_live::settings::Ttl;

use crate::name;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A backend whose document and health the test sets, and which answers when the test lets it.
#[derive(Clone)]
struct RemoteBackend {
    name: &'static str,
    json: Arc<Mutex<Option<&'static str>>>,
    gate: Arc<tokio::sync::Semaphore>,
    calls: Arc<AtomicUsize>,
}

impl RemoteBackend {
    fn new(name: &'static str, json: &'static str) -> Self {
        Self {
            name,
            json: Arc::new(Mutex::new(Some(json))),
            gate: Arc::new(tokio::sync::Semaphore::new(1000)),
            calls: Arc::default(),
        }
    }
    fn now_has(&self, json: Option<&'static str>) {
        *self.json.lock().unwrap() = json;
    }
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Backend for RemoteBackend {
    fn name(&self) -> &str {
        self.name
    }
    fn source(&self) -> String {
        "far away".to_owned()
    }
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let _open = self.gate.acquire().await;
            match *self.json.lock().unwrap() {
                Some(json) => Ok(Fetched::Document {
                    document: BackendDocument::parse(json.as_bytes()).unwrap(),
                    changed_at: None,
                }),
                None => Err(FetchError::lasting("it is down")),
            }
        })
    }
}

fn ttl(default: Duration, missing: Duration) -> Ttl {
    Ttl {
        default,
        missing,
        ..Ttl::default()
    }
}

fn over(backends: &[&RemoteBackend], ttl: &Ttl, max_stale: Duration) -> Arc<SecretsManager> {
    let mut builder = SecretsManager::builder()
        .ttl(ttl.default, ttl.missing, [])
        .max_stale(max_stale);
    for backend in backends {
        let options = BackendOptions {
            ttl: ttl.clone(),
            max_stale,
            max_keys: 10_000,
            timeout: Duration::from_secs(10),
        };
        let provider = BackendProvider::new((*backend).clone(), options).unwrap();
        builder = builder.with_provider(Arc::new(provider));
    }
    builder.build()
}

/// A backend that holds a token, which it gives back when the test lets it.
struct Leased {
    has_token: AtomicBool,
    begun: mpsc::SyncSender<()>,
    gate: Arc<tokio::sync::Semaphore>,
    is_revoked: Arc<AtomicBool>,
}

impl Backend for Leased {
    fn name(&self) -> &str {
        "vault"
    }
    fn source(&self) -> String {
        "far away".to_owned()
    }
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async { Err(FetchError::lasting("it is down")) })
    }
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if self.has_token.swap(false, Ordering::SeqCst) {
                self.begun.send(()).unwrap();
                let _open = self.gate.acquire().await;
                self.is_revoked.store(true, Ordering::SeqCst);
            }
        })
    }
}

#[test]
fn whoever_closes_second_waits_until_all_is_given_back() {
    let (begun, has_begun) = mpsc::sync_channel(1);
    let (gate, is_revoked) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::default());
    let backend = Leased {
        has_token: AtomicBool::new(true),
        begun,
        gate: gate.clone(),
        is_revoked: Arc::clone(&is_revoked),
    };
    let options = BackendOptions {
        ttl: Ttl::default(),
        max_stale: Duration::from_secs(3600),
        max_keys: 10_000,
        timeout: Duration::from_secs(10),
    };
    let provider = BackendProvider::new(backend, options).unwrap();
    let builder = SecretsManager::builder().with_provider(Arc::new(provider));
    let manager = builder.build();
    let first = manager.clone();
    let first = std::thread::spawn(move || first.close());
    has_begun.recv_timeout(TEST_TIMEOUT).unwrap();
    let (second, has_closed) = mpsc::channel();
    std::thread::spawn(move || {
        manager.close();
        second.send(is_revoked.load(Ordering::SeqCst)).unwrap();
    });
    // Time enough for one that does not wait.
    let early = has_closed.recv_timeout(Duration::from_millis(200));
    gate.add_permits(1);
    let is_revoked = early.or_else(|_| has_closed.recv_timeout(TEST_TIMEOUT));
    assert!(is_revoked.unwrap());
    first.join().unwrap();
}

fn ask(manager: &SecretsManager, key: &str) -> Lookup {
    let (answer, answered) = mpsc::channel();
    manager.find_async(
        &name(key),
        Box::new(move |lookup| answer.send(lookup).unwrap()),
    );
    answered.recv_timeout(TEST_TIMEOUT).unwrap()
}

fn text(lookup: Lookup) -> String {
    match lookup {
        Lookup::Fresh(version, _) => format!("fresh {}", version.value().as_str()),
        Lookup::Stale(version) => format!("stale {}", version.value().as_str()),
        Lookup::Missing => "missing".to_owned(),
        Lookup::Failed(_) => "failed".to_owned(),
        Lookup::Unknown => "unknown".to_owned(),
    }
}

fn found(manager: &SecretsManager, key: &str) -> String {
    text(manager.snapshot().find(&name(key)))
}

#[test]
fn a_thousand_readers_cost_one_call_and_are_answered_after_the_listeners() {
    let far = RemoteBackend::new("aws", r#"{"A": "a"}"#);
    let manager = over(&[&far], &Ttl::default(), Duration::from_secs(3600));
    assert_eq!(found(&manager, "A"), "unknown");
    assert!(matches!(
        manager.snapshot().listing_state(),
        ListingState::Unknown
    ));
    let heard = Arc::new(Mutex::new(None));
    let ear = heard.clone();
    manager.on_change(Box::new(move |change| {
        std::thread::sleep(Duration::from_millis(20));
        *ear.lock().unwrap() = Some(change.snapshot.clone());
    }));
    let closed = far.gate.clone().try_acquire_many_owned(1000).unwrap();
    let (answer, answered) = mpsc::channel();
    for _ in 0..1000 {
        let (answer, heard) = (answer.clone(), heard.clone());
        let done = move |lookup| {
            let notified = heard.lock().unwrap().clone();
            let notified = notified.map(|notified: Arc<_>| {
                let notified: &simpletuner_live::manager::Snapshot = &notified;
                text(notified.find(&name("A")))
            });
            answer.send((text(lookup), notified)).unwrap();
        };
        manager.find_async(&name("A"), Box::new(done));
    }
    assert!(answered.try_recv().is_err());
    drop(closed);
    for _ in 0..1000 {
        let (lookup, notified) = answered.recv_timeout(TEST_TIMEOUT).unwrap();
        assert_eq!(lookup, "fresh a");
        assert_eq!(notified.as_deref(), Some("fresh a"));
    }
    assert_eq!(far.calls(), 1);
    assert_eq!(found(&manager, "B"), "missing");
    assert!(matches!(
        manager.snapshot().listing_state(),
        ListingState::Complete
    ));
}

#[test]
fn an_expired_value_is_stale_and_a_read_gets_what_may_be_served() {
    let far = RemoteBackend::new("aws", r#"{"A": "a"}"#);
    // Nothing stays fresh.
    let no_time = ttl(Duration::ZERO, Duration::ZERO);
    let manager = over(&[&far], &no_time, Duration::from_secs(3600));
    assert_eq!(text(ask(&manager, "A")), "fresh a");
    assert_eq!(found(&manager, "A"), "stale a");
    assert_eq!(found(&manager, "B"), "unknown");
    far.now_has(Some(r#"{"A": "turned"}"#));
    assert_eq!(text(ask(&manager, "A")), "fresh turned");
    assert_eq!(text(ask(&manager, "B")), "missing");
    far.now_has(None);
    assert_eq!(text(ask(&manager, "A")), "fresh turned", "within max_stale");
}

#[test]
fn a_backend_that_fails_with_nothing_to_serve_is_a_failure_for_a_moment() {
    let far = RemoteBackend::new("aws", "{}");
    far.now_has(None);
    let manager = over(&[&far], &Ttl::default(), Duration::from_secs(3600));
    assert_eq!(text(ask(&manager, "A")), "failed");
    assert_eq!(manager.snapshot().missing_sources().len(), 1);
    far.now_has(Some(r#"{"A": "back"}"#));
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while text(ask(&manager, "A")) != "fresh back" {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(manager.snapshot().missing_sources().is_empty());
}

/// The first may be asked again at any moment, and what others have does not wait for that.
#[test]
fn a_reader_that_has_asked_all_gets_what_those_have_that_answer() {
    let (aws, vault) = (
        RemoteBackend::new("aws", r#"{"A": "a", "B": "b"}"#),
        RemoteBackend::new("vault", r#"{"A": "v"}"#),
    );
    let manager = over(&[&aws, &vault], &Ttl::default(), Duration::ZERO);
    assert_eq!(text(ask(&manager, "A")), "fresh a");
    assert_eq!(text(ask(&manager, "ABSENT")), "missing");
    aws.now_has(None);
    manager.clear_cache();
    assert_eq!(text(ask(&manager, "A")), "fresh v");
    let settled = |key: &str| text(manager.snapshot().find_settled(&name(key)));
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while found(&manager, "A") != "unknown" {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(manager.snapshot().must_ask_for_names());
    assert_eq!(manager.snapshot().missing_sources().len(), 1);
    assert_eq!(settled("A"), "fresh v");
    assert_eq!(settled("B"), "failed");
}

/// That an earlier backend has not the key is good for as long as the value that a later one has.
#[test]
fn an_earlier_backend_is_not_asked_again_for_a_key_that_a_later_one_has() {
    let (aws, vault) = (
        RemoteBackend::new("aws", "{}"),
        RemoteBackend::new("vault", r#"{"A": "a"}"#),
    );
    let quickly_missing = ttl(Duration::from_secs(300), Duration::ZERO);
    let manager = over(&[&aws, &vault], &quickly_missing, Duration::from_secs(3600));
    assert_eq!(text(ask(&manager, "A")), "fresh a");
    assert_eq!(found(&manager, "A"), "fresh a");
    assert_eq!(found(&manager, "B"), "unknown");
    assert_eq!((aws.calls(), vault.calls()), (1, 1));
}

#[test]
fn an_invalidation_makes_cached_values_stale_and_is_one_generation() {
    let far = RemoteBackend::new("aws", r#"{"A": "a"}"#);
    let manager = over(&[&far], &Ttl::default(), Duration::from_secs(3600));
    ask(&manager, "A");
    let before = manager.snapshot().generation();
    manager.clear_cache();
    assert_eq!(manager.snapshot().generation(), before + 1);
    assert_eq!(found(&manager, "A"), "stale a");
    assert_eq!(text(ask(&manager, "A")), "fresh a");
    assert_eq!(far.calls(), 2);
    assert_eq!(
        manager.snapshot().generation(),
        before + 1,
        "the same values once more are no change"
    );
}

#[test]
fn a_refresh_of_all_providers_gives_a_snapshot_with_all_answers() {
    let (aws, vault) = (
        RemoteBackend::new("aws", r#"{"A": "a"}"#),
        RemoteBackend::new("vault", "{}"),
    );
    vault.now_has(None);
    let manager = over(&[&aws, &vault], &Ttl::default(), Duration::from_secs(3600));
    let (answer, answered) = mpsc::channel();
    manager.refresh_async(Box::new(move |snapshot| answer.send(snapshot).unwrap()));
    let snapshot = answered.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(text(snapshot.find(&name("A"))), "fresh a");
    let missing = snapshot.missing_sources();
    assert_eq!(missing.len(), 1);
    assert_eq!(&*missing[0].0, "vault");
    assert_eq!(snapshot.names().len(), 1);
}
