use super::*;
use crate::provider::file::json;
use crate::secret::{MAX_VALUE, SecretValue};
use proptest::prelude::*;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn rendered(document: &Document) -> String {
    String::from_utf8(document.render().unwrap().to_vec()).unwrap()
}

fn plain(document: &Document, key: &str) -> Option<String> {
    document
        .get(&name(key))
        .map(|stored| stored.as_str().to_owned())
}

fn set(document: &mut Document, key: &str, value: &str) {
    document.set(&name(key), Stored::Plain(SecretValue::new(value)));
}

fn reason(yaml: bool, bytes: &[u8]) -> String {
    match parse_document(yaml, bytes) {
        Err(Error::Malformed { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken: {}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn an_edit_of_json_keeps_order_and_unknown_entries_to_the_byte() {
    let before = "{\"Z\": \"1\", \"big\": 12345678901234567890.50, \"list\": [1, {\"a\": \"}\\\"\"}],\n \"none\": null, \"bad name\": \"x\", \"A\": \"2\"}";
    let mut document = parse_document(false, before.as_bytes()).unwrap();
    assert_eq!(document.skipped(), 4);
    set(&mut document, "Z", "line\n\"quoted\"");
    set(&mut document, "NEW", "");
    assert_eq!(
        rendered(&document),
        "{\n  \"Z\": \"line\\n\\\"quoted\\\"\",\n  \"big\": 12345678901234567890.50,\n  \"list\": [1, {\"a\": \"}\\\"\"}],\n  \"none\": null,\n  \"bad name\": \"x\",\n  \"A\": \"2\",\n  \"NEW\": \"\"\n}\n"
    );
    document.remove(&[&name("A"), &name("Z")]);
    assert_eq!(document.names().collect::<Vec<_>>(), [&name("NEW")]);
}

#[test]
fn an_edit_of_yaml_keeps_order_and_unknown_entries() {
    let before = "# mine\nB: beta\nport: 8200\nlist: [1, two]\nA: 'yes'\n3: x\n";
    let mut document = parse_document(true, before.as_bytes()).unwrap();
    assert!(document.has_comments());
    assert_eq!(document.skipped(), 3);
    set(&mut document, "B", "12:30:45");
    assert_eq!(
        rendered(&document),
        "\"B\": \"12:30:45\"\nport: 8200\nlist:\n- 1\n- two\n\"A\": \"yes\"\n3: x\n"
    );
}

#[test]
fn a_yaml_file_that_holds_json_stays_json() {
    let mut document = parse_document(true, b"{\"A\": \"1\"}").unwrap();
    set(&mut document, "B", "2");
    assert_eq!(
        rendered(&document),
        "{\n  \"A\": \"1\",\n  \"B\": \"2\"\n}\n"
    );
    let flow = parse_document(true, b"{A: one}").unwrap();
    assert_eq!(plain(&flow, "A").as_deref(), Some("one"));
}

#[test]
fn the_last_of_duplicate_json_keys_counts() {
    let document = parse_document(false, br#"{"A": "1", "B": "2", "A": "3"}"#).unwrap();
    assert_eq!(plain(&document, "A").as_deref(), Some("3"));
    assert_eq!(
        rendered(&document),
        "{\n  \"A\": \"3\",\n  \"B\": \"2\"\n}\n"
    );
}

#[test]
fn a_secret_replaces_an_entry_of_its_name_that_is_not_a_text() {
    let mut document = parse_document(false, br#"{"A": 1, "B": "2"}"#).unwrap();
    assert_eq!(plain(&document, "A"), None);
    set(&mut document, "A", "text");
    assert_eq!(
        rendered(&document),
        "{\n  \"A\": \"text\",\n  \"B\": \"2\"\n}\n"
    );
}

#[test]
fn a_file_that_is_not_a_flat_object_is_malformed_and_never_quoted() {
    for yaml in [false, true] {
        for bytes in [
            &b""[..],
            b" \n",
            b"{\"A\": \"hunter2",
            b"{\"A\": \"hunter2\"} x",
            b"[\"hunter2\"]",
            b"\"hunter2\"",
            b"{\"A\": \"hunter2\xff\"}",
        ] {
            let reason = reason(yaml, bytes);
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
    assert_eq!(reason(false, b""), "it is empty");
    assert!(reason(false, b"null").contains("not an object"));
    assert!(reason(false, b"A: plain").contains("not JSON"));
    assert!(reason(false, &vec![b' '; MAX_DOCUMENT + 1]).contains("too large"));
    assert!(reason(true, b"A: 1\nA: 2\n").contains("YAML"));
    assert_eq!(
        parse_document(true, b"# nothing yet\n")
            .unwrap()
            .names()
            .count(),
        0
    );
}

#[test]
fn a_value_that_is_too_long_is_kept_and_not_served() {
    let text = format!("{{\"A\": \"{}\", \"B\": \"b\"}}", "x".repeat(MAX_VALUE + 1));
    let document = parse_document(false, text.as_bytes()).unwrap();
    assert_eq!((plain(&document, "A"), document.skipped()), (None, 1));
    assert!(rendered(&document).len() > MAX_VALUE);
}

#[test]
fn changes_between_documents_are_reported_by_name() {
    let old = parse_document(false, br#"{"A": "1", "B": "2", "C": "3"}"#).unwrap();
    let new = parse_document(false, br#"{"C": "3", "B": "x", "D": "4"}"#).unwrap();
    let told: Vec<(String, ChangeKind)> = old
        .changes_to(&new)
        .into_iter()
        .map(|change| (change.name.to_string(), change.kind))
        .collect();
    let expected = [
        ("B", ChangeKind::Set),
        ("D", ChangeKind::Set),
        ("A", ChangeKind::Deleted),
    ];
    assert_eq!(told, expected.map(|(key, kind)| (key.to_owned(), kind)));
}

proptest! {
    #[test]
    fn any_text_that_is_set_is_read_back(yaml: bool, value in any::<String>(), other in any::<String>()) {
        let mut document = Document::empty(yaml);
        for (key, text) in [("A", &value), ("yes", &other), ("1e3", &value)] {
            set(&mut document, key, text);
        }
        let again = parse_document(yaml, &document.render().unwrap()).unwrap();
        prop_assert_eq!(plain(&again, "A"), Some(value.clone()));
        prop_assert_eq!(plain(&again, "yes"), Some(other));
        prop_assert_eq!(plain(&again, "1e3"), Some(value));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(yaml: bool, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_document(yaml, &bytes);
    }

    #[test]
    fn any_json_object_is_split_into_its_members(
        pairs in proptest::collection::btree_map("[a-z]{1,6}", "\\PC{0,12}", 0..6), depth in 0usize..4
    ) {
        let mut object = serde_json::Map::new();
        for (key, text) in &pairs {
            let nested = (0..depth).fold(serde_json::json!(text), |inner, _| serde_json::json!([{"k": inner}]));
            object.insert(key.clone(), nested);
        }
        for text in [serde_json::to_string(&object).unwrap(), serde_json::to_string_pretty(&object).unwrap()] {
            let members = json::members(&text);
            prop_assert_eq!(members.len(), object.len());
            for ((raw_key, raw_value), (key, value)) in members.into_iter().zip(&object) {
                prop_assert_eq!(serde_json::from_str::<String>(raw_key).unwrap(), key.clone());
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(raw_value).unwrap(), value);
            }
        }
    }
}
