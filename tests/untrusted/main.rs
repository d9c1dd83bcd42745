//! Files, databases and trails that an attacker may have made or changed are not used, and the error says why. The tests
//! with other users need root.

#[path = "../support/mod.rs"]
mod support;

mod attackers;
mod disk;
mod hostile;

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use support::home::{BINARY, Home, is_root, ran};
use support::user::User;

/// The number of `daemon`, a user who attacks.
const ANOTHER: u32 = 1;

/// Root and an ordinary user, each with a home.
fn users() -> Vec<User> {
    match is_root() {
        true => vec![User::new("root"), User::new("nobody")],
        false => Vec::new(),
    }
}

fn database(path: &Path, sql: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

const TABLE: &str = "CREATE TABLE provider_config (provider TEXT PRIMARY KEY, config TEXT NOT NULL, updated_at TEXT NOT NULL);";
