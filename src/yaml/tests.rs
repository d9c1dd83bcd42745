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
fn each_mistake_has_a_message_with_its_line_and_without_a_value() {
    for (text, expected) in [
        (
            "A: \"hunter2\nB: 1\n",
            "line 1 (A: ...): the quote that begins here has no end",
        ),
        (
            "A: 1\nB: 'hunter2\n",
            "line 2 (B: ...): the quote that begins here has no end",
        ),
        (
            "A: \"x\n---\nB: hunter2\n",
            "line 1 (A: ...): the quote that begins here has no end before the line `---` or `...`",
        ),
        (
            "A: 1\r\nB: [hunter2\r\n",
            "line 2 (B: ...): the `[` that begins here has no `]`",
        ),
        (
            "A: 1\nB: [hunter2\nC: 1\n",
            "line 3 (C: ...): a `[` or a `{` above this has no end",
        ),
        (
            "A: {x: hunter2\nC: 1\n",
            "line 2 (C: ...): a `,` or the closing `}` is missing before this",
        ),
        (
            "{\"A\": \"hunter2\",\n\"B\": \"y\"\n",
            "line 1: the `{` that begins here has no `}`",
        ),
        (
            "A: [hunter2}\n",
            "line 1 (A: ...): a `}` closes a `[`; write `]`",
        ),
        (
            "A: ]hunter2\n",
            "line 1 (A: ...): a closing bracket without an opening one",
        ),
        (
            "A: [x] hunter2\n",
            "line 1 (A: ...): text behind the closing bracket; put the value in quotes",
        ),
        (
            "A: *hunter2\n",
            "line 1 (A: ...): `*` repeats a value that `&` marks, and none has this mark; put a value that begins with `*` in quotes",
        ),
        (
            "A: *\n",
            "line 1 (A: ...): put a value that begins with `*` in quotes",
        ),
        (
            "A: &\n",
            "line 1 (A: ...): put a value that begins with `&` in quotes",
        ),
        (
            "A: !a!hunter2 x\n",
            "line 1 (A: ...): put a value that begins with `!` in quotes",
        ),
        (
            "A: @hunter2\n",
            "line 1 (A: ...): put a value that begins with `@` in quotes",
        ),
        (
            "A: `hunter2\n",
            "line 1 (A: ...): put a value that begins with a backtick in quotes",
        ),
        (
            "A: %hunter2\n",
            "line 1 (A: ...): put a value that begins with `%` in quotes",
        ),
        (
            "A: ,hunter2\n",
            "line 1 (A: ...): put a value that begins with `,` in quotes",
        ),
        (
            "A: [-,hunter2]\n",
            "line 1 (A: ...): put a value that begins with `-` in quotes",
        ),
        (
            "A: 1\n%B: hunter2\n",
            "line 2: put a name that begins with `%` in quotes",
        ),
        (
            "A: |hunter2\n",
            "line 1 (A: ...): a value of several lines begins in the line below `|` or `>`; put any other value that begins so in quotes",
        ),
        (
            "\tA: hunter2\n",
            "line 1 (A: ...): it is indented by a tab; use spaces",
        ),
        (
            "A: 1\n\tB: hunter2\n",
            "line 2: it is indented by a tab; use spaces",
        ),
        (
            "A: 1\r\n\r\n\tB: hunter2\r\n",
            "line 3: it is indented by a tab; use spaces",
        ),
        (
            "A:\n  B: 1\n\tC: hunter2\n",
            "line 3 (C: ...): it is indented by a tab; use spaces",
        ),
        (
            "A: |\n\thunter2\n",
            "line 2: it is indented by a tab; use spaces",
        ),
        (
            "A: hunter2\n  B: hunter2\n",
            "line 2: this is indented deeper than the line above, which has a value already",
        ),
        (
            "  A: 1\nB: hunter2\n",
            "line 2 (B: ...): the indentation does not fit the lines above",
        ),
        (
            "A:\n  B: 1\n C: hunter2\n",
            "line 3 (C: ...): the indentation does not fit the lines above",
        ),
        (
            "A: b: hunter2\n",
            "line 1 (A: ...): a second `: ` in the line; put the value in quotes",
        ),
        (
            "A: 1\nB hunter2\nC: 1\n",
            "line 2: this is no `name: value`, with a blank behind the colon; put a value of several lines in quotes",
        ),
        (
            "A: 1\nB=hunter2\n",
            "line 2: this is no `name: value`, with a blank behind the colon; put a value of several lines in quotes",
        ),
        (
            "A: - hunter2\n",
            "line 1 (A: ...): a list with `- ` begins in a line of its own; in one line, write `[A, B]`",
        ),
        (
            "A: 1\n- hunter2\n",
            "line 2: the indentation does not fit the lines above",
        ),
        (
            "A: 'it's hunter2'\n",
            "line 1 (A: ...): text behind the closing quote; inside single quotes, write `''` for a quote",
        ),
        (
            "A: \"a\"hunter2\"\n",
            "line 1 (A: ...): text behind the closing quote; inside double quotes, write `\\\"` for a quote",
        ),
        (
            "A: \"\\hunter2\"\n",
            "line 1 (A: ...): `\\` begins an escape that YAML does not know; use single quotes, or write `\\\\` for a backslash",
        ),
        (
            "A: 1\n---\nB: hunter2\n",
            "line 2: another document begins here, by `---` or `...`; only one may be in the file",
        ),
        (
            "A: 1\n<<: hunter2\n",
            "line 2: `<<` copies the entries of another object, and this is none; put the name in quotes",
        ),
        (
            "A: &hunter2 [*hunter2]\n",
            "line 1 (A: ...): `*` stands inside the value that it repeats",
        ),
        (
            "A: \"x\"#hunter2\n",
            "line 1 (A: ...): a comment may not stand here; put a value with a `#` in quotes",
        ),
        (
            "A: 1\n\u{feff}B: hunter2\n",
            "line 2: a byte order mark (U+FEFF) inside the file; remove it",
        ),
        (
            "A: 1\nB: x\u{2028}hunter2\n",
            "line 2 (B: ...): write the character U+2028 as `\\u2028`, in double quotes",
        ),
        (
            "A: \"hunter2\u{7}\"\n",
            "line 1 (A: ...): write the character U+0007 as `\\u0007`, in double quotes",
        ),
        (
            "A: \"user\nhunter2: x\" y\n",
            "line 2: text behind the closing quote; inside double quotes, write `\\\"` for a quote",
        ),
        (
            "A: user\n  hunter2: x\n",
            "line 2: this is indented deeper than the line above, which has a value already",
        ),
        (
            "A:\n  - name: op\n    run: [hunter2\n    per_key: true\n",
            "line 4 (per_key: ...): a `[` or a `{` above this has no end",
        ),
    ] {
        let message = reason(text);
        assert_eq!(message, expected, "{text:?}");
        assert!(!message.contains("hunter2"), "{text:?}: {message}");
    }
}

#[test]
fn a_text_of_too_many_values_is_refused() {
    let many = "a: b\n".repeat(260_000);
    let many = reason(&many);
    assert!(many.starts_with("line 249") && many.ends_with("there are too many values"));
    assert!(reason(&format!("A: [{}]", "x,".repeat(500_000))).contains("too many values"));
}

#[test]
fn deep_nesting_and_long_texts_end_soon() {
    // In a thread with the stack of a worker.
    let check = || {
        // The thread's own time, whatever else runs on this machine.
        let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
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
        assert!(used() < 30, "{} s", used());
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
    assert!(reason(&bomb).contains("aliases (`*`) copy too much"));
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
