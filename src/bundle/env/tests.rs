//! Values that need quotes in env files, and those that an env file cannot hold.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::bundle::{BundleFormat, render};
use crate::secret::SecretValue;

fn document(entries: &[(&str, &str)]) -> Document {
    let entry = |(name, value): &(&str, &str)| (name.parse().unwrap(), SecretValue::new(value));
    entries.iter().map(entry).collect()
}

fn rendered(format: BundleFormat, document: &Document) -> String {
    String::from_utf8(render(format, document).to_vec()).unwrap()
}

#[test]
fn a_value_is_in_single_quotes_unless_a_reader_needs_others() {
    for (value, expected) in [
        ("a/b", "a/b"),
        ("a b", "'a b'"),
        ("$A `b` \"c\" \\d", "'$A `b` \"c\" \\d'"),
        ("it's", "\"it's\""),
        ("it's $5", "\"it's \\$5\""),
        ("a\\\\b", "\"a\\\\\\\\b\""),
        ("a\\", "\"a\\\\\""),
        ("a\nb", "\"a\nb\""),
        ("a\n$b", "'a\n$b'"),
    ] {
        let document = document(&[("A", value)]);
        let line = rendered(BundleFormat::Env, &document);
        assert_eq!(line, format!("A={expected}\n"));
    }
}

/// What sh makes of the rendered lines, each variable ended by a NUL.
fn sourced(lines: &[u8], names: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets.env");
    std::fs::write(&file, lines).unwrap();
    let mut script = String::from("set -a\n. \"$FILE\"\nset +a\n");
    for name in names {
        script += &format!("printf '%s\\0' \"${{{name}-unset}}\"\n");
    }
    let mut sh = Command::new("sh")
        .env_clear()
        .env("FILE", &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sh.stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = sh.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_key_that_cannot_be_a_variable_is_a_comment_without_its_value() {
    let document = document(&[("A", "a\0b"), ("b-c", "hunter2"), ("1D", "hunter2")]);
    let lines = rendered(BundleFormat::Env, &document);
    assert!(lines.lines().all(|line| line.starts_with("# ")));
    assert!(!lines.contains("hunter2") && !lines.contains('\0'));
    assert_eq!(sourced(lines.as_bytes(), &["A"]), b"unset\0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn sh_reads_the_values_as_they_are(
        values in prop::collection::vec(prop_oneof![any::<String>(), "[\\x01-\\x7f]{0,20}"], 1..8)
    ) {
        let names: Vec<String> = (0..values.len()).map(|i| format!("KEY_{i}")).collect();
        let document: Document = names
            .iter()
            .zip(&values)
            .map(|(name, value)| (name.parse().unwrap(), SecretValue::new(&value.replace('\0', ""))))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let expected: Vec<u8> = document.values().flat_map(|v| [v.as_bytes(), b"\0"].concat()).collect();
        prop_assert_eq!(sourced(&render(BundleFormat::Env, &document), &names), expected);
    }
}
