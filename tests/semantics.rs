//! Every test that SEMANTICS.md names is there.

use std::fs;
use std::path::{Path, PathBuf};

/// The names in backticks inside square brackets: `[`file::test`, `file::test`]`.
fn named(page: &str) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for bracket in page
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split(']').next())
    {
        for quoted in bracket.split('`').skip(1).step_by(2) {
            let (file, test) = quoted.rsplit_once("::").unwrap_or(("", ""));
            let is_word = |word: &str| {
                !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            if file.split("::").all(is_word) && is_word(test) {
                names.push((file.to_owned(), test.to_owned()));
            }
        }
    }
    names
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = named(&fs::read_to_string(root.join("SEMANTICS.md")).unwrap());
    assert!(named.len() > 20, "the page names its tests in another way");
    let mut files = Vec::new();
    for dir in ["tests", "src"] {
        rust_files(&root.join(dir), &mut files);
    }
    let sources: Vec<(String, String)> = files
        .into_iter()
        .map(|path| {
            let place = path.strip_prefix(root).unwrap().with_extension("");
            let text = fs::read_to_string(&path).unwrap();
            (place.display().to_string(), text)
        })
        .collect();
    // `file::test` is in tests/file.rs, in a module of tests/file/, or in src/file.
    let exists = |file: &str, test: &str| {
        let file = file.replace("::", "/");
        sources.iter().any(|(place, text)| {
            let inside = place.split_once('/').unwrap().1;
            (inside == file || inside.starts_with(&format!("{file}/")))
                && text.contains(&format!("fn {test}("))
        })
    };
    let missing: Vec<String> = named
        .iter()
        .filter(|(file, test)| !exists(file, test))
        .map(|(file, test)| format!("{file}::{test}"))
        .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

#[test]
fn the_notation_of_the_page_is_read() {
    let page =
        "a rule [`a::b`,\n  `c::d::e`], `file::name` is an example, [text](link) and [`no test`]";
    let pairs = [("a", "b"), ("c::d", "e")];
    assert_eq!(
        named(page),
        pairs.map(|(file, test)| (file.to_owned(), test.to_owned()))
    );
}
