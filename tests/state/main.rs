//! SimpleTuner's databases, which both programs use at the same time. Python's standard `sqlite3` plays SimpleTuner.

mod audit;
mod audit_faults;
mod audit_rows;
mod config;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::home::{Home, is_root, ran, signal};
use support::{Live, Setup, alone, log_with, wait_until};

const SIMPLETUNER: &str = include_str!("simpletuner.py");

/// A Python program that acts as SimpleTuner in a home's state folder.
fn python_in(home: &Path, program: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-c", &format!("{SIMPLETUNER}\n{program}")])
        .env("STATE", home.join(".simpletuner"))
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// Runs such a program, which must succeed; returns its output.
#[track_caller]
fn simpletuner(home: &Path, program: &str) -> String {
    ran(&mut python_in(home, program)).done()
}

/// Such a program that prints a line when it is ready (with a lock held, say), and then waits for `let_go`.
struct Holding(Child);

impl Holding {
    fn start(home: &Path, before: &str, after: &str) -> Self {
        let program =
            format!("{before}\nprint('ready', flush=True)\nsys.stdin.readline()\n{after}");
        let mut child = python_in(home, &program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn let_go(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

/// A home with SimpleTuner's databases.
fn home_of_simpletuner() -> tempfile::TempDir {
    let home = support::scratch_home();
    simpletuner(
        home.path(),
        "c = jobs()
save(c, 'replicate', {'webhook_url': 'https://example.com/hook', 'webhook_secret': 'hunter2', 'cost_limit_amount': 10.5})
c.execute(\"INSERT INTO jobs VALUES ('1', 'running')\")
a = audit()
append(a, 'provider.configured', 'Provider replicate configured', 7)",
    );
    home
}

fn mounted(home: tempfile::TempDir) -> Live {
    Live::start_in(home, Setup::default())
}
