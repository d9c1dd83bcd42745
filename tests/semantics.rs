//! SEMANTICS.md: each of its rules has a number and at least one test, and each test that it names exists.

use std::fs;
use std::path::Path;

/// The code span contents of a line.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The numbers and the tests of all table rows of a section: `| 1.2 | `file::test`, `src::file::test` |`.
fn rows(section: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter_map(|row| Some((row.split_once(" |")?.0, quoted(row))));
    rows.filter(|(number, _)| !matches!(*number, "rule" | "---"))
        .collect()
}

/// What is wrong with a page, of which `exists` says whether a test exists.
fn flaws(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut flaws = Vec::new();
    for (section, number) in page.split("\n## ").skip(1).zip(1..) {
        if !section.starts_with(&format!("{number}. ")) {
            flaws.push(format!("section {number} is {:?}", section.lines().next()));
        }
        let rules = section.lines().filter_map(|line| line.strip_prefix("- **"));
        let rules: Vec<&str> = rules
            .filter_map(|rule| Some(rule.split_once("** ")?.0))
            .collect();
        let numbers: Vec<String> = (1..=rules.len())
            .map(|at| format!("{number}.{at}"))
            .collect();
        if rules != numbers {
            flaws.push(format!("section {number} has the rules {rules:?}"));
        }
        let rows = rows(section);
        let tested: Vec<&str> = rows.iter().map(|(rule, _)| *rule).collect();
        if rules.is_empty() || tested != rules {
            flaws.push(format!(
                "section {number}: {rules:?} have the rows {tested:?}"
            ));
        }
        for (rule, tests) in rows {
            if tests.is_empty() {
                flaws.push(format!("rule {rule} has no test"));
            }
            let missing = tests.into_iter().filter(|test| !exists(test));
            flaws.extend(missing.map(|test| format!("{test} of rule {rule} does not exist")));
        }
    }
    flaws
}

/// Whether `file::test` or `folder::file::test` is a test of `tests/`, or `src::file::test` one beside the code.
fn is_test(path: &str) -> bool {
    let Some((file, name)) = path.rsplit_once("::") else {
        return false;
    };
    let mut file = format!("{}.rs", file.replace("::", "/"));
    if !file.starts_with("src/") {
        file.insert_str(0, "tests/");
    }
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    let text = text.unwrap_or_default();
    let mut lines = text.lines().map(str::trim_start);
    let Some(at) = lines.position(|line| line.starts_with(&format!("fn {name}("))) else {
        return false;
    };
    let before: Vec<&str> = text.lines().take(at).map(str::trim_start).collect();
    let mut attributes = before
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#["));
    attributes.any(|line| *line == "#[test]")
        && !before[at.saturating_sub(2)..].contains(&"#[ignore]")
}

#[test]
fn every_rule_of_the_page_has_a_test_that_exists() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("SEMANTICS.md");
    let page = fs::read_to_string(page).unwrap();
    let flaws = flaws(&page, is_test);
    assert!(flaws.is_empty(), "{flaws:#?}");
    assert!(
        page.matches("\n- **").count() > 150,
        "the rules have another form"
    );
}

#[test]
fn a_rule_without_a_test_and_a_test_that_does_not_exist_are_found() {
    let page = |rules: &str, rows: &str| {
        let page = format!(
            "# Page\n## 1. Names\n\n{rules}\n\n| rule | tests |\n| --- | --- |\n{rows}\n\nText.\n"
        );
        flaws(&page, |test| test == "a::b")
    };
    let two = "- **1.1** One.\n- **1.2** Two\n  lines.";
    assert!(page(two, "| 1.1 | `a::b` |\n| 1.2 | `a::b`, `a::b` |").is_empty());
    for (rules, rows) in [
        (two, "| 1.1 | `a::b` |"),
        (two, "| 1.1 | `a::b` |\n| 1.2 | |"),
        (two, "| 1.1 | `a::b` |\n| 1.2 | `a::b`, `a::c` |"),
        (two, "| 1.1 | `a::b` |\n| 1.2 | `a::b` |\n| 1.3 | `a::b` |"),
        (
            "- **1.1** One.\n- **1.3** Three.",
            "| 1.1 | `a::b` |\n| 1.3 | `a::b` |",
        ),
        ("No rule.", ""),
    ] {
        assert_ne!(page(rules, rows), [""; 0], "{rules}\n{rows}");
    }
    assert!(is_test(
        "semantics::a_rule_without_a_test_and_a_test_that_does_not_exist_are_found"
    ));
    assert!(!is_test("semantics::is_test"), "not a test");
    assert!(!is_test("semantics::no_such_test"));
}
