//! The outcomes of attempts, with a clock that the test sets.

use super::*;
use crate::provider::{ChangeKind, KeyChange, ProviderChanges, ViewLookup};
use crate::settings::Ttl;

const SECOND: Duration = Duration::from_secs(1);

/// A state with a clock that the test sets.
struct Timed {
    state: State,
    now: Instant,
}

/// What a reader gets.
#[derive(Debug, PartialEq)]
enum Reading {
    Fresh(String),
    Stale(String),
    Absent,
    Failed(String),
    Wait,
}
use Reading::{Absent, Failed, Fresh, Stale, Wait};

fn fresh(text: &str) -> Reading {
    Fresh(text.to_owned())
}

fn stale(text: &str) -> Reading {
    Stale(text.to_owned())
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn document(json: &str) -> Result<Fetched, FetchError> {
    Ok(Fetched::Document {
        document: BackendDocument::parse(json.as_bytes()).unwrap(),
        changed_at: None,
    })
}

fn failure() -> Result<Fetched, FetchError> {
    Err(FetchError::passing("out of order"))
}

fn take_changes(timed: &mut Timed) -> Option<Vec<KeyChange>> {
    let changes = timed.state.source.take_update().changes;
    (changes != ProviderChanges::default()).then_some(changes.keys)
}

/// The most keys of a document here.
const MAX_KEYS: usize = 5;

fn rules() -> Rules {
    Rules {
        provider: "test".to_owned(),
        ttl: Some(Ttl {
            default: 300 * SECOND,
            missing: 10 * SECOND,
            keys: [(name("SHORT"), 60 * SECOND)].into(),
        }),
        max_stale: 3600 * SECOND,
        hangs: Box::new(|_| None),
    }
}

impl Timed {
    fn new() -> Self {
        Self {
            state: State::new(rules(), MAX_KEYS),
            now: Instant::now(),
        }
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn attempt(&mut self, result: Result<Fetched, FetchError>) -> &mut Self {
        self.state.begin(self.now);
        self.state.finish(result, self.now);
        self
    }

    fn held(&self, key: &str) -> Reading {
        match self.state.must_ask(Some(&name(key)), self.now) {
            true => Wait,
            false => self.answer(key),
        }
    }

    fn answer(&self, key: &str) -> Reading {
        match self.state.source.current().find(&name(key), self.now) {
            ViewLookup::Value { provided, .. } if self.state.source.is_failing() => {
                stale(provided.value.as_str())
            }
            ViewLookup::Value { provided, .. } => fresh(provided.value.as_str()),
            ViewLookup::Absent { .. } => Absent,
            ViewLookup::Failed { error, .. } => Failed(error.to_string()),
            ViewLookup::Unknown => Wait,
        }
    }
}

#[test]
fn values_and_their_absence_are_fresh_for_their_ttl() {
    let mut timed = Timed::new();
    assert_eq!(timed.held("A"), Wait);
    timed.attempt(document(r#"{"A": "1", "SHORT": "2"}"#));
    assert_eq!(timed.held("A"), fresh("1"));
    assert_eq!(timed.held("B"), Absent);
    timed.after(10 * SECOND);
    assert_eq!(timed.held("B"), Wait);
    assert_eq!(timed.held("SHORT"), fresh("2"));
    timed.after(50 * SECOND);
    assert_eq!(timed.held("SHORT"), Wait);
    timed.after(239 * SECOND);
    assert_eq!(timed.held("A"), fresh("1"));
    timed.after(SECOND);
    assert_eq!(timed.held("A"), Wait);
}

#[test]
fn an_older_document_is_served_for_as_long_as_max_stale_and_then_the_failure() {
    let mut timed = Timed::new();
    timed.attempt(document(r#"{"A": "1"}"#));
    timed.after(300 * SECOND).attempt(failure());
    assert_eq!(timed.held("A"), stale("1"));
    assert_eq!(timed.held("B"), Absent);
    timed.after(3299 * SECOND).attempt(failure());
    assert_eq!(timed.held("A"), stale("1"));
    timed.after(2 * SECOND).attempt(failure());
    let failed = Failed("test provider: out of order".to_owned());
    assert_eq!(timed.held("A"), failed);
    // A key that may exist is never absent.
    assert_eq!(timed.held("B"), failed);
    assert_eq!(timed.after(SECOND).held("A"), Wait);
    timed.attempt(document(r#"{"A": "2"}"#));
    assert_eq!(timed.held("A"), fresh("2"));
}

#[test]
fn a_document_with_too_many_keys_is_a_failure_that_names_the_setting() {
    let mut timed = Timed::new();
    let with = |keys: usize| {
        let entries: Vec<_> = (0..keys).map(|n| format!("\"K{n}\": \"v\"")).collect();
        document(&format!("{{{}}}", entries.join(",")))
    };
    timed.attempt(with(MAX_KEYS));
    assert_eq!(timed.held("K4"), fresh("v"));
    timed.after(300 * SECOND).attempt(with(MAX_KEYS + 1));
    assert_eq!(timed.held("K4"), stale("v"));
    let (why, _) = timed.state.source.current().last_error.clone().unwrap();
    assert_eq!(
        why,
        "it has more than 5 keys, the most that the setting max_keys allows"
    );
    timed.attempt(document(
        r#"{"K0": [], "a/b": "v", "C": "v", "D": "v", "E": "v", "F": "v"}"#,
    ));
    assert_eq!(timed.held("K4"), stale("v"), "all keys count");
}

#[test]
fn a_reader_between_attempts_is_answered_at_once() {
    let mut timed = Timed::new();
    timed.attempt(failure());
    assert!(matches!(timed.held("A"), Failed(_)));
    assert!(matches!(timed.after(SECOND / 2).held("A"), Failed(_)));
    assert_eq!(timed.after(SECOND / 2).held("A"), Wait);
    // A reader waits for a backend that failed only as long as a healthy one would take.
    timed.state.begin(timed.now);
    assert_eq!(timed.held("A"), Wait);
    assert!(matches!(
        timed.after(FAILING_BACKEND_TIMEOUT).held("A"),
        Failed(_)
    ));
    timed.state.finish(failure(), timed.now);
    let wait = Retry::After(30 * SECOND);
    let busy = |retry| {
        Err(FetchError {
            reason: "busy".to_owned(),
            retry,
        })
    };
    timed.after(SECOND).attempt(busy(wait));
    assert!(matches!(timed.after(29 * SECOND).held("A"), Failed(_)));
    assert_eq!(timed.after(SECOND).held("A"), Wait);
    // A backend cannot ask for a pause of a day.
    timed.attempt(busy(Retry::After(86_400 * SECOND)));
    assert_eq!(timed.after(MAX_BACKOFF).held("A"), Wait);
}

#[test]
fn an_invalidated_document_is_served_only_while_the_backend_fails() {
    let mut timed = Timed::new();
    timed.attempt(document(r#"{"A": "1"}"#));
    timed.now += SECOND;
    timed.state.begin(timed.now);
    timed.now += SECOND;
    timed.state.expire(timed.now);
    assert_eq!(timed.held("A"), Wait);
    // The current attempt began before the invalidation.
    assert!(!timed.state.attempt_is_current());
    timed.state.finish(document(r#"{"A": "2"}"#), timed.now);
    assert_eq!(timed.held("A"), Wait);
    timed.after(SECOND).attempt(failure());
    assert_eq!(timed.held("A"), stale("2"));
    timed.after(SECOND).attempt(document(r#"{"A": "3"}"#));
    assert_eq!(timed.held("A"), fresh("3"));
}

#[test]
fn that_there_was_no_document_does_not_stand_in_for_one_in_an_outage() {
    let mut timed = Timed::new();
    timed.attempt(Ok(Fetched::Missing("nothing there".to_owned())));
    assert_eq!(timed.held("A"), Absent);
    timed.after(11 * SECOND).attempt(failure());
    // It may have been made meanwhile.
    let failed = Failed("test provider: out of order".to_owned());
    assert_eq!(timed.held("A"), failed);
    timed.attempt(document(r#"{"A": "1"}"#));
    assert_eq!(timed.held("A"), fresh("1"));
}

#[test]
fn a_missing_document_is_not_a_failure_and_its_reason_is_kept() {
    let mut timed = Timed::new();
    timed.attempt(document(r#"{"A": "1"}"#));
    take_changes(&mut timed);
    timed.attempt(Ok(Fetched::Missing("nothing there".to_owned())));
    assert_eq!(timed.held("A"), Absent);
    assert!(!timed.state.source.is_failing());
    let changes = take_changes(&mut timed).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].kind, ChangeKind::Deleted);
    let (reason, _) = timed.state.source.current().last_error.as_ref().unwrap();
    assert_eq!(reason, "nothing there");
    timed.attempt(document(r#"{"A": "1"}"#));
    assert!(timed.state.source.current().last_error.is_none());
}

#[test]
fn a_failure_a_recovery_and_each_change_are_reported_once() {
    let mut timed = Timed::new();
    let reported = |timed: &mut Timed, result| {
        timed.attempt(result);
        let changes = take_changes(timed);
        changes.map(|changes| {
            let words = changes
                .iter()
                .map(|change| format!("{} {}", change.kind.event(), change.name));
            words.collect::<Vec<_>>()
        })
    };
    // The first document is not a change.
    assert_eq!(
        reported(&mut timed, document(r#"{"A": "1", "B": "1"}"#)),
        None
    );
    assert_eq!(reported(&mut timed, failure()), Some(vec![]));
    assert_eq!(reported(&mut timed, failure()), None);
    let changed = ["rotated B", "set C", "deleted A"].map(String::from);
    assert_eq!(
        reported(&mut timed, document(r#"{"B": "2", "C": "1"}"#)),
        Some(changed.to_vec())
    );
    assert_eq!(
        reported(&mut timed, document(r#"{"B": "2", "C": "1"}"#)),
        None
    );
}

#[test]
fn a_document_in_use_is_fetched_before_it_expires_and_more_rarely_while_that_fails() {
    let mut timed = Timed::new();
    let ttl = 60 * SECOND;
    assert_eq!(timed.state.refresh_at(ttl), None);
    let fetched = timed.now;
    timed.attempt(document(r#"{"SHORT": "1"}"#));
    assert_eq!(timed.state.refresh_at(ttl), Some(fetched + 48 * SECOND));
    timed.after(48 * SECOND);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        timed.attempt(failure());
        let next = timed.state.refresh_at(ttl).unwrap();
        pauses.push((next - timed.now).as_secs());
        timed.now = next;
    }
    assert_eq!(pauses, [2, 3, 5, 9, 17, 17, 17, 17]);
    timed.state.begin(timed.now);
    assert_eq!(timed.state.refresh_at(ttl), None);
}

#[test]
fn every_attempt_ends_in_an_answer() {
    let mut timed = Timed::new();
    timed.attempt(document(r#"{"A": "1"}"#));
    assert_eq!(timed.answer("A"), fresh("1"));
    assert_eq!(timed.answer("B"), Absent);
    timed.after(3600 * SECOND).attempt(failure());
    assert!(matches!(timed.answer("A"), Failed(_)));
}
