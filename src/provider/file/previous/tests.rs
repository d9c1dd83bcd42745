//! What is kept of whose values, within which bounds.

use std::time::{Duration, SystemTime};

use super::*;
use crate::secret::SecretValue;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn plain(text: &str) -> Option<Stored> {
    Some(Stored::Plain(SecretValue::new(text)))
}

fn bounds(entries: usize, keys: usize) -> Bounds {
    Bounds { entries, keys }
}

/// These keys are set; each had this value before.
fn set(previous: &Previous, changes: &[(&str, Option<Stored>)], bounds: &Bounds) -> Previous {
    let names: Vec<SecretName> = changes.iter().map(|(key, _)| name(key)).collect();
    let updates = names.iter().zip(changes).map(|(name, (_, before))| Update {
        name,
        did: &Did::Set,
        before: before.clone(),
    });
    let updates = updates.collect();
    previous.updated(updates, bounds, |stored| stored).unwrap()
}

fn values(previous: &Previous, key: &str) -> Vec<Option<String>> {
    let all = previous.all().unwrap();
    let entries = all.get(key).map(|history| &history.entries);
    let entries = entries.into_iter().flatten();
    let text = |entry: &Entry| {
        let before = entry.before.as_ref();
        before.map(|stored| stored.as_str().to_owned())
    };
    entries.map(text).collect()
}

#[test]
fn each_key_keeps_its_last_values_and_when_older_ones_were_dropped() {
    let mut previous = Previous::default();
    for (at, text) in ["a", "b", "c", "d"].into_iter().enumerate() {
        previous = set(&previous, &[("K", plain(text))], &bounds(2, 10));
        let dropped = previous.all().unwrap()[&name("K")].dropped;
        assert_eq!(dropped.is_some(), at >= 2, "{text}");
    }
    assert_eq!(values(&previous, "K"), [Some("d".into()), Some("c".into())]);
    let both = [("K", plain("e")), ("K", plain("f")), ("L", None)];
    previous = set(&previous, &both, &bounds(2, 10));
    assert_eq!(values(&previous, "K"), [Some("f".into()), Some("e".into())]);
    assert_eq!(values(&previous, "L"), [None]);
}

#[test]
fn times_advance_even_within_a_microsecond_or_where_the_clock_is_set_back() {
    let mut history = KeyHistory {
        dropped: Some(SystemTime::now() + Duration::from_secs(3600)),
        ..KeyHistory::default()
    };
    for n in 0..100 {
        let before = history.newest().max(history.dropped);
        history.record(Did::Set, plain(&n.to_string()));
        assert!(history.newest() > before);
    }
    let mut out = Vec::new();
    write_line("K", &history, &mut out);
    let times = |history: &KeyHistory| {
        let entries = history.entries.iter();
        entries.map(|entry| entry.at).collect::<Vec<_>>()
    };
    assert_eq!(times(&parse(&out).unwrap().1), times(&history));
}

#[test]
fn an_entry_of_a_write_that_did_not_take_place_is_replaced() {
    let previous = set(&Previous::default(), &[("K", plain("a"))], &bounds(5, 10));
    let again = set(&previous, &[("K", plain("a"))], &bounds(5, 10));
    assert_eq!(values(&again, "K"), [Some("a".into())]);
}

#[test]
fn beyond_the_bounds_the_keys_go_that_have_not_changed_for_longest() {
    let mut previous = Previous::default();
    for n in 0..20 {
        previous = set(&previous, &[(&format!("K{n}"), None)], &bounds(3, 5));
    }
    previous = set(&previous, &[("K16", plain("new"))], &bounds(3, 5));
    let keys = previous.lines().map(|(name, _)| name.unwrap().to_owned());
    assert_eq!(
        keys.collect::<Vec<_>>(),
        ["K15", "K17", "K18", "K19", "K16"]
    );
    let many: Vec<String> = (0..8).map(|n| format!("L{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), None)).collect();
    previous = set(&previous, &many, &bounds(3, 5));
    let keys = previous.lines().map(|(name, _)| name.unwrap().to_owned());
    assert_eq!(keys.collect::<Vec<_>>(), ["L3", "L4", "L5", "L6", "L7"]);
}

#[test]
fn it_never_grows_beyond_its_largest_size() {
    let mut previous = Previous::default();
    let large = "\u{1}".repeat(crate::secret::MAX_VALUE);
    for n in 0..60 {
        let key = format!("K{n}");
        previous = set(&previous, &[(&key, plain(&large))], &bounds(20, 10_000));
        assert!(previous.0.len() <= MAX_BYTES);
        assert_eq!(values(&previous, &key).len(), 1, "{n}");
    }
    assert!(previous.lines().count() < 60);
    let all: Vec<String> = (0..60).map(|n| format!("L{n}")).collect();
    let all: Vec<_> = all
        .iter()
        .map(|key| (key.as_str(), plain(&large)))
        .collect();
    previous = set(&previous, &all, &bounds(20, 10_000));
    assert!(previous.0.len() <= MAX_BYTES);
    assert_eq!(values(&previous, "L59").len(), 1);
    assert_eq!(values(&previous, "L0").len(), 0);
}

#[test]
fn any_value_is_kept_byte_for_byte_and_any_file_is_read_or_refused() {
    let odd = "\u{0}\"\\\n\u{2028}ä\u{1f600}\r\t </script>";
    let previous = set(&Previous::default(), &[("K", plain(odd))], &bounds(1, 1));
    assert_eq!(values(&previous, "K"), [Some(odd.into())]);
    let text = previous.0.clone();
    for at in 0..text.len() {
        for damaged in [&text[..at], &text[at..]] {
            let _ = Previous(Zeroizing::new(damaged.to_vec())).all();
        }
        let mut changed = text.to_vec();
        changed[at] ^= 0x15;
        let changed = Previous(Zeroizing::new(changed));
        let _ = changed.check().and_then(|()| changed.all().map(drop));
    }
}
