//! SEMANTICS.md: each of its rules has a number and at least one test, and each test that it names exists. So do those that
//! the table of waits in `docs/architecture.md` names, and `docs/security.md`.

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
        let last = section.trim_end().lines().next_back().unwrap_or_default();
        if !last.starts_with("| ") {
            flaws.push(format!("section {number} has text below its table"));
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

fn text_of(page: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
}

/// The tests that a part of a page names, and which of them do not exist.
fn tests_in(text: &str) -> (usize, Vec<&str>) {
    let named = quoted(text).into_iter().filter(|name| name.contains("::"));
    let named: Vec<&str> = named.collect();
    let missing = named.iter().copied().filter(|name| !is_test(name));
    (named.len(), missing.collect())
}

/// The parts of a text that name no test, or one that does not exist.
fn untested<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let flaw = |part: &str| {
        let (named, missing) = tests_in(part);
        (named == 0 || !missing.is_empty()).then(|| format!("{part}: {missing:?}"))
    };
    parts.filter_map(flaw).collect()
}

#[test]
fn everything_that_is_waited_for_has_a_bound_and_a_test() {
    let page = text_of("docs/architecture.md");
    let mut sections = page.split("\n## ");
    let section = sections.find(|section| section.starts_with("Waits"));
    let rows = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows
        .skip(1)
        .filter(|row| !row.starts_with("| ---"))
        .collect();
    assert!(rows.len() > 15, "the table has another form: {rows:?}");
    for row in &rows {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(columns.len(), 5, "{row}");
        assert!(columns.iter().all(|column| !column.is_empty()), "{row}");
    }
    let flaws = untested(rows.iter().copied());
    assert!(flaws.is_empty(), "{flaws:#?}");
}

#[test]
fn every_statement_about_an_attacker_was_tried() {
    let page = text_of("docs/security.md");
    let attackers: Vec<&str> = page.split("\n## ").skip(1).collect();
    assert_eq!(attackers.len(), 6, "{attackers:?}");
    for attacker in attackers {
        // A statement is an item of a list, with its following lines.
        let statements = attacker.split("\n- ").skip(1);
        let statements = statements.map(|text| text.split("\n\n").next().unwrap_or(text));
        let flaws = untested(statements.clone());
        assert!(flaws.is_empty(), "{flaws:#?}");
        for kind in ["**can**", "**cannot**"] {
            assert!(
                statements.clone().any(|text| text.starts_with(kind)),
                "{kind}: {attacker}"
            );
        }
        assert!(
            statements.clone().all(|text| text.starts_with("**can")),
            "{attacker}"
        );
    }
}

#[test]
fn a_rule_without_a_test_and_a_test_that_does_not_exist_are_found() {
    let page = |rules: &str, rows: &str| {
        let page = format!(
            "# Page\n## 1. Names\n\n{rules}\n\nText.\n\n| rule | tests |\n| --- | --- |\n{rows}\n"
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
        (two, "| 1.1 | `a::b` |\n| 1.2 | `a::b` |\n\nText."),
    ] {
        assert_ne!(page(rules, rows), [""; 0], "{rules}\n{rows}");
    }
    assert!(is_test(
        "semantics::a_rule_without_a_test_and_a_test_that_does_not_exist_are_found"
    ));
    assert!(!is_test("semantics::is_test"), "not a test");
    assert_eq!(
        untested(
            [
                "a `b`",
                "`semantics::none`",
                "`semantics::a_rule_without_a_test_and_a_test_that_does_not_exist_are_found`"
            ]
            .into_iter()
        )
        .len(),
        2
    );
    assert!(!is_test("semantics::no_such_test"));
}
