//! JSON documents: what is parsed, and what an edit changes.

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
    assert_eq!(
        parse_document(true, b"# nothing yet\n")
            .unwrap()
            .names()
            .count(),
        0
    );
}

#[test]
fn a_file_that_another_program_has_encrypted_is_refused() {
    for (yaml, bytes, word) in [
        (
            false,
            &b"{\"A\": \"ENC[x]\", \"sops\": {\"mac\": \"x\"}}"[..],
            "sops",
        ),
        (true, b"A: ENC[x]\nsops:\n  mac: x\n", "sops"),
        (
            true,
            b"{\"A\": \"ENC[x]\", \"sops\": {\"mac\": \"x\"}}",
            "sops",
        ),
        (false, b"\0GITCRYPT\0\x01", "git-crypt"),
        (true, b"$ANSIBLE_VAULT;1.1;AES256\n6162\n", "ansible-vault"),
        (false, b"\xff\xfe{\0}\0", "UTF-16"),
        (true, b"A\0:\0 \x001\0", "UTF-16"),
    ] {
        let reason = reason(yaml, bytes);
        assert!(reason.contains(word), "{reason}");
    }
    let text = parse_document(true, b"sops: a text\nA: !vault |\n  $ANSIBLE_VAULT;1.1\n").unwrap();
    assert_eq!(
        (plain(&text, "sops").as_deref(), plain(&text, "A")),
        (Some("a text"), None)
    );
}

#[test]
fn a_byte_order_mark_and_crlf_are_read_the_same_in_json_and_yaml() {
    for (yaml, text) in [
        (
            false,
            "\u{feff}{\r\n  \"A\": \"a\",\r\n  \"B\": \"b\"\r\n}\r\n",
        ),
        (
            true,
            "\u{feff}{\r\n  \"A\": \"a\",\r\n  \"B\": \"b\"\r\n}\r\n",
        ),
        (true, "\u{feff}A: a\r\nB: |-\r\n  b\r\n"),
    ] {
        let document = parse_document(yaml, text.as_bytes()).unwrap();
        assert_eq!(plain(&document, "A").as_deref(), Some("a"));
        assert_eq!(plain(&document, "B").as_deref(), Some("b"));
    }
}

#[test]
fn white_space_around_and_in_an_encrypted_value_is_not_part_of_it() {
    for text in ["Z0FBQUFBx", "\nZ0FBQUFBx", " Z0FBQUFBx\n", "Z0FBQUFB\nx "] {
        match Stored::from_text(text) {
            Stored::Encrypted(sealed) => assert_eq!(sealed.as_str(), "Z0FBQUFBx"),
            Stored::Plain(_) => panic!("{text:?} was taken for a plain value"),
        }
    }
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
    let reported: Vec<(String, ChangeKind)> = old
        .changes_to(&new, Stored::eq)
        .into_iter()
        .map(|change| (change.name.to_string(), change.kind))
        .collect();
    let expected = [
        ("B", ChangeKind::Set),
        ("D", ChangeKind::Set),
        ("A", ChangeKind::Deleted),
    ];
    assert_eq!(reported, expected.map(|(key, kind)| (key.to_owned(), kind)));
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
