//! Bundles are rendered, parsed and merged.

use super::*;
use crate::error::Error;
use crate::secret::MAX_VALUE;
use proptest::prelude::*;

fn document(entries: &[(&str, &str)]) -> Document {
    let entry = |(name, value): &(&str, &str)| (name.parse().unwrap(), SecretValue::new(value));
    entries.iter().map(entry).collect()
}

fn text(format: BundleFormat, document: &Document) -> String {
    String::from_utf8(render(format, document).to_vec()).unwrap()
}

fn set(name: &str, value: &str) -> Change {
    Change::Set(name.parse().unwrap(), SecretValue::new(value))
}

fn delete(name: &str) -> Change {
    Change::Delete(name.parse().unwrap())
}

#[test]
fn the_forms_look_as_people_and_programs_expect_them() {
    let document = document(&[
        ("HF_TOKEN", "hf_x/y"),
        ("my-key", "a \"b\" \\ $c `d`\n"),
        ("yes", ""),
        ("PEM", "-----\nä\n"),
    ]);
    assert_eq!(
        text(BundleFormat::Json, &document),
        "{\n  \"HF_TOKEN\": \"hf_x/y\",\n  \"PEM\": \"-----\\nä\\n\",\n  \
         \"my-key\": \"a \\\"b\\\" \\\\ $c `d`\\n\",\n  \"yes\": \"\"\n}\n"
    );
    assert_eq!(
        text(BundleFormat::Yaml, &document),
        "HF_TOKEN: \"hf_x/y\"\n\"PEM\": \"-----\\nä\\n\"\n\
         \"my-key\": \"a \\\"b\\\" \\\\ $c `d`\\n\"\n\"yes\": \"\"\n"
    );
    assert_eq!(
        text(BundleFormat::Env, &document),
        "HF_TOKEN=hf_x/y\nPEM=\"-----\nä\n\"\n\
         # my-key: left out, because no variable can have this name\nyes=\n"
    );
    assert_eq!(
        text(BundleFormat::DockerEnv, &document),
        "HF_TOKEN=hf_x/y\n# PEM: left out, because this format cannot hold a value of several lines\n\
         # my-key: left out, because no variable can have this name\nyes=\n"
    );
    for format in [BundleFormat::Json, BundleFormat::Yaml] {
        assert_eq!(text(format, &Document::new()), "{}\n");
    }
    for format in [BundleFormat::Env, BundleFormat::DockerEnv] {
        assert_eq!(text(format, &Document::new()), "");
    }
}

#[test]
fn words_that_yaml_takes_for_something_else_stay_texts() {
    let words = ["yes", "null", "1e3", "true", "0x10", "12", "1_000"];
    let document: Document = words
        .iter()
        .map(|word| (word.parse().unwrap(), SecretValue::new(word)))
        .chain([("EMPTY".parse().unwrap(), SecretValue::new(""))])
        .collect();
    let rendered = render(BundleFormat::Yaml, &document);
    assert_eq!(parse(BundleFormat::Yaml, &rendered).unwrap(), document);
}

#[test]
fn rendering_never_moves_the_buffer() {
    let value = "\u{7f}$\"\\\n".repeat(1000);
    let document = document(&[("A", &value), ("B", ""), ("C-C", "x")]);
    for format in BundleFormat::ALL {
        let rendered = render(format, &document);
        assert_eq!(rendered.capacity(), rendered.len());
    }
}

#[test]
fn json_is_accepted_where_yaml_is_expected() {
    // As Python's json.dumps writes it: surrogate pairs, which no YAML parser takes.
    let json = "{\n\t\"A\": \"\\ud83d\\ude00\",\n\t\"B\": \"x\"\n}";
    let expected = document(&[("A", "😀"), ("B", "x")]);
    assert_eq!(
        parse(BundleFormat::Yaml, json.as_bytes()).unwrap(),
        expected
    );
    let flow = "{A: 😀, 'B': x}";
    assert_eq!(
        parse(BundleFormat::Yaml, flow.as_bytes()).unwrap(),
        expected
    );
    assert!(parse(BundleFormat::Json, flow.as_bytes()).is_err());
}

#[test]
fn a_byte_order_mark_and_crlf_are_read_and_utf_16_is_refused_by_name() {
    let expected = document(&[("A", "a"), ("B", "b")]);
    let json = "\u{feff}{\"A\": \"a\",\r\n\"B\": \"b\"}\r\n";
    let yaml = "\u{feff}A: a\r\nB: b\r\n";
    for (format, text) in [
        (BundleFormat::Json, json),
        (BundleFormat::Yaml, json),
        (BundleFormat::Yaml, yaml),
    ] {
        assert_eq!(parse(format, text.as_bytes()).unwrap(), expected);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let error = parse(format, &wide).unwrap_err().to_string();
        assert!(error.contains("UTF-16"), "{error}");
    }
}

#[test]
fn a_document_that_is_not_a_flat_object_of_texts_is_refused_without_quoting_it() {
    let json = [
        "",
        " ",
        "null",
        "[]",
        "[\"hunter2\"]",
        "\"hunter2\"",
        "98765",
        "{",
        "{\"A\": \"hunter2\"",
        "{\"A\": \"hunter2\"} x",
        "{\"A\": 98765}",
        "{\"A\": -98765}",
        "{\"A\": 98765.5}",
        "{\"A\": 98765987659876598765987659876}",
        "{\"A\": true}",
        "{\"A\": null}",
        "{\"A\": [\"hunter2\"]}",
        "{\"A\": {\"B\": \"hunter2\"}}",
        "{\"A\": \"hunter2\", \"A\": \"hunter2\"}",
        "{\"\": \"hunter2\"}",
        "{\"a/b\": \"hunter2\"}",
        "{\".a.swp\": \"hunter2\"}",
        "{A: \"hunter2\"}x",
    ];
    let yaml = [
        "A: 98765",
        "A: yes\nB: ~",
        "A:\n  - hunter2",
        "A: hunter2\nA: hunter2",
        "A: hunter2\n---\nB: hunter2",
        "A: !hunter2 hunter2",
        "A: *hunter2",
        "- hunter2",
        "hunter2",
        "A: \"hunter2",
        "? [hunter2]\n: hunter2",
        "\tA: hunter2",
    ];
    let both = [BundleFormat::Json, BundleFormat::Yaml];
    let cases = json
        .iter()
        .flat_map(|text| both.map(|format| (format, *text)))
        .chain(yaml.iter().map(|text| (BundleFormat::Yaml, *text)));
    for (format, text) in cases {
        let error = parse(format, text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, Error::Malformed { .. }),
            "{text}: {error:?}"
        );
        let said = format!("{error} {error:?}");
        assert!(
            !said.contains("hunter2") && !said.contains("98765"),
            "{said}"
        );
    }
    for format in both {
        assert!(parse(format, b"{\"A\": \"\xff\"}").is_err());
    }
    for format in [BundleFormat::Env, BundleFormat::DockerEnv] {
        assert!(parse(format, b"A=b\n").is_err());
    }
}

#[test]
fn a_value_may_have_64_kib_and_no_more() {
    for format in [BundleFormat::Json, BundleFormat::Yaml] {
        let most = "x".repeat(MAX_VALUE);
        let most = document(&[("A", &most)]);
        assert_eq!(parse(format, &render(format, &most)).unwrap(), most);
        let over = "x".repeat(MAX_VALUE + 1);
        let over = render(format, &document(&[("A", &over)]));
        let error = parse(format, &over).unwrap_err();
        assert_eq!(error.errno(), libc::EFBIG);
    }
}

#[test]
fn a_base_keeps_no_value() {
    let base = Base::of(&document(&[("A", "hunter2")]));
    assert!(!format!("{base:?}").contains("hunter2"));
}

#[test]
fn a_rewritten_document_sets_and_deletes_only_the_keys_that_its_writer_changed() {
    let read = document(&[("KEPT", "k"), ("CHANGED", "old"), ("GONE", "g")]);
    let written = document(&[("KEPT", "k"), ("CHANGED", "new"), ("ADDED", "a")]);
    assert_eq!(
        merge(Some(&Base::of(&read)), &read, &written),
        [set("ADDED", "a"), set("CHANGED", "new"), delete("GONE")]
    );
}

#[test]
fn a_key_that_the_shell_set_meanwhile_stays() {
    let read = document(&[("A", "a")]);
    let current = document(&[("A", "a"), ("SHELL", "s")]);
    let written = document(&[("A", "a2")]);
    let base = Base::of(&read);
    assert_eq!(merge(Some(&base), &current, &written), [set("A", "a2")]);
}

#[test]
fn a_value_of_another_provider_that_was_only_read_is_not_copied() {
    let read = document(&[("AWS_ONLY", "old"), ("MINE", "m")]);
    // Rotated at AWS since: the writer writes back the old one, and must not pin it.
    let current = document(&[("AWS_ONLY", "rotated"), ("MINE", "m")]);
    let written = document(&[("AWS_ONLY", "old"), ("MINE", "m2")]);
    let base = Base::of(&read);
    assert_eq!(merge(Some(&base), &current, &written), [set("MINE", "m2")]);
}

#[test]
fn a_writer_without_a_base_deletes_nothing_and_sets_the_values_that_differ() {
    let current = document(&[("A", "a"), ("B", "b")]);
    let written = document(&[("A", "a2"), ("C", "c")]);
    assert_eq!(
        merge(None, &current, &written),
        [set("A", "a2"), set("C", "c")]
    );
    assert_eq!(merge(None, &current, &current), []);
    assert_eq!(merge(None, &current, &Document::new()), []);
}

#[test]
fn a_value_that_is_stored_already_is_no_change() {
    let base = Base::of(&document(&[("A", "old"), ("GONE", "g")]));
    let current = document(&[("A", "new")]);
    let written = document(&[("A", "new")]);
    assert_eq!(merge(Some(&base), &current, &written), []);
}

fn documents() -> impl Strategy<Value = Document> {
    let name = prop_oneof![
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,12}",
        "(yes|no|on|null|true|1e3|0x1f|1_0|_1|nan|y_n)",
    ];
    let name = name.prop_filter_map("a scratch name", |name| SecretName::new(&name).ok());
    let value = prop_oneof![
        any::<String>(),
        "[\\x00-\\x20\"'\\\\$`#:~!\u{85}\u{2028}\u{feff}\u{ffff}a-c]{0,12}"
    ];
    let value = value.prop_map(|text| SecretValue::new(&text));
    prop::collection::btree_map(name, value, 0..8)
}

proptest! {
    #[test]
    fn a_rendered_document_parses_to_the_same_values(document in documents()) {
        for format in [BundleFormat::Json, BundleFormat::Yaml] {
            let rendered = render(format, &document);
            prop_assert_eq!(&parse(format, &rendered).unwrap(), &document);
        }
        // Not by way of the JSON that a YAML document may be.
        let plain = render(BundleFormat::Yaml, &document);
        let yaml = crate::yaml::parse(std::str::from_utf8(&plain).unwrap()).unwrap();
        for (name, value) in &document {
            prop_assert_eq!(yaml.root.get(name.as_str()).and_then(|value| value.as_str()), Some(value.as_str()));
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in any::<Vec<u8>>(), text in "[{}\\[\\]:,\"A-C \n&*!?|>-]{0,30}") {
        for format in BundleFormat::ALL {
            let _ = parse(format, &bytes);
            let _ = parse(format, text.as_bytes());
        }
    }

    #[test]
    fn a_merge_has_exactly_the_changes_that_its_writer_made(base in documents(), current in documents(), written in documents()) {
        let changes = merge(Some(&Base::of(&base)), &current, &written);
        let mut after = current.clone();
        for change in changes {
            match change {
                Change::Set(name, value) => { after.insert(name, value); }
                Change::Delete(name) => { after.remove(&name); }
            }
        }
        for name in base.keys().chain(current.keys()).chain(written.keys()) {
            let untouched = base.get(name) == written.get(name);
            let expected = if untouched { current.get(name) } else { written.get(name) };
            prop_assert_eq!(after.get(name), expected, "{}", name);
        }
    }
}
