//! Checks of all that a mount needs, each with the command that mends what is wrong. Reads, and changes nothing; prints nothing, and
//! holds no value of a secret.
//!
//! - `subject`: what is checked: the settings, or the defaults if they cannot be read, and the mount
//! - `machine`: the kernel, limits, the clock; `fuse`: the device, the helper, other users
//! - `access`: the owner and the mode of one file; `files`: those of all, the disk, the log; `store`: the secrets file and its key
//! - `mount`: the processes, the providers, the sockets; `views`; `service`
//! - `simpletuner`: its state folder, database and secrets file; the audit trails
//! - `backends`: AWS, Vault and programs, the authorities of TLS, the least policies

mod access;
mod backends;
mod files;
mod fuse;
mod machine;
mod mount;
mod service;
mod simpletuner;
mod store;
mod subject;
mod views;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use crate::provider::{Finding, Policy, Verdict};
pub use backends::policies;
pub use subject::Subject;

use crate::settings::Settings;
use crate::sync::{self, LARGE_STACK};

/// How long a check may take that asks no network.
const LIMIT: Duration = Duration::from_secs(10);
/// How much longer than `timeout.total` the check of a backend may take: it makes two or three calls.
const CALLS: u32 = 3;
/// However long `timeout.total` is.
const MAX_LIMIT: Duration = Duration::from_secs(60);

/// The name of a check in `--json`, its title, and what it does.
struct Check {
    id: &'static str,
    title: &'static str,
    run: Run,
}

/// What a check needs.
enum Run {
    /// Only the machine.
    Machine(fn(&Subject) -> Vec<Finding>),
    /// The settings.
    Settings(fn(&Subject, &Settings) -> Vec<Finding>),
    /// The settings, and an answer from the network.
    Network(fn(&Subject, &Settings, Duration) -> Vec<Finding>),
}

/// Defines the table of checks: a row for each.
macro_rules! checks {
    ($($id:literal, $title:literal, $kind:ident($run:path);)*) => {
        const CHECKS: &[Check] = &[$(Check { id: $id, title: $title, run: Run::$kind($run) },)*];
    };
}

// In the order in which they are shown.
checks! {
    "device", "/dev/fuse", Machine(fuse::device);
    "fusermount", "fusermount3", Machine(fuse::helper);
    "allow_other", "user_allow_other", Settings(fuse::allow_other);
    "kernel", "kernel", Machine(machine::kernel);
    "memory", "locked memory", Machine(machine::memory);
    "descriptors", "open files", Machine(machine::descriptors);
    "clock", "clock", Machine(machine::clock);
    "settings", "settings", Machine(files::settings);
    "files", "files", Settings(files::modes);
    "disk", "disk", Settings(files::disk);
    "store", "secrets file", Settings(store::store);
    "key", "credential key", Settings(store::key);
    "values", "values", Settings(store::values);
    "mount", "mount", Machine(mount::answers);
    "processes", "processes", Machine(mount::processes);
    "providers", "providers", Machine(mount::providers);
    "log", "log", Settings(files::log);
    "views", "views", Settings(views::definitions);
    "sockets", "sockets", Settings(mount::sockets);
    "service", "service", Machine(service::service);
    "simpletuner", "SimpleTuner", Settings(simpletuner::state);
    "audit", "audit trails", Settings(simpletuner::audit);
    "tls", "TLS", Settings(backends::tls);
    "aws", "AWS", Network(backends::aws);
    "vault", "Vault", Network(backends::vault);
    "command", "programs", Network(backends::command);
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Its name for programs.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// The worst that it has found.
    pub status: Verdict,
    /// All that it has found.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    fn new(check: &Check, findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.status).max();
        Self {
            id: check.id.to_owned(),
            title: check.title.to_owned(),
            status: worst.unwrap_or(Verdict::Skipped),
            findings,
        }
    }

    fn late(check: &Check, limit: Duration) -> Self {
        let seconds = limit.as_secs();
        let why = format!(
            "there was no answer within {seconds} s: a disk, a mount or another program that is asked hangs"
        );
        Self::new(check, vec![Finding::failed(why)])
    }
}

/// The reports of checks that did not answer, because none of them has: the disk of the home hangs, say.
pub fn unanswered(known: &[CheckReport]) -> Vec<CheckReport> {
    let is_missing = |check: &&Check| !known.iter().any(|report| report.id == check.id);
    let missing = CHECKS.iter().filter(is_missing);
    missing
        .map(|check| CheckReport::late(check, longest(None)))
        .collect()
}

/// The place of a report among all, from 0.
pub fn position(report: &CheckReport) -> usize {
    let mut checks = CHECKS.iter();
    let found = checks.position(|check| check.id == report.id);
    found.unwrap_or(CHECKS.len())
}

/// How many checks there are.
pub fn number() -> usize {
    CHECKS.len()
}

/// How long all checks together may take, with these settings; `None`: with any.
pub fn longest(settings: Option<&Settings>) -> Duration {
    let network = settings.map_or(MAX_LIMIT, |settings| settings.timeout.total * CALLS);
    network.clamp(LIMIT, MAX_LIMIT)
}

/// Runs all checks at the same time, each on a thread of its own, and calls `done` with the report of each that has ended, in any
/// order. Waits for none longer than its limit; its thread may then go on.
pub fn run(subject: Subject, mut done: impl FnMut(CheckReport)) {
    let subject = Arc::new(subject);
    let (sender, reports) = channel();
    let begun = Instant::now();
    let mut open: Vec<&Check> = Vec::new();
    for check in CHECKS {
        let (sender, subject) = (sender.clone(), subject.clone());
        let work = move || drop(sender.send((check.id, findings_of(check, &subject))));
        match sync::spawn("doctor", LARGE_STACK, work) {
            Ok(_) => open.push(check),
            Err(error) => done(CheckReport::new(
                check,
                vec![Finding::failed(error.to_string())],
            )),
        }
    }
    drop(sender);
    let limit_of = |check: &Check| match check.run {
        // A little more: the check says itself what did not answer.
        Run::Network(_) => longest(subject.settings()) + Duration::from_secs(2),
        Run::Machine(_) | Run::Settings(_) => LIMIT,
    };
    while !open.is_empty() {
        let next = open.iter().map(|check| limit_of(check)).min();
        let left = next.unwrap_or_default().saturating_sub(begun.elapsed());
        if let Ok((id, findings)) = reports.recv_timeout(left) {
            let at = open.iter().position(|check| check.id == id);
            if let Some(check) = at.map(|at| open.remove(at)) {
                done(CheckReport::new(check, findings));
            }
            continue;
        }
        let (late, rest) = open
            .into_iter()
            .partition(|check| limit_of(check) <= begun.elapsed());
        open = rest;
        for check in late {
            done(CheckReport::late(check, limit_of(check)));
        }
    }
}

fn findings_of(check: &Check, subject: &Subject) -> Vec<Finding> {
    let no_settings = || {
        vec![Finding::skipped(
            "it is not known where the files are; see settings",
        )]
    };
    match (&check.run, subject.settings()) {
        (Run::Machine(run), _) => run(subject),
        (Run::Settings(run), Some(settings)) => run(subject, settings),
        (Run::Network(run), Some(settings)) => run(subject, settings, longest(Some(settings))),
        (Run::Settings(_) | Run::Network(_), None) => no_settings(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_check_has_a_name_of_its_own_and_a_short_title() {
        let ids: HashSet<_> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        for check in CHECKS {
            assert!(check.title.len() <= 16, "{}", check.title);
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(check.id.chars().all(is_word), "{}", check.id);
        }
    }

    #[test]
    fn a_check_is_as_bad_as_the_worst_that_it_has_found() {
        let findings = |all: &[Finding]| CheckReport::new(&CHECKS[0], all.to_vec()).status;
        let (ok, skipped) = (Finding::ok("a"), Finding::skipped("b"));
        let (warning, failed) = (Finding::warning("c"), Finding::failed("d"));
        assert_eq!(findings(&[]), Verdict::Skipped);
        assert_eq!(findings(&[skipped.clone(), ok.clone()]), Verdict::Ok);
        assert_eq!(findings(&[warning.clone(), ok]), Verdict::Warning);
        assert_eq!(findings(&[warning, failed, skipped]), Verdict::Failed);
    }
}
