//! What other programs wrote is read as they meant it, and what `export` writes as it was.

use proptest::prelude::*;

use super::*;
use crate::bundle::{BundleFormat, Document, refusal, render};

/// Names and values, or the lines of what is wrong.
fn read(format: Option<ImportFormat>, text: &str) -> Result<Vec<(String, String)>, String> {
    let entries = import(format, text.as_bytes()).map_err(|refusal| match refusal {
        Refusal::Malformed(lines) => lines.join("\n"),
        Refusal::Ambiguous(lines) => format!("ambiguous\n{}", lines.join("\n")),
    })?;
    let pair = |entry: Entry| (entry.name.to_string(), entry.value.as_str().to_owned());
    Ok(entries.into_iter().map(pair).collect())
}

#[track_caller]
fn value(format: ImportFormat, line: &str) -> Result<String, String> {
    let mut entries = read(Some(format), line)?;
    assert_eq!(entries.len(), 1, "{line:?}");
    Ok(entries.remove(0).1)
}

#[test]
fn each_dialect_reads_a_line_by_its_own_rules() {
    use ImportFormat::{Docker, Dotenv, Env};
    for (line, shell, dotenv, docker) in [
        ("A=x", Ok("x"), Ok("x"), Ok("x")),
        ("A=", Ok(""), Ok(""), Ok("")),
        ("A='x y'", Ok("x y"), Ok("x y"), Ok("'x y'")),
        ("A=\"x y\"", Ok("x y"), Ok("x y"), Ok("\"x y\"")),
        ("A=x # c", Ok("x"), Ok("x"), Ok("x # c")),
        ("A=x#c", Ok("x#c"), Ok("x#c"), Ok("x#c")),
        ("A='x' # c", Ok("x"), Ok("x"), Ok("'x' # c")),
        ("A=\"a\\nb\"", Ok("a\\nb"), Ok("a\nb"), Ok("\"a\\nb\"")),
        ("A=\"a\\\"b\"", Ok("a\"b"), Ok("a\"b"), Ok("\"a\\\"b\"")),
        ("A=\"a\nb\"", Ok("a\nb"), Ok("a\nb"), Err("no `=`")),
        (
            "A='a'\\''b'",
            Ok("a'b"),
            Err("behind the closing quote"),
            Ok("'a'\\''b'"),
        ),
        ("A='a\\'b'", Err("not closed"), Ok("a'b"), Ok("'a\\'b'")),
        (
            "export A=x",
            Ok("x"),
            Ok("x"),
            Err("a blank before the `=`"),
        ),
        (
            "A = x",
            Err("no `=`"),
            Ok("x"),
            Err("a blank before the `=`"),
        ),
        ("A=x y", Err("no `=`"), Ok("x y"), Ok("x y")),
        ("A=a&b", Err("takes the `&`"), Ok("a&b"), Ok("a&b")),
        ("A=$B", Err("would replace"), Ok("$B"), Ok("$B")),
        (
            "A=\"$(id)\"",
            Err("would replace"),
            Ok("$(id)"),
            Ok("\"$(id)\""),
        ),
        ("A=`id`", Err("would replace"), Ok("`id`"), Ok("`id`")),
        ("A=~/x", Err("would replace"), Ok("~/x"), Ok("~/x")),
        (
            "A=${B}",
            Err("would replace"),
            Err("would replace"),
            Ok("${B}"),
        ),
        ("A='${B}'", Ok("${B}"), Err("would replace"), Ok("'${B}'")),
        ("A=5$", Ok("5$"), Ok("5$"), Ok("5$")),
        ("A=\"5$\"", Ok("5$"), Ok("5$"), Ok("\"5$\"")),
        ("A=x\\\ny", Ok("xy"), Err("no `="), Err("no `=`")),
        ("A=x\r\n", Err("Windows line end"), Ok("x"), Ok("x")),
        ("  A=x", Ok("x"), Ok("x"), Ok("x")),
        ("A= x ", Err("no `=`"), Ok("x"), Ok(" x ")),
        ("A=\"x", Err("not closed"), Err("not closed"), Ok("\"x")),
        (
            "A='x'y",
            Ok("xy"),
            Err("behind the closing quote"),
            Ok("'x'y"),
        ),
        ("A=ä猫", Ok("ä猫"), Ok("ä猫"), Ok("ä猫")),
        (
            "A= # c",
            Ok(""),
            Err("versions of python-dotenv"),
            Ok(" # c"),
        ),
        ("A=# c", Err("no `=`"), Ok("# c"), Ok("# c")),
        ("A=\u{b}x", Ok("\u{b}x"), Ok("x"), Ok("\u{b}x")),
        ("A=x\u{1c}", Ok("x\u{1c}"), Ok("x"), Ok("x\u{1c}")),
        ("A=\"x\r\ny\"", Ok("x\r\ny"), Ok("x\ny"), Err("no `=`")),
        ("A=\"x\ry\"", Ok("x\ry"), Ok("x\ny"), Ok("\"x\ry\"")),
        (
            "A='a\\\\' # '",
            Ok("a\\\\"),
            Err("versions of python-dotenv"),
            Ok("'a\\\\' # '"),
        ),
        ("A='a\\\\'", Ok("a\\\\"), Ok("a\\"), Ok("'a\\\\'")),
        ("A=a\0b", Err("NUL"), Err("NUL"), Err("NUL")),
        ("A", Err("no `=`"), Err("no `=`"), Err("no `=`")),
    ] {
        for (format, expected) in [(Env, shell), (Dotenv, dotenv), (Docker, docker)] {
            match (value(format, line), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{format} {line:?}"),
                (Err(found), Err(expected)) => {
                    assert!(
                        found.starts_with("line ") && found.contains(expected),
                        "{format} {line:?}: {found}"
                    );
                }
                (found, expected) => panic!("{format} {line:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}

#[test]
fn without_a_format_a_file_is_read_only_if_all_who_can_read_it_agree() {
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    for (text, expected) in [
        (
            "A=1\n# c\n\nB=two words\n",
            &[("A", "1"), ("B", "two words")][..],
        ),
        ("export A='x y'\nB=1\n", &[("A", "x y"), ("B", "1")]),
        ("A: 'x'\nB: y\n", &[("A", "x"), ("B", "y")]),
        ("{\"A\": \"x\"}", &[("A", "x")]),
        ("{A: x}", &[("A", "x")]),
        ("", &[]),
        ("# nothing\n", &[]),
        ("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
        ("URL=https://x/?a=1&b=2\n", &[("URL", "https://x/?a=1&b=2")]),
    ] {
        assert_eq!(
            read(None, text).as_deref(),
            Ok(&*pairs(expected)),
            "{text:?}"
        );
    }
    for (text, lines) in [
        (
            "A=1\nB='x'\n",
            "line 2: B has one value for env and dotenv, another for docker",
        ),
        (
            "A=$HOME\n",
            "line 1: a shell would replace what begins with `$` in the value of A",
        ),
        (
            "A=\"no end\nB=2\n",
            "line 1: only docker reads a value of A, with its quotes",
        ),
        (
            "A='x' y\n",
            "line 1: only docker reads a value of A, with its quotes",
        ),
        (
            "A=x # y\n",
            "line 1: A has one value for env and dotenv, another for docker",
        ),
    ] {
        assert_eq!(
            read(None, text),
            Err(format!("ambiguous\n{lines}")),
            "{text:?}"
        );
    }
}

#[test]
fn all_that_is_wrong_is_said_with_its_line_and_no_value() {
    let long = "hunter2".repeat(10_000);
    for (format, text, expected) in [
        (
            Some(ImportFormat::Docker),
            format!("a/b=hunter2\nA=hunter2\nC={long}\nA=hunter2\n"),
            &["line 1: \"a/b\" is not a valid", "line 3: the value of C is too large", "line 4: A is on line 2 as well"][..],
        ),
        (
            None,
            "{\"A\": 1,\n\n\"B\": {\"x\": \"hunter2\"}, \"C\": [\"hunter2\"],\n\"D\": null, \"E\": \"hunter2\"}".to_owned(),
            &["line 1: A is a number", "line 3: B is an object", "line 3: C is a list", "line 4: D is null"],
        ),
        (None, "{\"A\": \"hunter2\",\n \"A\": \"hunter2\"}".to_owned(), &["line 2: A is on line 1 as well"]),
        (None, "A: hunter2\nB: 12\n".to_owned(), &["line 2: B is a number, not a text; put it in quotes"]),
        (None, "{\"A\": \"hunter2\"".to_owned(), &["line 1"]),
        (Some(ImportFormat::Env), "hunter2\n".to_owned(), &["line 1: there is no `=`"]),
        (Some(ImportFormat::Dotenv), "hunter2\n".to_owned(), &["line 1: there is no `=`"]),
        (Some(ImportFormat::Docker), "hunter2\n".to_owned(), &["line 1: there is no `=`"]),
    ] {
        let refused = read(format, &text).unwrap_err();
        for line in expected {
            assert!(refused.contains(line), "{line}: {refused}");
        }
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    let Err(refusal) = import(None, b"A=1\nB=\xff\n") else {
        panic!("it is read")
    };
    assert_eq!(
        refusal,
        Refusal::Malformed(vec!["line 2: not UTF-8".to_owned()])
    );
}

proptest! {
    #[test]
    fn every_value_that_is_exported_is_imported_as_it_was(
        values in prop::collection::vec(
            prop_oneof![any::<String>(), "[\\x00-\\x7f]{0,20}", "[ '\"\\\\$`#\\r\\n=~&;]{0,12}"], 1..6)
    ) {
        let named = values.iter().enumerate();
        let document: Document = named
            .map(|(at, value)| (format!("KEY_{at}").parse().unwrap(), SecretValue::new(value)))
            .collect();
        for (written, read) in [
            (BundleFormat::Env, ImportFormat::Env),
            (BundleFormat::DockerEnv, ImportFormat::Docker),
            (BundleFormat::Json, ImportFormat::Json),
            (BundleFormat::Yaml, ImportFormat::Yaml),
        ] {
            let bytes = render(written, &document);
            let imported = import(Some(read), &bytes).unwrap_or_else(|refusal| panic!("{read}: {refusal:?}"));
            let imported: Document = imported.into_iter().map(|entry| (entry.name, entry.value)).collect();
            let mut expected = document.clone();
            expected.retain(|name, value| refusal(written, name, value).is_none());
            prop_assert_eq!(imported, expected, "{}", read);
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic_or_quote_it(text in any::<String>()) {
        for format in [None, Some(ImportFormat::Env), Some(ImportFormat::Dotenv), Some(ImportFormat::Docker)] {
            let _ = import(format, text.as_bytes());
        }
    }
}
