//! PyYAML is the judge of what a YAML file means, before and after an edit.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::secret::SecretValue;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// What PyYAML makes of a value.
#[derive(Clone, PartialEq, Debug)]
enum Judged {
    Text(String),
    /// A number, a boolean or a date.
    Scalar(String),
    Other(String),
}

type Entries = BTreeMap<String, Judged>;

const PROGRAM: &str = r#"
import datetime, json, sys, yaml
def judged(value):
    if isinstance(value, str):
        return ["text", value]
    if isinstance(value, (bool, int, float, datetime.date)):
        return ["scalar", repr(value)]
    return ["other", repr(value)]
def entries(text):
    try:
        document = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    return {key: judged(value) for key, value in document.items() if isinstance(key, str)}
json.dump([entries(text) for text in json.load(sys.stdin)], sys.stdout)
"#;

/// The Python that `scripts/test-tools` has made, which has PyYAML.
fn python() -> PathBuf {
    let tools = match std::env::var_os("SIMPLETUNER_LIVE_TEST_TOOLS") {
        Some(tools) => PathBuf::from(tools),
        None => PathBuf::from(std::env::var_os("HOME").unwrap())
            .join(".cache/simpletuner-live/test-tools"),
    };
    let folders = std::fs::read_dir(&tools).into_iter().flatten().flatten();
    let mut pythons = folders
        .filter(|folder| folder.file_name().to_string_lossy().starts_with("moto-"))
        .map(|folder| folder.path().join("bin/python3"));
    let missing = || panic!("{} has no moto: run scripts/test-tools", tools.display());
    pythons
        .find(|python| python.exists())
        .unwrap_or_else(missing)
}

/// What PyYAML reads in each text; `None` if it refuses it.
fn judge(texts: &[String]) -> Vec<Option<Entries>> {
    let mut python = Command::new(python())
        .args(["-c", PROGRAM])
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(texts).unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(&input).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    type Answer = Vec<Option<BTreeMap<String, (String, String)>>>;
    let answers: Answer = serde_json::from_slice(&output.stdout).unwrap();
    let judged = |(key, (kind, text)): (String, (String, String))| {
        let judged = match kind.as_str() {
            "text" => Judged::Text(text),
            "scalar" => Judged::Scalar(text),
            _ => Judged::Other(text),
        };
        (key, judged)
    };
    let entries = |answer: BTreeMap<_, _>| answer.into_iter().map(judged).collect();
    answers
        .into_iter()
        .map(|answer| answer.map(entries))
        .collect()
}

fn value(document: &Document, key: &str) -> Option<String> {
    let stored = document.get(&SecretName::new(key).ok()?)?;
    Some(stored.as_str().to_owned())
}

/// Why what is served is not what PyYAML reads.
fn difference(document: &Document, entries: &Entries) -> Option<String> {
    for (key, judged) in entries {
        let served = value(document, key);
        let is_same = match judged {
            Judged::Text(text) => served.as_ref() == Some(text),
            Judged::Scalar(_) => served.is_some(),
            Judged::Other(_) => served.is_none(),
        };
        if !is_same && SecretName::new(key).is_ok() {
            return Some(format!("{key} is {served:?}, PyYAML: {judged:?}"));
        }
    }
    let mut names = document.names();
    let more = names.find(|name| !entries.contains_key(name.as_str()));
    more.map(|name| format!("{name} is served, and PyYAML has no such text"))
}

/// What may stand behind `KEY: `.
const SCALARS: &str = "12 0 -1 +5 010 -010 0o17 0x1f -0x1F 0x 0b11 0b2 08 09.5 1_000 _1 1__0 1_2.5_0
    12345678901234567890123456789012345678901 98765432109876543210 18446744073709551616 5e10 1e3 1e+3 1.5 1.10 .5 -.5
    +.5 1. 1.5e+3 1.5e3 1.5E-3 12e03 .inf -.inf +.Inf .INF .iNF .nan .NaN -.nan 1:30 -1:30 1:30.5 0:30 0:30. 190:20:30
    1:60 1:3: 1.2.3 +4915112345678 1234e567 2001-12-14 2001-1-1 2001-12-14t21:59:43.10-05:00 2001-12-14T21:59:43Z
    2001-12-14T21:59 2001-02-03T4:05:06 yes no on off Yes YES yEs ON oN y n Y true TRUE tRUE false null Null nUll ~ ~x
    hello http://x/y?z=1 a:b a#b -x ?x :x a,b a]b a}b x! 'single' 'it''s' '' \"\" \"12\" '12' 'yes' \"a\\tb\" \"\\x41\\u00e9\\\\\\/\\\"\"
    \"\\U0001F600\" \"\\N\\_\\L\\P\\e\\0\" é 日本 😀 a&b a*b <<x =x == 1,5 1e 1.e+3 +12 ++1 - 0777 0_7 0b_ 0x_ 7_
    !!str 5|!!str|!!int \"5\"|!!float 1|!!bool yes|!!null x|!!binary aGk=|! 5|! \"5\"|! x|!!str ~|!!timestamp 2001-12-14|
    &a foo|&a !!str 5|&a|[]|[a, b]|{}|{a: b}|{a: 1, b: [c]}|hello world|a  # c|'a'  # c|\"a\"   # c|# c|2001-12-14 21:59:43.10 -5|
    2001-12-14 21:59:43|12 monkeys|x: y|'a' b|@x|%x|`x`|, x|a: |\"open|[open|*none|! !x|!u x|!!none x|\"\\q\"|\"a\\
    b\"|a
    b|'a

    b'|\"a
      b\"|a\tb|a \t # c";

// PyYAML 6.0.4 reads two merge keys with one name, and lists of them, otherwise than 6.0.3 and the specification.
const DOCUMENTS: [&str; 56] = [
    "A: |\n  a\n  b\n",
    "A: |-\n  a\n\n\n",
    "A: |+\n  a\n\n\n",
    "A: >\n  a\n  b\n\n  c\n   d\n",
    "A: >-\n  a\n  b\n",
    "A: >+\n  a\n\n",
    "A: |2\n    a\n",
    "A: |\n  a",
    "A: |\n",
    "A: |\n\n\nB: b\n",
    "A: |-  # c\n  a\n# d\nB: b\n",
    "A: >\n a\n\n\n b",
    "A: |\r\n  a\r\n  b\r\nB: b\r\n",
    "A: a\rB: b\r",
    "\u{feff}A: a\n",
    "---\nA: a\n...\n",
    "--- # c\nA: a\n",
    "%YAML 1.1\n---\nA: 0o7\n",
    "%TAG !e! tag:yaml.org,2002:\n---\nA: !e!str 5\n",
    "A: a\n---\nB: b\n",
    "A: a\n...\n---\n",
    "--- {A: a}\n",
    "{A: a, B: 'b', C}\n",
    "{A: 1, \"B\":2, C: [x],}\n",
    "{\n  A: a, # c\n  B: b\n}\n",
    "? A\n: a\n? B\n",
    "? |\n  A\n: a\n",
    "A: a\nA: b\n",
    "A: a\nA: ~\n",
    "A: ~\nA: a\n",
    "a: &x hello\nB: *x\nC: [*x]\n",
    "a: &x 5\nB: *x\n",
    "a: &x a\nb: &x b\nC: *x\n",
    "a: *x\n",
    "a: &x [*x]\n",
    "a : b\n\"c\" : d\n",
    "d: &d {A: a, B: b}\n<<: *d\nB: own\n",
    "d: &d {A: a}\ne: &e {A: e, C: c}\n<<: [*d, *e]\n",
    "d: &d {A: a}\ne: &e {<<: *d, B: b}\n<<: *e\n",
    "<<: {A: a}\nA: b\n",
    "<<: x\n",
    "'<<': x\nA: a\n",
    "A: <<\n",
    "A: =\n",
    "=: a\n",
    "A:\n  a\nB:\n\n  # c\n  'b'\nC:\n- 1\n-\nD:\n  x: y\n",
    "yes: a\n5: b\n~: c\n1e3: d\n'5': e\n2001-12-14: f\n",
    "A: !v |\n  x\nB: b\n",
    "- a\n",
    "a\n",
    "5\n",
    "# only\n",
    "A: a\n  B: b\n",
    " A: a\nB: b\n",
    "\tA: a\n",
    "A:\ta\nB: b\t\n",
];

/// All documents of the table: a form as the first, a middle and the last entry.
fn table() -> Vec<String> {
    let words = SCALARS.lines().take(10).flat_map(str::split_whitespace);
    let (_, rest) = SCALARS.split_once(" 7_\n").unwrap();
    let forms: Vec<&str> = words
        .chain(rest.split('|').map(|form| form.trim_matches([' ', '\n'])))
        .collect();
    assert!(forms.len() > 150, "{}", forms.len());
    let mut table: Vec<String> = DOCUMENTS.map(str::to_owned).to_vec();
    for form in forms {
        table.push(format!("A: {form}\nB: 'b'\n"));
        table.push(format!("B: b\nA: {form}"));
        table.push(format!("{{\"B\": b, A: {form} }}"));
    }
    table
}

/// What both refuse. This program also reads some that PyYAML refuses: unknown tags, tabs, an anchor that is there twice.
const REFUSED: [&str; 16] = [
    "A: \"open",
    "A: [open",
    "A: {open",
    "A: *none\n",
    "A: x: y\n",
    "A: 'a' b\n",
    "A: @x\n",
    "A: `x\n",
    "A: %x\n",
    "A: \"\\q\"\n",
    "A: a\n---\nB: b\n",
    "<<: x\n",
    "- a\n",
    "a\n",
    "A: a\n  B: b\n",
    "\tA: a\n- b\n",
];

#[test]
fn a_file_is_served_as_pyyaml_reads_it() {
    let table = table();
    let mut wrong = Vec::new();
    for (text, judged) in table.iter().zip(judge(&table)) {
        match (parse_document(true, text.as_bytes()), judged) {
            (Ok(document), Some(entries)) => {
                let difference = difference(&document, &entries);
                wrong.extend(difference.map(|why| format!("{text:?}: {why}")));
            }
            // PyYAML makes lists that hold themselves.
            (Err(_), Some(_)) if text.contains("&x [*x]") => {}
            (Err(error), Some(_)) => wrong.push(format!("{text:?}: {error}")),
            _ => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        table.len()
    );
    let refused = REFUSED.map(str::to_owned);
    assert!(judge(&refused).iter().all(Option::is_none));
    for text in refused {
        assert!(parse_document(true, text.as_bytes()).is_err(), "{text:?}");
    }
}

#[derive(Debug)]
enum Edit<'a> {
    Set(&'a str, &'a str),
    Remove(&'a str),
    Rename(&'a str, &'a str),
}

impl Edit<'_> {
    fn apply(&self, document: &mut Document) {
        let name = |name: &str| SecretName::new(name).unwrap();
        match self {
            Edit::Set(key, value) => {
                document.set(&name(key), Stored::Plain(SecretValue::new(value)));
            }
            Edit::Remove(key) => document.remove(&[&name(key)]),
            Edit::Rename(from, to) => {
                let stored = document.get(&name(from)).unwrap().clone();
                document.remove(&[&name(from)]);
                document.set(&name(to), stored);
            }
        }
    }

    fn keys(&self) -> Vec<&str> {
        match self {
            Edit::Set(key, _) | Edit::Remove(key) => vec![key],
            Edit::Rename(from, to) => vec![from, to],
        }
    }
}

/// Edits each of the texts in each way, and has PyYAML compare; returns how many edits were done, and how many refused.
fn check_edits(texts: &[String], may_refuse: impl Fn(&str) -> bool) -> (usize, usize) {
    let value = "n\u{e9}w: 'x' # \"\\\n\u{85}\u{2028}\t\u{1F600}";
    let judged = judge(texts);
    let (mut edits, mut refused) = (Vec::new(), 0);
    for (text, before) in texts.iter().zip(judged) {
        let (Ok(document), Some(before)) = (parse_document(true, text.as_bytes()), before) else {
            continue;
        };
        let all = [
            Edit::Set("A", value),
            Edit::Set("B", value),
            Edit::Set("NEW_KEY", value),
            Edit::Set("off", value),
            Edit::Remove("A"),
            Edit::Remove("B"),
            Edit::Rename("A", "NEW_KEY"),
            Edit::Rename("B", "A"),
        ];
        for edit in all {
            let is_there = |key: &str| document.contains(&SecretName::new(key).unwrap());
            if !matches!(edit, Edit::Set(..)) && !is_there(edit.keys()[0]) {
                continue;
            }
            let mut document = document.clone();
            edit.apply(&mut document);
            match document.render() {
                Ok(after) => {
                    let after = String::from_utf8(after.to_vec()).unwrap();
                    edits.push((text, before.clone(), edit, document, after));
                }
                Err(error) => {
                    refused += 1;
                    assert!(may_refuse(text), "{text:?} {edit:?}: {error}");
                }
            }
        }
    }
    let done = edits.len();
    let after: Vec<String> = edits.iter().map(|(.., after)| after.clone()).collect();
    for ((text, mut before, edit, document, after), judged) in edits.into_iter().zip(judge(&after))
    {
        let mut judged =
            judged.unwrap_or_else(|| panic!("{text:?} {edit:?}: PyYAML refuses {after:?}"));
        let difference = difference(&document, &judged);
        assert_eq!(difference, None, "{text:?} {edit:?}: {after:?}");
        for key in edit.keys() {
            before.remove(key);
            judged.remove(key);
        }
        assert_eq!(before, judged, "{text:?} {edit:?}: {after:?}");
        if !text.trim_start_matches('\u{feff}').starts_with('{') {
            // No line of another entry, and no comment of its own line, changes or goes.
            let lines: HashSet<&str> = after.lines().collect();
            let is_others = |line: &&str| line.starts_with('#') || line.starts_with("C:");
            let gone = text
                .lines()
                .filter(is_others)
                .find(|line| !lines.contains(line));
            assert_eq!(gone, None, "{text:?} {edit:?}: {after:?}");
        }
    }
    (done, refused)
}

#[test]
fn after_an_edit_pyyaml_reads_every_other_entry_as_before() {
    // Anchors, merge keys, and a key of several lines.
    let may_refuse = |text: &str| text.contains(['*', '<']) || text.starts_with("? |");
    let (done, refused) = check_edits(&table(), may_refuse);
    assert!(done > 2000 && refused < 40, "{done} {refused}");
}

#[test]
fn random_files_and_their_edits_are_read_as_pyyaml_reads_them() {
    let piece = prop_oneof![
        4 => prop::sample::select(&["A", "B", "C", "- ", "'", "\"", ": ", ":", "\n", "\n  ", "\n", " #", "# ", "|\n  ", ">-\n  ",
            "[", "]", "{", "}", ", ", "&a ", "*a", "!!str ", "? ", "x", " ", "1", "~", "\\", "\r\n", "A: ", "\nB: ", "\nC: ", "\nA: x\nB: "][..])
            .prop_map(str::to_owned),
        1 => "[a-z0-9_.:é-]{1,4}",
    ];
    let text = prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat());
    let mut runner = TestRunner::deterministic();
    let mut texts: Vec<String> = (0..4000)
        .map(|_| text.new_tree(&mut runner).unwrap().current())
        .collect();
    let judged = judge(&texts);
    let mut wrong = Vec::new();
    let mut both = 0;
    for (text, judged) in texts.iter().zip(&judged) {
        if let (Ok(document), Some(entries)) = (parse_document(true, text.as_bytes()), judged) {
            both += 1;
            let difference = difference(&document, entries);
            wrong.extend(difference.map(|why| format!("{text:?}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {both}: {wrong:#?}", wrong.len());
    assert!(both > 300, "{both}");
    texts.retain(|text| !text.contains(['*', '<']));
    let (done, refused) = check_edits(&texts, |_| true);
    assert!(done > 1000 && refused < done / 20, "{done} {refused}");
}

#[test]
fn any_text_that_is_written_is_the_text_that_pyyaml_reads() {
    let text = prop_oneof![
        any::<String>(),
        "[\\x00-\\x20\"'\\\\:#\u{85}\u{a0}\u{2028}\u{feff}\u{ffff}a-c-]{0,12}"
    ];
    let mut runner = TestRunner::deterministic();
    let mut value = || text.new_tree(&mut runner).unwrap().current();
    let values: Vec<(String, String)> = (0..500).map(|_| (value(), value())).collect();
    let written = |(first, second): &(String, String)| {
        let mut document = Document::empty(true);
        Edit::Set("A_KEY", first).apply(&mut document);
        Edit::Set("yes", second).apply(&mut document);
        String::from_utf8(document.render().unwrap().to_vec()).unwrap()
    };
    let files: Vec<String> = values.iter().map(written).collect();
    for ((values, file), judged) in values.iter().zip(&files).zip(judge(&files)) {
        let judged = judged.unwrap_or_else(|| panic!("PyYAML refuses {file:?}"));
        let (first, second) = values.clone();
        assert_eq!(judged["A_KEY"], Judged::Text(first), "{file:?}");
        assert_eq!(judged["yes"], Judged::Text(second), "{file:?}");
    }
}
