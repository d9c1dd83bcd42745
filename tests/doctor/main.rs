//! `doctor`: each check is broken, found, and mended by the command that it prints.

mod backends;
mod backups;
mod here;
mod machine;
mod mount;
mod ordinary;
mod programs;
#[path = "../support/servers/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::Value;
use support::home::{BINARY, CommandOutput, Home, ran};

/// What no output may show.
const VALUE: &str = "hunter2";

/// A home in which the commands that `doctor` prints can be run.
pub struct Patient {
    pub home: Home,
    /// Variables of each command.
    pub env: Vec<(&'static str, String)>,
}

impl Patient {
    pub fn healthy() -> Self {
        let home = Home::new();
        // Root needs none, and a machine may have none.
        home.write("bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
        let sudo = home.path("bin/sudo");
        std::fs::set_permissions(sudo, PermissionsExt::from_mode(0o755)).unwrap();
        symlink(BINARY, home.path("bin/simpletuner-live")).unwrap();
        home.sh("mkdir -m 700 .simpletuner");
        Self {
            home,
            env: Vec::new(),
        }
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = self.home.command(program);
        let path = std::env::var("PATH").unwrap();
        let bin = self.home.path("bin");
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// What a shell prints, whatever its exit code.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        ran(self.command("bash").args(["-c", script])).done()
    }

    pub fn doctor(&self) -> Report {
        Report::of(ran(self.command(BINARY).args(["doctor", "--json"])))
    }

    /// The check as `doctor` finds it now.
    #[track_caller]
    pub fn check(&self, id: &str) -> Found {
        self.doctor().check(id)
    }

    /// Breaks something, has the check find it and say `expected`, and mends it by the command that it prints.
    #[track_caller]
    pub fn breaks(&self, script: &str, id: &str, expected: &str) {
        self.sh(script);
        self.mends(id, expected, |fix| fix.to_owned());
    }

    /// The check says `expected`, and says it no more after the command that it prints, with what `filled` puts in for a person.
    #[track_caller]
    pub fn mends(&self, id: &str, expected: &str, filled: impl Fn(&str) -> String) -> Found {
        let found = self.check(id);
        let finding = found.finding(expected);
        let fix = finding["fix"].as_str();
        let fix = filled(fix.unwrap_or_else(|| panic!("{finding}")));
        // Any shell, not only bash.
        ran(self.command("sh").args(["-c", &fix])).done();
        let after = self.check(id);
        assert!(!after.says(expected), "{fix}: {}", after.0);
        after
    }
}

/// All that `doctor --json` has printed.
pub struct Report {
    pub code: i32,
    pub checks: Vec<Value>,
}

impl Report {
    #[track_caller]
    pub fn of(ran: CommandOutput) -> Self {
        assert!(!ran.out.contains(VALUE) && !ran.err.contains(VALUE));
        let checks: Vec<Value> = serde_json::from_str(&ran.out)
            .unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err));
        let is_failed = checks.iter().any(|check| check["status"] == "failed");
        assert_eq!(ran.code, i32::from(is_failed), "{}", ran.out);
        Self {
            code: ran.code,
            checks,
        }
    }

    #[track_caller]
    pub fn check(&self, id: &str) -> Found {
        let found = self.checks.iter().find(|check| check["id"] == id);
        Found(found.unwrap_or_else(|| panic!("no check {id}")).clone())
    }
}

/// What a check has found.
pub struct Found(pub Value);

impl Found {
    pub fn status(&self) -> &str {
        self.0["status"].as_str().unwrap()
    }

    pub fn says(&self, words: &str) -> bool {
        let findings = self.0["findings"].as_array().unwrap();
        let says = |finding: &Value| finding["message"].as_str().unwrap().contains(words);
        findings.iter().any(says)
    }

    /// The finding with these words.
    #[track_caller]
    pub fn finding(&self, words: &str) -> &Value {
        let mut findings = self.0["findings"].as_array().unwrap().iter();
        let says = |finding: &&Value| finding["message"].as_str().unwrap().contains(words);
        findings
            .find(says)
            .unwrap_or_else(|| panic!("not {words:?}: {}", self.0))
    }

    #[track_caller]
    pub fn is(&self, status: &str, words: &str) {
        assert_eq!(self.finding(words)["status"], status, "{}", self.0);
    }
}

#[test]
fn a_new_home_has_nothing_that_failed_and_gets_no_file() {
    let patient = Patient::healthy();
    let files = "find .simpletuner | sort";
    let before = patient.sh(files);
    let report = patient.doctor();
    assert_eq!(report.code, 0);
    assert_eq!(report.checks.len(), 26);
    assert_eq!(patient.sh(files), before);
    for id in ["kernel", "clock", "settings", "files", "store", "key"] {
        assert_eq!(report.check(id).status(), "ok", "{id}");
    }
    for id in ["aws", "vault", "command", "views", "sockets", "audit"] {
        assert_eq!(report.check(id).status(), "skipped", "{id}");
    }
    // The page on operation has each, in this order.
    let page = include_str!("../../docs/operation.md");
    let ids = page
        .lines()
        .skip_while(|line| !line.starts_with("| `id` |"))
        .skip(2);
    let ids = ids.take_while(|line| line.starts_with("| `"));
    let ids = ids.map(|line| line.split('|').nth(1).unwrap().replace(['`', ' '], ""));
    let ids = ids.collect::<Vec<_>>().join(",");
    let checks = report
        .checks
        .iter()
        .map(|check| check["id"].as_str().unwrap());
    assert_eq!(ids, checks.collect::<Vec<_>>().join(","));
    let table = ran(patient.command(BINARY).arg("doctor"));
    assert_eq!(table.code, 0, "{}", table.err);
    assert!(
        table
            .out
            .contains("\nwarning  mount             nothing is mounted at ")
    );
    assert!(
        table
            .out
            .contains("\n                           $ simpletuner-live mount\n")
    );
    assert!(table.out.lines().last().unwrap().starts_with("26 checks: "));
    assert!(!table.out.contains('\u{1b}'), "no colours in a pipe");
}
