use super::*;
use crate::provider::{ViewLookup, no_answer, wait_for};

/// A source that fails for all keys but one, for which it panics.
struct Failing;

impl KeyedSource for Failing {
    fn name(&self) -> &str {
        "failing"
    }
    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        assert_ne!(name.as_str(), "PANIC", "as the test has it");
        Err(no_answer("failing"))
    }
}

/// A source that has one value.
struct Having(&'static str);

impl KeyedSource for Having {
    fn name(&self) -> &str {
        self.0
    }
    fn get(&self, _: &SecretName) -> Result<Option<Provided>> {
        let value = crate::secret::SecretValue::new("v");
        Ok(Some(Provided::now(value, SystemTime::UNIX_EPOCH)))
    }
}

#[test]
fn the_last_values_are_those_of_the_next_process() {
    let new = |name| KeyedProvider::new(Arc::new(Having(name)), Ttl::default(), Duration::MAX);
    let name = SecretName::new("K").unwrap();
    let first = new("a");
    wait_for(|done| first.ask(Some(&name), done));
    let saved = first.save().unwrap();
    let found = |provider: &KeyedProvider| {
        provider.restore(&saved);
        provider.view().find(&name, Instant::now())
    };
    match found(&new("a")) {
        ViewLookup::Value {
            provided,
            valid_for: Some(left),
        } => {
            assert_eq!(provided.value.as_str(), "v");
            assert_eq!(provided.changed_at, SystemTime::UNIX_EPOCH);
            assert!(left <= Ttl::default().default);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(found(&new("another")), ViewLookup::Unknown));
    first.restore(&saved[..saved.len() - 1]);
    // What is invalidated stays so.
    first.expire("");
    let saved = first.save().unwrap();
    let next = new("a");
    next.restore(&saved);
    let found = next.view().find(&name, Instant::now());
    assert!(
        matches!(
            found,
            ViewLookup::Value {
                valid_for: None,
                ..
            }
        ),
        "{found:?}"
    );
}

#[test]
fn every_call_ends_in_an_answer_and_leaves_no_waiter_behind() {
    let provider = KeyedProvider::new(Arc::new(Failing), Ttl::default(), Duration::MAX);
    let names = (0..500).map(|number| format!("PROBED_{number}"));
    for name in names.chain(["PANIC".to_owned()]) {
        let name = SecretName::new(&name).unwrap();
        wait_for(|done| provider.ask(Some(&name), done));
        let found = provider.view().find(&name, Instant::now());
        match name.as_str() {
            "PANIC" => assert!(matches!(found, ViewLookup::Unknown), "{found:?}"),
            _ => assert!(matches!(found, ViewLookup::Failed { .. }), "{found:?}"),
        }
    }
    assert!(provider.0.state.lock().calls.is_empty());
}
