//! Edits of a YAML file change the lines of one entry.

use super::*;
use crate::secret::SecretValue;
use proptest::prelude::*;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn parse(text: &str) -> Document {
    parse_document(true, text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn value(document: &Document, key: &str) -> Option<String> {
    let stored = document.get(&name(key))?;
    Some(stored.as_str().to_owned())
}

fn set(document: &mut Document, key: &str, value: &str) {
    document.set(&name(key), Stored::Plain(SecretValue::new(value)));
}

fn rendered(document: &Document) -> String {
    String::from_utf8(document.render().unwrap().to_vec()).unwrap()
}

/// The file after these keys are set to `new`; after `-`, removed.
fn edited(before: &str, keys: &[&str]) -> String {
    let mut document = parse(before);
    for key in keys {
        match key.strip_prefix('-') {
            Some(key) => document.remove(&[&name(key)]),
            None => set(&mut document, key, "new"),
        }
    }
    rendered(&document)
}

#[test]
fn an_edit_changes_the_lines_of_its_entry_and_nothing_else() {
    let file = "# mine\nB:   'beta'   # why\n\nport: 8200\nlist: [1, two]\nA: |  # text\n  a\n  b\n\n# end\nv: !vault |\n  x\n";
    for (key, old, new) in [
        ("B", "B:   'beta'   # why\n", "B:   \"new\"   # why\n"),
        ("port", "port: 8200\n", "port: \"new\"\n"),
        ("list", "list: [1, two]\n", "list: \"new\"\n"),
        ("A", "A: |  # text\n  a\n  b\n", "A: \"new\"\n"),
        ("v", "v: !vault |\n  x\n", "v: \"new\"\n"),
        ("-B", "B:   'beta'   # why\n", ""),
        ("-A", "A: |  # text\n  a\n  b\n", ""),
        (
            "NEW_KEY",
            "v: !vault |\n  x\n",
            "v: !vault |\n  x\nNEW_KEY: \"new\"\n",
        ),
    ] {
        assert_eq!(edited(file, &[key]), file.replace(old, new), "{key}");
    }
}

#[test]
fn odd_forms_of_a_file_keep_their_form() {
    for (before, keys, after) in [
        ("A: a", "B", "A: a\n\"B\": \"new\"\n"),
        ("A: |\n  a", "B", "\"B\": \"new\"\nA: |\n  a"),
        ("---\nA: |\n  a", "B", "---\n\"B\": \"new\"\nA: |\n  a"),
        (
            "\u{feff}A: a\r\nB: b\r\n",
            "A C",
            "\u{feff}A: \"new\"\r\nB: b\r\n\"C\": \"new\"\r\n",
        ),
        (
            "%YAML 1.1\n---\nA: a\n...\n",
            "B",
            "%YAML 1.1\n---\nA: a\n\"B\": \"new\"\n...\n",
        ),
        ("  A: a\n  C: c\n", "B -C", "  A: a\n  \"B\": \"new\"\n"),
        ("# nothing yet", "B", "# nothing yet\n\"B\": \"new\"\n"),
        ("---\n", "B", "---\n\"B\": \"new\"\n"),
        ("---\nA: a\n...\n", "-A B", "---\n\"B\": \"new\"\n...\n"),
        ("# a\nA: a\n# b\n", "-A B", "# a\n\"B\": \"new\"\n# b\n"),
        ("A: a\n", "-A", "{}\n"),
        (
            "{A: a, B: b}\n",
            "A C",
            "{A: \"new\", B: b, \"C\": \"new\"}\n",
        ),
        ("{A: a, B: b, C: c}\n", "-B", "{A: a, C: c}\n"),
        ("{A: a, B: b, C: c}\n", "-A -B", "{C: c}\n"),
        ("{A: a, B: b}\n", "-A -B C", "{\"C\": \"new\"}\n"),
        ("# x\n{}\n", "B", "# x\n{\"B\": \"new\"}\n"),
        (
            "A:\nB:  # c\nC: !!str\nD: &x\n",
            "A B C D",
            "A: \"new\"\nB: \"new\"  # c\nC: \"new\"\nD: \"new\"\n",
        ),
        (
            "A:\n  # why\n  'a'\nB:\n- 1\n- 2\n",
            "A B",
            "A: \"new\"\nB: \"new\"\n",
        ),
        ("? A\n: a\n? B\n", "A B", "A: \"new\"\nB: \"new\"\n"),
        (
            "'A': a\n\"\\x42\": b\n",
            "A B",
            "'A': \"new\"\n\"\\x42\": \"new\"\n",
        ),
        ("A: |\nB: |-  # c\n", "A B", "A: \"new\"\nB: \"new\"\n"),
        ("A: |+\n  a\n\nB: b\n", "A B", "A: \"new\"\n\nB: \"new\"\n"),
        ("A: a\nB: b\nA: a2\n", "A", "B: b\nA: \"new\"\n"),
        ("A: a\nB: b\nA: a2\n", "-A", "B: b\n"),
        ("A: &x a\nB: *x\n", "B", "A: &x a\nB: \"new\"\n"),
        (
            "d: &d {A: a}\n<<: *d\n",
            "A",
            "d: &d {A: a}\n\"A\": \"new\"\n<<: *d\n",
        ),
        (
            "d: &d {A: a}\n<<: *d\nB: b\n",
            "A B",
            "d: &d {A: a}\n<<: *d\nB: \"new\"\n\"A\": \"new\"\n",
        ),
    ] {
        let keys: Vec<&str> = keys.split(' ').collect();
        assert_eq!(edited(before, &keys), after, "{before:?}");
    }
}

#[test]
fn an_edit_that_would_change_other_entries_is_refused() {
    for (before, key) in [
        ("A: &x a\nB: *x\n", "A"),
        ("A: &x a\nB: *x\n", "-A"),
        ("A: &x a\nl: [*x]\n", "A"),
        ("d: &d {A: a}\n<<: *d\n", "-A"),
        ("d: &d {A: a}\n<<: *d\nA: b\n", "-A"),
    ] {
        let mut document = parse(before);
        match key.strip_prefix('-') {
            Some(key) => document.remove(&[&name(key)]),
            None => set(&mut document, key, "new"),
        }
        let error = document.render().map(drop).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("anchor"), "{error}");
    }
}

#[test]
fn values_are_served_as_they_stand() {
    let document = parse(
        "d: &d {M: merged, A: hidden}\n<<: *d\nA: 5e10\nB: 12345678901234567890123456789012345678901\nC: 0o17\n\
         D: 1.10\nE: yes\nF: 2001-12-14\nG: *x\n"
            .replace("G: *x\n", "x: &x hello\nG: *x\nH: !!str 5\nI: !!binary aGk=\nJ: ~\nK:\nL: !v x\nM2: '5'\n3: x\nyes: x\n")
            .as_str(),
    );
    for (key, expected) in [
        ("M", Some("merged")),
        ("A", Some("5e10")),
        ("B", Some("12345678901234567890123456789012345678901")),
        ("C", Some("0o17")),
        ("D", Some("1.10")),
        ("E", Some("yes")),
        ("F", Some("2001-12-14")),
        ("G", Some("hello")),
        ("H", Some("5")),
        ("M2", Some("5")),
        ("I", None),
        ("J", None),
        ("K", None),
        ("L", None),
        ("3", None),
        ("yes", None),
    ] {
        assert_eq!(value(&document, key).as_deref(), expected, "{key}");
    }
}

/// Ways to write a value, and what it is served as.
const FORMS: [(&str, Option<&str>); 21] = [
    ("plain text", Some("plain text")),
    ("plain # comment", Some("plain")),
    ("5e10   ", Some("5e10")),
    ("0x1F", Some("0x1F")),
    ("off", Some("off")),
    ("2001-12-14", Some("2001-12-14")),
    ("~", None),
    ("", None),
    ("  # comment", None),
    ("'single ''quoted'''", Some("single 'quoted'")),
    (
        "\"double \\\"quoted\\\" \\u00e9\"  # c",
        Some("double \"quoted\" é"),
    ),
    ("'over\n    two lines'", Some("over two lines")),
    ("over\n  two lines", Some("over two lines")),
    ("|\n    block\n      more\n", Some("block\n  more\n")),
    ("|- # c\n  block\n\n", Some("block")),
    (">\n  folded\n  lines\n", Some("folded lines\n")),
    ("!!str 5", Some("5")),
    ("!vault |\n  $ANSIBLE\n", None),
    ("!!binary aGk=", None),
    ("\n- a\n- b: c", None),
    ("{a: [b, c]}", None),
];

#[derive(Clone, Debug)]
enum Block {
    Entry(usize),
    Between(&'static str),
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let between = prop::sample::select(&["# comment\n", "\n", "# key: x\n"][..]);
    let block = prop_oneof![
        3 => (0..FORMS.len()).prop_map(Block::Entry),
        1 => between.prop_map(Block::Between),
    ];
    prop::collection::vec(block, 0..8)
}

/// The texts of the blocks; an entry's key is `K` and its position.
pub(super) fn texts(blocks: &[(usize, &str)]) -> Vec<String> {
    let text = |(at, form): &(usize, &str)| match form.ends_with('\n') {
        true => format!("K{at}: {form}"),
        false => format!("K{at}: {form}\n"),
    };
    blocks.iter().map(text).collect()
}

proptest! {
    #[test]
    fn any_edit_of_any_file_leaves_all_other_lines(
        blocks in blocks(), is_crlf: bool, pick: prop::sample::Index, action in 0..3, new in "\\PC{0,12}|[\\x00-\\x7f]{0,12}"
    ) {
        let line_end = |text: &str| if is_crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
        let texts: Vec<String> = blocks.iter().enumerate().map(|(at, block)| line_end(&match block {
            Block::Entry(form) => texts(&[(at, FORMS[*form].0)]).concat(),
            Block::Between(text) => (*text).to_owned(),
        })).collect();
        let entries: Vec<usize> = (0..blocks.len()).filter(|at| matches!(blocks[*at], Block::Entry(_))).collect();
        let before = texts.concat();
        prop_assume!(!before.trim().is_empty());
        let mut document = parse(&before);
        let served = |document: &Document, except: Option<usize>| -> Vec<Option<String>> {
            entries.iter().filter(|at| Some(**at) != except).map(|at| value(document, &format!("K{at}"))).collect()
        };
        let expected: Vec<Option<String>> = entries.iter().map(|at| match blocks[*at] {
            Block::Entry(form) => FORMS[form].1.map(str::to_owned),
            Block::Between(_) => None,
        }).collect();
        prop_assert_eq!(served(&document, None), expected);
        if entries.is_empty() || action == 2 {
            set(&mut document, "NEW_KEY", &new);
            let after = rendered(&document);
            let at = after.find("NEW_KEY").unwrap();
            prop_assert_eq!(format!("{}{}", &after[..at], &after[at..].split_once('\n').unwrap().1), before);
            let again = parse(&after);
            prop_assert_eq!(value(&again, "NEW_KEY"), Some(new));
            prop_assert_eq!(served(&again, None), served(&document, None));
        } else {
            let at = entries[pick.index(entries.len())];
            let key = format!("K{at}");
            let (above, below) = (texts[..at].concat(), texts[at + 1..].concat());
            let is_secret = document.contains(&name(&key));
            if action == 0 || !is_secret {
                set(&mut document, &key, &new);
            } else {
                document.remove(&[&name(&key)]);
            }
            let after = rendered(&document);
            if after.trim() == "{}" {
                return Ok(());
            }
            prop_assert!(after.starts_with(&above) && after.ends_with(&below), "{:?} {:?}", before, after);
            let own = &after[above.len()..after.len() - below.len()];
            let again = parse(&after);
            prop_assert_eq!(served(&again, Some(at)), served(&document, Some(at)));
            if action == 0 || !is_secret {
                prop_assert_eq!(value(&again, &key), Some(new));
                prop_assert!(own.starts_with(&key), "{:?}", own);
            } else {
                prop_assert!(own.trim().is_empty(), "{:?}", own);
            }
        }
    }
}
