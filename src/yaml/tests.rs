//! YAML as PyYAML reads it, and the bounds.

use super::*;

/// What is wrong with the text.
fn reason(text: &str) -> String {
    match parse(text) {
        Err(reason) => reason,
        Ok(_) => panic!("it was taken: {}", &text[..text.len().min(200)]),
    }
}

/// As they are written: texts, numbers, booleans and dates; of anything else, what it is.
fn entries(text: &str) -> Vec<(String, String)> {
    let Value::Mapping(pairs) = parse(text).unwrap().root else {
        panic!("no mapping");
    };
    let word = |value: &Value| value.as_written().unwrap_or(value.type_name()).to_owned();
    let entry = |pair: &Pair| (word(&pair.key), word(&pair.value));
    pairs.iter().map(entry).collect()
}

#[test]
fn errors_say_where_and_never_what() {
    for (text, expected) in [
        ("A: hunter2\nB: [hunter2", "not YAML at line 2 column 4"),
        ("A: hunter2\n  B: hunter2\n", "not YAML at line 2 column 4"),
        ("A: *hunter2\n", "not YAML at line 1 column 4"),
        (
            "A: 1\n---\nB: hunter2\n",
            "it has another document at line 2 column 1",
        ),
        ("\tA: hunter2\n", "indented by a tab at line 1 column 2"),
        (
            "A: 1\n<<: hunter2\n",
            "a merge key without a mapping at line 2 column 1",
        ),
        (
            "A: &x [*x]\n",
            "an alias inside the value that it repeats at line 1 column 8",
        ),
        (
            "A: 1\nB: x\u{2028}hunter2\n",
            "the character U+2028 at line 2 must be an escape in double quotes",
        ),
        (
            "A: \"x\u{7}\"\n",
            "the character U+0007 at line 1 must be an escape in double quotes",
        ),
    ] {
        assert_eq!(reason(text), expected);
    }
}

#[test]
fn a_text_of_too_many_values_is_refused() {
    let many = "a: b\n".repeat(260_000);
    assert!(reason(&many).starts_with("too many values at line 249"));
    assert!(reason(&format!("A: [{}]", "x,".repeat(500_000))).contains("too many values"));
}

#[test]
fn deep_nesting_and_long_texts_end_soon() {
    // In a thread with the stack of a worker.
    let check = || {
        let started = std::time::Instant::now();
        for open in ["[", "{a: ", "[{a: ", "- ", "? ", "- - ? "] {
            for before in ["A: ", "", "A:\n  - "] {
                reason(&format!("{before}{}", open.repeat(100_000)));
            }
        }
        for deep in [200, 250] {
            let text = format!("A: {}{}\nB: b\n", "[".repeat(deep), "]".repeat(deep));
            assert_eq!(entries(&text)[1].1, "b");
        }
        for part in [
            "a: ", "a, ", "'a' ", "\"", "&a ", "!a ", "|\n", "a\n", "# a\n", "---\n", "\\", "%a\n",
            "[]",
        ] {
            for before in ["A: ", "A: \"", "A: [", "A: |\n  "] {
                let _ = parse(&format!("{before}{}", part.repeat(100_000)));
            }
        }
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    };
    let small = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    small.spawn(check).unwrap().join().unwrap();
}

#[test]
fn anchors_and_aliases_copy_at_most_twice_the_text() {
    let mut bomb = String::from("a0: &a0 [lol, lol, lol]\n");
    for at in 1..30 {
        let aliases = vec![format!("*a{}", at - 1); 10].join(", ");
        bomb += &format!("a{at}: &a{at} [{aliases}]\n");
    }
    assert!(reason(&bomb).starts_with("too much is copied by aliases at line"));
    let merges: String = (1..30)
        .map(|at| format!("m{at}: &m{at} {{<<: [*m{0}, *m{0}], k{at}: v}}\n", at - 1))
        .collect();
    assert!(parse(&format!("m0: &m0 {{k: v}}\n{merges}")).is_ok());
    let long = "x".repeat(100_000);
    let twice = format!("A: &a {long}\nB: *a\n");
    assert_eq!(entries(&twice)[1].1, long);
    reason(&format!("{twice}C: *a\nD: *a\nE: *a\n"));
    // A long line of anchors around one another.
    let anchors: String = (0..200).map(|at| format!("&a{at} [")).collect();
    reason(&format!("{anchors}{long}{}", "]".repeat(200)));
}

#[test]
fn merge_keys_give_way_to_own_entries_and_earlier_ones_of_a_list_to_none() {
    let pairs = |text| -> Vec<(String, String)> { entries(text) };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        pairs("d: &d {KEY: d, D: d}\ne: &e {KEY: e, E: e, OWN: e}\nOWN: own\n<<: [*d, *e]\n"),
        [
            pair("E", "e"),
            pair("KEY", "d"),
            pair("D", "d"),
            pair("d", "an object"),
            pair("e", "an object"),
            pair("OWN", "own")
        ]
    );
}

#[test]
fn numbers_of_settings_are_decimal() {
    for (text, number) in [
        ("60", Some(60.0)),
        ("1.5", Some(1.5)),
        ("0", Some(0.0)),
        ("-1", Some(-1.0)),
        ("0.5", Some(0.5)),
        ("010", None),
        ("0x10", None),
        ("1:30", None),
        ("1_000", None),
        ("'60'", None),
        ("sixty", None),
    ] {
        let root = parse(text).unwrap().root;
        assert_eq!(root.as_f64(), number, "{text}");
    }
}
