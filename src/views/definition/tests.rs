use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<ViewDefinition> {
    ViewDefinition::parse("v", text.as_bytes())
}

fn reason(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_definition_is_read_with_its_defaults() {
    let all = r#"{"secrets": ["HF_*", "WANDB_API_KEY"], "files": {"token": "HF_TOKEN"}, "user": "1000", "group": "ml",
        "mode": "0440", "documents": ["env", "json"]}"#;
    let all = parse(all).unwrap();
    assert_eq!((all.user.as_deref(), all.mode), (Some("1000"), 0o440));
    assert_eq!(all.documents, DocumentFormat::ALL);
    let least = parse(r#"{"secrets": ["A"]}"#).unwrap();
    assert_eq!((least.user, least.group, least.mode), (None, None, 0o400));
    assert_eq!(
        parse(r#"{"secrets":["A"],"user":1000}"#).unwrap().user,
        Some("1000".into())
    );
}

#[test]
fn what_is_wrong_in_a_definition_is_said_and_where() {
    for (text, words) in [
        ("", "it must be a JSON object"),
        ("[]", "it must be a JSON object"),
        ("{}", "it has no secrets"),
        (
            r#"{"secrets":["A"],"secret":["B"]}"#,
            "did you mean \"secrets\"?",
        ),
        (
            r#"{"secrets":["A"],"xxxxxxxxxxxx":1}"#,
            "the fields are secrets, files",
        ),
        (
            r#"{"secrets":["A"],"secrets":["B"]}"#,
            "\"secrets\" is there twice",
        ),
        (r#"{"secrets":"A"}"#, "\"secrets\" must be a list of texts"),
        (r#"{"secrets":["a/b"]}"#, "only letters, digits"),
        (r#"{"secrets":["a\nb"]}"#, "only letters, digits"),
        (
            r#"{"files":{"a":"X","a":"Y"}}"#,
            "the file \"a\" is there twice",
        ),
        (r#"{"files":{"../a":"X"}}"#, "the file name \"../a\""),
        (r#"{"files":{"..":"X"}}"#, "the file name \"..\""),
        (r#"{"files":{"a\nb":"X"}}"#, "the file name \"a\\nb\""),
        (r#"{"files":{"a":"X/Y"}}"#, "the secret name \"X/Y\""),
        (r#"{"files":{"a":1}}"#, "the name of a secret for each file"),
        (r#"{"files":["a"]}"#, "\"files\" must be an object"),
        (
            r#"{"files":{"secrets.env":"A"},"documents":["env"]}"#,
            "secrets.env is there twice",
        ),
        (
            r#"{"secrets":["A"],"documents":["yaml"]}"#,
            "\"env\" and \"json\"",
        ),
        (
            r#"{"secrets":["A"],"mode":"0600"}"#,
            "nothing but bits to read",
        ),
        (
            r#"{"secrets":["A"],"mode":"0500"}"#,
            "nothing but bits to read",
        ),
        (
            r#"{"secrets":["A"],"mode":"0"}"#,
            "nothing but bits to read",
        ),
        (
            r#"{"secrets":["A"],"mode":"+440"}"#,
            "nothing but bits to read",
        ),
        (r#"{"secrets":["A"],"mode":440}"#, "\"mode\" must be a text"),
        (
            r#"{"secrets":["A"],"user":"4294967295"}"#,
            "0 to 4294967294",
        ),
        (r#"{"secrets":["A"],"user":""}"#, "a name or a number"),
        (r#"{"secrets":["A"],"user":"a:b"}"#, "without spaces"),
        (r#"{"secrets":["A"],"user":-1}"#, "a name or a number"),
        (
            r#"{"secrets":["A"],"group":["x"]}"#,
            "\"group\" must be a name or a number",
        ),
    ] {
        let said = reason(text);
        assert!(said.contains(words), "{text}: {said}");
        assert!(said.starts_with("the view v: "), "{said}");
        assert_eq!(parse(text).unwrap_err().errno(), libc::EINVAL);
    }
}

#[test]
fn a_definition_and_its_parts_have_bounds() {
    let long = format!(r#"{{"secrets":["A"]{}}}"#, " ".repeat(MAX_DEFINITION));
    assert_eq!(parse(&long).unwrap_err().errno(), libc::EFBIG);
    let many = vec!["\"A\""; MAX_PATTERNS + 1].join(",");
    assert!(reason(&format!(r#"{{"secrets":[{many}]}}"#)).contains("at most 1000 patterns"));
    for bad in ["", "a/b", "..", ".x", "a\n", "x~", &"x".repeat(251)] {
        assert_eq!(
            check_name(bad).unwrap_err().errno(),
            libc::EINVAL,
            "{bad:?}"
        );
    }
    check_name(&"x".repeat(250)).unwrap();
}

#[test]
fn a_file_holds_the_document_before_the_named_secret_before_what_a_pattern_matches() {
    let view = r#"{"secrets":["HF_*","K","s*"],"files":{"HF_TOKEN":"OTHER"},"documents":["env"]}"#;
    let view = parse(view).unwrap();
    let name = |name: &str| SecretName::new(name).unwrap();
    let content = |file: &str| view.content_of(file);
    assert_eq!(
        content("secrets.env"),
        Some(FileContent::Document(DocumentFormat::Env))
    );
    assert_eq!(
        content("HF_TOKEN"),
        Some(FileContent::Secret(name("OTHER")))
    );
    assert_eq!(content("HF_X"), Some(FileContent::Matched(name("HF_X"))));
    assert_eq!(content("K"), Some(FileContent::Secret(name("K"))));
    assert_eq!(
        content("secrets.json"),
        Some(FileContent::Matched(name("secrets.json")))
    );
    for none in ["k", "OTHER", "sx~", "s/x", ""] {
        assert_eq!(content(none), None, "{none:?}");
    }
}

proptest! {
    #[test]
    fn a_definition_is_the_same_after_it_was_written_and_read(
        secrets in proptest::collection::vec("[A-Z_*?][A-Z0-9_.*?-]{0,20}", 1..5),
        files in proptest::collection::btree_map("[a-z][a-z0-9_.-]{0,20}[a-z]", "[A-Z][A-Z0-9_]{0,20}", 0..5),
        user in proptest::option::of("[a-z0-9]{1,9}"),
        mode in 1u16..8,
        documents in proptest::sample::subsequence(vec!["env", "json"], 0..=2),
    ) {
        let mode = format!("{:04o}", (mode & 4) << 6 | (mode & 2) << 4 | (mode & 1) << 2);
        let mut text = json!({"secrets": secrets, "files": files, "mode": mode, "documents": documents});
        if let Some(user) = user {
            text["user"] = json!(user);
        }
        let parsed = parse(&text.to_string()).unwrap();
        let again = parse(&parsed.to_json().to_string()).unwrap();
        prop_assert_eq!(parsed, again);
    }

    #[test]
    fn no_text_is_parsed_without_an_answer(text in "\\PC{0,80}") {
        let _ = parse(&text);
    }
}
