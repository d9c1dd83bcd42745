//! The licences and the sources of all dependencies, by cargo alone: also where there is no network and no cargo-deny. And the
//! notices that go along with the program.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

const POLICY: &str = include_str!("../../deny.toml");
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The licences that `deny.toml` allows, one a line.
fn allowed() -> BTreeSet<&'static str> {
    let list = POLICY.split("allow = [").nth(1).unwrap();
    let list = list.split(']').next().unwrap();
    let items = list.lines().map(|line| line.trim().trim_end_matches(','));
    let items = items.filter_map(|item| item.strip_prefix('"')?.strip_suffix('"'));
    items.collect()
}

/// What cargo says without a network.
fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(args)
        .args(["--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn dependencies() -> Vec<Value> {
    let said = cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let all: Value = serde_json::from_str(&said).unwrap();
    let packages = all["packages"].as_array().unwrap().iter();
    let others = packages.filter(|package| package["name"] != env!("CARGO_PKG_NAME"));
    others.cloned().collect()
}

/// Which of the licences a package must be used under, for an expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`: the first
/// that is allowed of each alternative. `None`: none is.
fn needed(expression: &str, allowed: &BTreeSet<&str>) -> Option<Vec<String>> {
    let mut needed = Vec::new();
    for part in expression.split(" AND ") {
        let part = part.trim_matches(['(', ')']).replace('/', " OR ");
        let mut choices = part.split(" OR ").map(str::trim);
        needed.push(choices.find(|one| allowed.contains(one))?.to_owned());
    }
    Some(needed)
}

#[test]
fn every_dependency_is_of_crates_io_and_has_a_licence_that_deny_toml_allows() {
    let allowed = allowed();
    let all = dependencies();
    assert!(all.len() > 300, "{}", all.len());
    let mut used = BTreeSet::new();
    let mut refused = Vec::new();
    for package in &all {
        let text = |field: &str| package[field].as_str().unwrap_or("none").to_owned();
        let (name, licence) = (text("name"), text("license"));
        if text("source") != CRATES_IO {
            refused.push(format!("{name} is of {}", text("source")));
        }
        match needed(&licence, &allowed) {
            Some(needed) if !needed.is_empty() => {
                // A choice needs no line of its own.
                if !licence.contains([' ', '/']) || licence.contains(" AND ") {
                    used.extend(needed);
                }
            }
            _ => refused.push(format!("{name}: {licence}")),
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    let needless: Vec<_> = allowed.iter().filter(|one| !used.contains(**one)).collect();
    assert!(
        needless.is_empty(),
        "deny.toml allows {needless:?} for nothing"
    );
}

/// The crates that are linked into the program, as `NAME VERSION`. Macros are not: they run in the compiler.
fn linked() -> BTreeSet<String> {
    let said = cargo(&["tree", "--edges=normal,no-proc-macro", "--prefix=none"]);
    let own = concat!(env!("CARGO_PKG_NAME"), " v");
    let others = said.lines().filter(|line| !line.starts_with(own));
    let name = |line: &str| {
        let (name, rest) = line.split_once(" v").unwrap();
        format!("{name} {}", rest.split(' ').next().unwrap())
    };
    others.map(name).collect()
}

#[test]
fn each_crate_that_is_linked_into_the_program_has_its_notice_in_the_package() {
    let output = Command::new("scripts/notices")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let notices = String::from_utf8(output.stdout).unwrap();
    let rule = "-".repeat(100);
    // Of each text: the crates that have it, and the text.
    let parts: Vec<(&str, &str)> = notices
        .split(&format!("\n{rule}\n"))
        .skip(2)
        .map(|part| part.split_once("\n\n").unwrap())
        .collect();
    let linked = linked();
    assert!(linked.len() > 200, "{}", linked.len());
    for name in &linked {
        let has_it = |crates: &str| {
            crates
                .lines()
                .any(|line| line.starts_with(&format!("{name} (")))
        };
        let texts = parts.iter().filter(|(crates, _)| has_it(crates));
        let texts: Vec<_> = texts.map(|(_, text)| text.to_lowercase()).collect();
        let is_notice = |text: &String| text.contains("copyright") || text.contains("licen");
        assert!(texts.iter().any(is_notice), "{name}: {texts:?}");
    }
    // Whose notice says who, where its folder has no file that does.
    let who = "Copyright (c) Jack Grigg <thestr4d@gmail.com>\n";
    let age = parts.iter().find(|(crates, _)| crates.starts_with("age "));
    assert!(age.unwrap().1.contains(who), "{age:?}");
    for library in [
        "Copyright 2015-2025 Brian Smith.",
        "The standard library of rustc",
    ] {
        assert!(notices.contains(library), "{library}");
    }
}

#[test]
fn an_expression_is_fulfilled_only_by_a_licence_of_each_of_its_parts() {
    let allowed = BTreeSet::from(["MIT", "Unicode-3.0"]);
    let holds = |expression: &str| needed(expression, &allowed).is_some();
    for expression in [
        "MIT",
        "GPL-2.0-only OR MIT",
        "Apache-2.0/MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(holds(expression), "{expression}");
    }
    for expression in [
        "none",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MIT-0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(!holds(expression), "{expression}");
    }
}
