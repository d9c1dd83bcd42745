//! `install-man`: what it writes is a right manual, and it writes nowhere else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::home::{Home, is_root, ran};
use crate::support::user::User;

fn pages(dir: &Path) -> Vec<PathBuf> {
    let sections = ["man1", "man5"].map(|section| fs::read_dir(dir.join(section)).unwrap());
    let entries = sections.into_iter().flatten().flatten();
    let mut pages: Vec<_> = entries.map(|entry| entry.path()).collect();
    pages.sort();
    pages
}

fn name_of(page: &Path) -> String {
    page.file_name().unwrap().to_string_lossy().into_owned()
}

/// A page as it is read, without its bold and underlined letters.
fn shown(page: &Path) -> String {
    let mut mandoc = Command::new("mandoc");
    let text = ran(mandoc.args(["-T", "utf8", "-O", "width=78"]).arg(page)).done();
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\u{8}' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    plain
}

#[test]
fn every_page_is_one_that_mandoc_groff_and_man_have_nothing_to_say_of() {
    let home = Home::new();
    home.run(&["install-man", "--dir", "man"]).done();
    let pages = pages(&home.path("man"));
    let names: Vec<String> = pages.iter().map(|page| name_of(page)).collect();
    let help = home.run(&["--help"]).done();
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let commands = commands.lines().take_while(|line| line.starts_with("  "));
    let commands: Vec<&str> = commands
        // What a command does may go on in the next line.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for page in commands.iter().chain(&["view-create", "cache-stats"]) {
        let page = format!("simpletuner-live-{page}.1");
        assert!(names.contains(&page), "{page} is missing");
    }
    assert!(names.contains(&"simpletuner-live.1".to_owned()));
    // What completion scripts ask is not for people.
    assert!(!names.iter().any(|name| name.contains("-complete.")));
    for page in &pages {
        let name = name_of(page);
        let lint = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(page)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&lint.stdout);
        assert!(lint.status.success(), "{name}: {said}");
        let groff = Command::new("groff")
            .args(["-man", "-ww", "-z", "-Tutf8", "-Kutf8"])
            .arg(page)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&groff.stderr);
        assert!(groff.status.success() && said.is_empty(), "{name}: {said}");

        let text = shown(page);
        let mut sections = vec![
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "EXAMPLES",
            "FILES",
            "SEE ALSO",
        ];
        if name.ends_with(".1") {
            sections.extend(["OPTIONS", "EXIT STATUS"]);
        }
        for section in sections {
            let is_there = text.lines().any(|line| line == section);
            assert!(is_there, "{name} has no {section}:\n{text}");
        }
        assert!(
            !text.contains('\u{2bc}') && !text.contains("\u{2dc}"),
            "{name}"
        );
        // Each page that another names exists.
        let see_also = text.split("\nSEE ALSO\n").nth(1).unwrap();
        let named: Vec<_> = see_also
            .split([',', ' ', '\n'])
            .filter(|word| word.contains('('))
            .collect();
        assert!(named.len() > 1, "{name}: {see_also}");
        for word in named.iter().filter(|word| word.starts_with("simpletuner")) {
            let file = word.trim_end_matches(')').replace('(', ".");
            assert!(names.contains(&file), "{name} names {word}");
        }
    }
    let text = shown(&home.path("man/man1/simpletuner-live-get.1"));
    assert!(
        text.contains("\n       eval \"$(simpletuner-live get HF_TOKEN WANDB_API_KEY)\""),
        "{text}"
    );
    let text = shown(&home.path("man/man5/simpletuner-live.yaml.5"));
    assert!(text.contains("ttl.default (seconds)"), "{text}");
    assert!(text.contains("~/.simpletuner/live.yaml"), "{text}");
    home.sh("MANWIDTH=80 man --manpath=man --warnings simpletuner-live-view-create 2>&1 | grep -q 'EXIT STATUS'");
}

#[test]
fn the_synopsis_of_a_page_is_the_usage_line_of_the_help() {
    let home = Home::new();
    home.run(&["install-man", "--dir", "man"]).done();
    let mut checked = 0;
    for page in pages(&home.path("man")) {
        let name = name_of(&page);
        let Some(command) = name.strip_suffix(".1") else {
            continue;
        };
        let text = shown(&page);
        // `NAME` begins with the command's words, each hyphen of which may be a blank.
        let synopsis = text.split("\nSYNOPSIS\n").nth(1).unwrap();
        let synopsis = synopsis.split("\nDESCRIPTION\n").next().unwrap();
        let synopsis: Vec<&str> = synopsis.split_whitespace().collect();
        let words: Vec<&str> = synopsis
            .iter()
            .copied()
            .skip(1)
            .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            .collect();
        let named = [&["simpletuner-live"], &*words].concat().join("-");
        assert_eq!(named, command);
        let help = home.run(&[&*words, &["--help"]].concat()).done();
        let usage = help.lines().find_map(|line| line.strip_prefix("Usage: "));
        assert_eq!(synopsis.join(" "), usage.unwrap(), "{name}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
    let help = home.run(&["run", "--help"]).done();
    assert!(help.contains("> -- <COMMAND>...\n"), "{help}");
    assert!(
        home.run(&["edit", "--help"])
            .done()
            .contains("edit [OPTIONS] <KEY>\n")
    );
}

#[test]
fn a_second_run_changes_nothing_and_only_pages_of_its_own_are_removed() {
    let home = Home::new();
    let run =
        |args: &[&str]| home.run(&[&["install-man", "--dir", "man", "--json"], args].concat());
    let first: Value = serde_json::from_str(&run(&[]).done()).unwrap();
    let count = first["written"].as_array().unwrap().len();
    assert_eq!(count, pages(&home.path("man")).len());
    let numbers = || {
        pages(&home.path("man"))
            .iter()
            .map(|page| fs::metadata(page).unwrap().ino())
            .collect::<Vec<_>>()
    };
    let before = numbers();
    let second: Value = serde_json::from_str(&run(&[]).done()).unwrap();
    assert_eq!(
        (&second["written"], &second["unchanged"]),
        (&serde_json::json!([]), &count.into())
    );
    assert_eq!(numbers(), before);

    let page = fs::read_to_string(home.path("man/man1/simpletuner-live-get.1")).unwrap();
    home.write("man/man1/simpletuner-live-gone.1", &page);
    home.write("man/man1/simpletuner-live-theirs.1", ".TH THEIRS 1\n");
    home.write("man/man1/theirs.1", &page);
    home.write("man/man1/simpletuner-live-get.1", &page.replace("HF", "X"));
    let third: Value = serde_json::from_str(&run(&[]).done()).unwrap();
    assert_eq!(third["written"].as_array().unwrap().len(), 1);
    assert_eq!(third["removed"].as_array().unwrap().len(), 1);
    assert!(!home.path("man/man1/simpletuner-live-gone.1").exists());
    assert!(home.path("man/man1/simpletuner-live-theirs.1").exists());
    assert!(home.path("man/man1/theirs.1").exists());
    assert_eq!(
        fs::read_to_string(home.path("man/man1/simpletuner-live-get.1")).unwrap(),
        page
    );

    // Another program's file in the place of a page is left, and nothing else is written either.
    fs::remove_file(home.path("man/man1/simpletuner-live-set.1")).unwrap();
    home.write("man/man1/simpletuner-live-get.1", ".TH THEIRS 1\n");
    let said = run(&[]).failed();
    assert!(
        said.contains("simpletuner-live-get.1 is not a page of install-man"),
        "{said}"
    );
    assert!(said.contains("--dir"), "{said}");
    assert!(!home.path("man/man1/simpletuner-live-set.1").exists());
}

#[test]
fn the_date_of_a_page_is_that_of_the_program_or_the_one_that_a_build_gives() {
    let home = Home::new();
    home.sh(&format!(
        "SOURCE_DATE_EPOCH=86400 '{}' install-man --dir one",
        crate::support::home::BINARY
    ));
    let page = fs::read_to_string(home.path("one/man1/simpletuner-live.1")).unwrap();
    assert!(
        page.contains(".TH SIMPLETUNER-LIVE 1 1970-01-02 \"simpletuner-live "),
        "{page}"
    );
    home.run(&["install-man", "--dir", "two"]).done();
    home.sh("sleep 0; diff -r one two | grep -c '^[<>]' > lines; [ $(cat lines) -gt 0 ]");
    home.run(&["install-man", "--dir", "three"]).done();
    home.sh("diff -r two three");
}

#[test]
fn an_ordinary_users_pages_are_their_own_and_everybody_may_read_them() {
    if !is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let user = User::new("nobody");
    let program = user.scratch.path("program");
    let said = user.try_sh(&format!(
        "umask 077; PATH=$HOME/.local/bin:$PATH '{}' install-man 2>&1",
        program.display()
    ));
    let said = said.done();
    assert!(said.contains("next: man simpletuner-live\n"), "{said}");
    let dir = user.path(".local/share/man");
    assert!(said.starts_with(dir.to_str().unwrap()), "{said}");
    for page in pages(&dir) {
        let found = fs::metadata(&page).unwrap();
        assert_eq!(
            (found.uid(), found.permissions().mode() & 0o777),
            (user.uid(), 0o644)
        );
    }
    user.sh("PATH=$HOME/.local/bin:$PATH man simpletuner-live-get | grep -q EXAMPLES");
    // Where it may not write, it says so.
    let said = user
        .run(&["install-man", "--dir", "/usr/share/man"])
        .failed();
    assert!(
        said.contains("/usr/share/man") && said.contains("Permission denied"),
        "{said}"
    );
    // Nowhere that man looks: it says how to read it.
    let said = user.run(&["install-man", "--dir", "my man"]);
    assert!(said.err.contains("next: man --manpath='"), "{}", said.err);
}
