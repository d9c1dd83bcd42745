//! The README and the guide show what really comes out: each of their `console` blocks is typed at a terminal, one page in
//! one scratch home, as root and as an ordinary user. Other blocks show files, which are tried as such.

mod page;
#[path = "../support/servers/mod.rs"]
mod servers;
mod session;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use page::Page;
use session::Session;
use support::home::{Home, is_root};

/// The pages whose blocks are run, and how many of those blocks are not, because they need what a test has not: a service
/// manager, a container engine, an account, an answer at the terminal.
const PAGES: [(&str, usize); 4] = [
    ("README.md", 0),
    ("docs/guide.md", 1),
    ("docs/operation.md", 2),
    (RECIPES, 0),
];

/// Some of its recipes need programs that no test has. They are in blocks of other languages, and were tried by hand.
const RECIPES: &str = "docs/recipes.md";

#[test]
fn the_readme_shows_what_comes_out() {
    shows_what_comes_out("README.md");
}

#[test]
fn the_guide_shows_what_comes_out() {
    shows_what_comes_out("docs/guide.md");
}

#[test]
fn the_page_on_operation_shows_what_comes_out() {
    shows_what_comes_out("docs/operation.md");
}

#[test]
fn the_recipes_show_what_comes_out() {
    shows_what_comes_out(RECIPES);
}

#[track_caller]
fn shows_what_comes_out(page: &str) {
    if !is_root() {
        return;
    }
    let page = Page::read(page);
    assert!(!page.steps().is_empty(), "{} shows no command", page.name);
    let users = ["root", "nobody"].map(Session::new);
    let flaws: Vec<String> = users.iter().flat_map(|user| user.flaws(&page)).collect();
    assert!(flaws.is_empty(), "\n{}", flaws.join("\n"));
}

#[test]
fn a_page_that_shows_something_else_is_found() {
    if !is_root() {
        return;
    }
    let steps = [
        // As it is.
        ("echo one; echo two", "one\ntwo", true),
        ("seq 9", "1\n...\n8\n9", true),
        ("echo a long line of it", "a...line ...it", true),
        (
            "echo ~/x; date -u +%FT%TZ",
            "/home/me/x\n2026-01-01T00:00:00Z",
            true,
        ),
        ("cat <<E\n> three\n> E", "three", true),
        ("false", "", true),
        ("cd /; pwd", "/", true),
        ("pwd", "/", true),
        (
            "[ -t 1 ] && [ -t 2 ] && echo at a terminal",
            "at a terminal",
            true,
        ),
        // A line that is changed, missing, too much, or of another order.
        ("echo one", "ones", false),
        ("echo one", "", false),
        ("echo one", "one\ntwo", false),
        ("echo one; echo two", "two\none", false),
        ("seq 9", "1\n...\n7\n9", false),
        ("echo 12", "13", false),
        ("echo a long line of it", "a...line ...its", false),
    ];
    let blocks = steps.map(|(typed, shown, _)| match shown {
        "" => format!("```console\n$ {typed}\n```\n"),
        shown => format!("```console\n$ {typed}\n{shown}\n```\n"),
    });
    let page = Page {
        name: "page".to_owned(),
        text: blocks.concat(),
    };
    let flaws = Session::new("root").flaws(&page);
    let wrong: Vec<_> = steps.iter().filter(|step| !step.2).collect();
    assert_eq!(flaws.len(), wrong.len(), "{}", flaws.join("\n"));
}

#[test]
fn commands_are_shown_in_blocks_that_are_run_and_the_few_others_are_counted() {
    for (name, not_run) in PAGES {
        let page = Page::read(name);
        let blocks = page.blocks();
        for block in &blocks {
            let place = format!("{name}:{}", block.line);
            let commands = block.lines.iter().any(|line| line.starts_with("$ "));
            assert_eq!(commands, block.language == "console", "{place}");
            // A command in another block would be run by nobody.
            let language = block.language.split(',').next().unwrap();
            assert!(
                ["console", "yaml", "rust"].contains(&language) || name == RECIPES,
                "{place}: {language}"
            );
        }
        let marked = blocks.iter().filter(|block| block.not_run.is_some());
        assert_eq!(
            marked.count(),
            not_run,
            "{name} has other blocks that are not run"
        );
    }
}

/// All pages for people.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.file_name().display()));
    let mut names: Vec<String> = docs.filter(|name| name.ends_with(".md")).collect();
    names.extend(
        [
            "README.md",
            "SEMANTICS.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
        ]
        .map(String::from),
    );
    names.iter().map(|name| Page::read(name)).collect()
}

#[test]
fn every_settings_file_that_a_page_shows_is_accepted() {
    let home = Home::new();
    let mut tried = 0;
    for page in pages() {
        for block in page
            .blocks()
            .iter()
            .filter(|block| block.language == "yaml")
        {
            home.write("live.yaml", &(block.lines.join("\n") + "\n"));
            let ran = home.run(&["settings", "--config", "live.yaml"]);
            assert_eq!(ran.code, 0, "{}:{}: {}", page.name, block.line, ran.err);
            tried += 1;
        }
    }
    assert!(tried > 8, "{tried}");
}

/// The anchors of a page's headings, as they are made on the web.
fn anchors(page: &Page) -> BTreeSet<String> {
    let headings = page.text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dead = Vec::new();
    for page in pages() {
        let folder = Path::new(&page.name).parent().unwrap();
        let links = page.text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => root.join(&page.name),
                file => root.join(folder).join(file),
            };
            let leads = path.exists()
                && (anchor.is_empty() || {
                    let text = fs::read_to_string(&path).unwrap();
                    let name = path.display().to_string();
                    anchors(&Page { name, text }).contains(anchor)
                });
            if !leads {
                dead.push(format!("{}: {link}", page.name));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn the_readme_is_short() {
    let lines = Page::read("README.md").text.lines().count();
    assert!((100..=150).contains(&lines), "{lines} lines");
}
