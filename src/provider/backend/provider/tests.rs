//! A backend that a test scripts, behind the provider: shared calls, retries, refreshing ahead.

use std::sync::atomic::AtomicUsize;

use std::sync::atomic::Ordering;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::*;
use crate::provider::backend::{BackendDocument, FetchError, Fetched, Fetching, Retry};
use crate::provider::{ChangeKind, KeyChange, ProviderReport, ViewLookup};
use crate::settings::Ttl;

const NEVER: Duration = Duration::from_secs(600);

/// A backend that answers what and when the test says.
#[derive(Clone)]
struct Scripted(Arc<Script>);

struct Script {
    says: Mutex<Says>,
    calls: AtomicUsize,
    /// One answer for each permit.
    permits: tokio::sync::Semaphore,
}

#[derive(Clone)]
enum Says {
    Json(String),
    Failure(Retry),
    Panic,
}

impl Backend for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn source(&self) -> String {
        "the script".to_owned()
    }

    fn fetch(&self) -> Fetching<'_> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            self.0.permits.acquire().await.unwrap().forget();
            let says = self.0.says.lock().unwrap().clone();
            match says {
                Says::Json(json) => Ok(Fetched::Document {
                    document: BackendDocument::parse(json.as_bytes()).unwrap(),
                    changed_at: None,
                }),
                Says::Failure(retry) => Err(FetchError {
                    reason: "out of order".to_owned(),
                    retry,
                }),
                Says::Panic => panic!("as the test has it"),
            }
        })
    }
}

impl Scripted {
    fn new(permits: usize) -> Self {
        let script = Script {
            says: Mutex::new(Says::Json(r#"{"A": "1", "a/b": "odd"}"#.to_owned())),
            calls: AtomicUsize::new(0),
            permits: tokio::sync::Semaphore::new(permits),
        };
        Self(Arc::new(script))
    }

    fn provider(&self, ttl: Duration, timeout: Duration) -> Arc<BackendProvider> {
        let options = BackendOptions {
            ttl: Ttl {
                default: ttl,
                missing: ttl,
                keys: [].into(),
            },
            max_stale: NEVER,
            max_keys: 10_000,
            timeout,
        };
        Arc::new(BackendProvider::new(self.clone(), options).unwrap())
    }

    fn say(&self, says: Says) {
        *self.0.says.lock().unwrap() = says;
    }

    fn say_value(&self, value: &str) {
        self.say(Says::Json(format!(r#"{{"A": "{value}"}}"#)));
    }

    fn allow_answers(&self, times: usize) {
        self.0.permits.add_permits(times);
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn wait_for_calls(&self, calls: usize) {
        wait_until(|| self.calls() >= calls);
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn a() -> SecretName {
    SecretName::new("A").unwrap()
}

fn value(provider: &BackendProvider) -> String {
    let provided = provider.get(&a()).unwrap().unwrap();
    provided.value.as_str().to_owned()
}

fn report(provider: &BackendProvider) -> ProviderReport {
    provider.view().report(Instant::now())
}

fn held(provider: &BackendProvider) -> String {
    match provider.view().find(&a(), Instant::now()) {
        ViewLookup::Value { provided, .. } => provided.value.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

/// Asks; the receiver gets the value that is held then.
fn ask(provider: &Arc<BackendProvider>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let asked = provider.clone();
    let done = move || drop(sender.send(held(&asked)));
    provider.ask(Some(&a()), Box::new(done));
    receiver
}

#[test]
fn a_thousand_concurrent_readers_cost_one_call() {
    let backend = Scripted::new(0);
    let provider = backend.provider(NEVER, NEVER);
    let receivers: Vec<_> = (0..1000).map(|_| ask(&provider)).collect();
    backend.wait_for_calls(1);
    backend.allow_answers(1000);
    for receiver in receivers {
        assert_eq!(receiver.recv().unwrap(), "1");
    }
    assert_eq!(value(&provider), "1");
    assert_eq!(backend.calls(), 1);
}

#[test]
fn a_reader_after_an_invalidation_waits_for_a_later_call() {
    let backend = Scripted::new(0);
    let provider = backend.provider(NEVER, NEVER);
    let before = ask(&provider);
    backend.wait_for_calls(1);
    provider.expire("");
    let after = ask(&provider);
    backend.allow_answers(1);
    assert_eq!(before.recv().unwrap(), "1");
    backend.wait_for_calls(2);
    backend.say_value("2");
    backend.allow_answers(1);
    assert_eq!(after.recv().unwrap(), "2");
}

#[test]
fn a_failing_backend_is_called_at_most_once_a_second() {
    let backend = Scripted::new(usize::MAX >> 4);
    backend.say(Says::Failure(Retry::No));
    let provider = backend.provider(NEVER, NEVER);
    let begun = Instant::now();
    let mut reads = 0;
    while backend.calls() < 3 {
        let error = provider.get(&a()).unwrap_err();
        assert_eq!(error.to_string(), "the scripted provider: out of order");
        reads += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert!(backend.calls() as f64 <= 1.0 + seconds, "{seconds} s");
    assert!(reads > 3);
    // The next read after the pause notices the recovery.
    backend.say_value("back");
    wait_until(|| provider.get(&a()).is_ok());
    assert_eq!(value(&provider), "back");
}

#[test]
fn a_failed_call_is_retried_before_the_answer_if_there_is_nothing_to_serve() {
    let backend = Scripted::new(1);
    backend.say(Says::Failure(Retry::Soon));
    let provider = backend.provider(NEVER, NEVER);
    let receiver = ask(&provider);
    backend.wait_for_calls(2);
    backend.say_value("1");
    backend.allow_answers(1);
    assert_eq!(receiver.recv().unwrap(), "1");
    // With something to serve it is not.
    provider.expire("");
    backend.say(Says::Failure(Retry::Soon));
    backend.allow_answers(10);
    assert_eq!(value(&provider), "1");
    assert_eq!(backend.calls(), 3);
}

#[test]
fn readers_do_not_wait_for_a_backend_that_failed_and_now_hangs() {
    let backend = Scripted::new(1);
    let provider = backend.provider(Duration::ZERO, NEVER);
    assert_eq!(value(&provider), "1");
    backend.say(Says::Failure(Retry::Soon));
    backend.allow_answers(1);
    assert_eq!(value(&provider), "1");
    // The next call never answers.
    wait_until(|| {
        assert_eq!(value(&provider), "1");
        backend.calls() == 3
    });
    assert_eq!(value(&provider), "1");
    assert!(report(&provider).stale);
}

#[test]
fn a_call_that_hangs_times_out_and_names_the_setting() {
    let backend = Scripted::new(0);
    let provider = backend.provider(NEVER, Duration::from_millis(30));
    let said = provider.get(&a()).unwrap_err().to_string();
    assert!(
        said.contains("the script gave no answer within 0.03 s (setting timeout.total)"),
        "{said}"
    );
    assert_eq!(report(&provider).available, Some(false));
}

#[test]
fn a_call_that_panics_is_a_failure() {
    let backend = Scripted::new(10);
    backend.say(Says::Panic);
    let provider = backend.provider(NEVER, NEVER);
    let said = provider.get(&a()).unwrap_err().to_string();
    assert!(said.contains("the call ended unexpectedly"), "{said}");
    backend.say_value("1");
    wait_until(|| provider.get(&a()).is_ok());
}

#[test]
fn only_keys_that_are_read_are_fetched_again_before_they_expire() {
    let backend = Scripted::new(usize::MAX >> 4);
    let provider = backend.provider(Duration::from_millis(50), NEVER);
    assert_eq!(value(&provider), "1");
    // Without readers the document expires without a call.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.calls(), 1);
    // Readers of a cache in front of the provider do not call it themselves.
    backend.say_value("2");
    for calls in 2..5 {
        wait_until(|| {
            provider.record_read(&a());
            backend.calls() >= calls
        });
    }
    assert_eq!(value(&provider), "2");
}

#[test]
fn changes_are_notified_and_returned_once() {
    let backend = Scripted::new(usize::MAX >> 4);
    let provider = backend.provider(Duration::ZERO, NEVER);
    let (sender, receiver) = mpsc::channel();
    provider.on_change(Box::new(move || {
        let _ = sender.send(());
    }));
    assert_eq!(value(&provider), "1");
    assert!(provider.take_update().changes.keys.is_empty());
    backend.say_value("2");
    assert_eq!(value(&provider), "2");
    receiver.recv().unwrap();
    let change = KeyChange {
        name: a(),
        kind: ChangeKind::Rotated,
    };
    assert_eq!(provider.take_update().changes.keys, [change]);
    assert!(provider.take_update().changes.keys.is_empty());
}

#[test]
fn a_key_that_is_not_a_valid_name_is_found_by_key() {
    let backend = Scripted::new(1);
    let provider = backend.provider(NEVER, NEVER);
    crate::provider::wait_for(|done| provider.ask(None, done));
    let find = |key| provider.view().find_by_key(key, Instant::now()).unwrap();
    assert_eq!(find("a/b").unwrap().as_str(), "odd");
    assert!(find("..").is_none());
    let report = report(&provider);
    assert_eq!(
        (report.skipped_keys, report.keys),
        (1, vec!["A".to_owned()])
    );
    assert_eq!(backend.calls(), 1);
}
