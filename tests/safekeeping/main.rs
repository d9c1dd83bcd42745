//! No value is lost without a word: what was changed or removed can be set back, and no file gets values of two keys.

mod history;
#[path = "../support/mod.rs"]
mod support;
mod undo;
mod wrong_key;

use support::home::Home;

/// Both ways of the command line: through a running mount, and past it.
const WAYS: [&[&str]; 2] = [&[], &["--no-mount"]];

fn set(home: &Home, key: &str, value: &str) {
    home.run_with(value, &["set", key]).done();
}

fn get(home: &Home, key: &str) -> String {
    home.run(&["get", key]).done()
}

/// A setting in `live.yaml`.
fn settings(home: &Home, text: &str) {
    home.write(".simpletuner/live.yaml", text);
}

/// The names of what `~/.simpletuner` holds.
fn files(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.path(".simpletuner")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
