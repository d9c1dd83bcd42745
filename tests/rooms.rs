//! The map of the rooms in `src/lib.rs` is complete, and no room uses one above it. The tables of dependencies and threads in
//! `docs/architecture.md` are complete, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order of the map.
fn map() -> Vec<String> {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! - "));
    let name = |row: &str| {
        let name = row.trim_start_matches(['[', '`']);
        let end = name.find('`').unwrap();
        name[..end].to_owned()
    };
    rows.map(name).collect()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The files of a room, without its tests.
fn files_of(path: PathBuf) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().flatten();
        return entries.flat_map(|entry| files_of(entry.path())).collect();
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let is_code = name.ends_with(".rs") && !name.ends_with("tests.rs");
    is_code.then_some(path).into_iter().collect()
}

/// The rooms that a file's code names by `crate::`; tests may use any.
fn used_by(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let word = |text: &str| -> String {
        let is_word = |c: &char| c.is_ascii_lowercase() || *c == '_';
        text.chars().take_while(is_word).collect()
    };
    let mut used = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap();
                used.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => used.push(word(after)),
        }
    }
    used
}

#[test]
fn no_room_uses_one_above_it() {
    let map = map();
    let mut arrows_up = Vec::new();
    for (at, room) in map.iter().enumerate() {
        let mut files = files_of(src().join(format!("{room}.rs")));
        files.retain(|file| file.exists());
        if src().join(room).is_dir() {
            files.extend(files_of(src().join(room)));
        }
        assert!(
            !files.is_empty(),
            "src/lib.rs names {room}, which does not exist"
        );
        for file in files {
            for used in used_by(&file) {
                if map[..at].contains(&used) {
                    arrows_up.push(format!("{} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(arrows_up.is_empty(), "{arrows_up:#?}");
}

#[test]
fn every_room_is_on_the_map() {
    let map = map();
    for entry in fs::read_dir(src()).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_room = path.is_dir() || path.extension().is_some_and(|e| e == "rs");
        if is_room && !["lib", "main"].contains(&&*name) {
            assert!(map.contains(&name), "src/lib.rs does not name {name}");
        }
    }
}

fn text_of(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// A section of `docs/architecture.md`.
fn section(title: &str) -> String {
    let text = text_of("docs/architecture.md");
    let mut sections = text.split("\n## ");
    let section = sections.find(|section| section.starts_with(title));
    section.unwrap().to_owned()
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_direct_dependency_has_a_line_that_says_why() {
    let manifest = text_of("Cargo.toml");
    let mut wanted = BTreeSet::new();
    for section in manifest.split("\n[") {
        if section.starts_with("dependencies]") || section.starts_with("dev-dependencies]") {
            let keys = section.lines().filter_map(|line| line.split_once(" = "));
            wanted.extend(keys.map(|(key, _)| key).filter(|key| !key.starts_with('#')));
        }
    }
    assert!(wanted.contains("rustix") && wanted.contains("proptest"));
    let section = section("Dependencies");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: String = rows
        .map(|row| format!("`{}", row.split('|').next().unwrap()))
        .collect();
    assert_eq!(quoted(&rows), wanted);
}

#[test]
fn every_thread_is_in_the_table_of_threads() {
    let section = section("Threads of the server");
    let known = quoted(&section);
    let mut names = 0;
    for file in files_of(src()) {
        if file == src().join("sync.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for call in ["thread::Builder", "thread::spawn"] {
            assert!(!code.contains(call), "{call} in {}", file.display());
        }
        // The last one is for the audit trails.
        for before in [
            "sync::spawn(",
            "sync::within(",
            "Worker::start(",
            "THREAD: &'static str =",
        ] {
            let calls = code.split(before).skip(1);
            for name in calls.filter_map(|call| call.trim_start().strip_prefix('"')) {
                let name = name.split('"').next().unwrap();
                assert!(known.contains(name), "{name} in {}", file.display());
                assert!(name.len() <= 15, "the kernel cuts {name} off");
                names += 1;
            }
        }
    }
    assert!(names > 10, "{names}");
}
