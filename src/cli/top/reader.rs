//! Reads the mount and the audit trail, each on a thread of its own, so that the screen goes on if one of them hangs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::readers::{ReaderRow, Readers};
use crate::audit::AuditOptions;
use crate::cli::failure::Failure;
use crate::cli::lasting::lasting;
use crate::cli::mount_client::MountClient;
use crate::metrics::{Sample, parse};
use crate::sync::{self, LARGE_STACK, Mutex};

/// A mount that takes longer than this is shown as one that does not answer.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// How many rows of the audit trail there are at the beginning, and at most at once.
const ROWS: u32 = 1000;
/// How many events are kept.
const MAX_EVENTS: usize = 200;

/// What the mount's files said.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Value,
    pub(super) providers: Vec<Value>,
    samples: Vec<Sample>,
    /// The newest last.
    pub(super) events: Vec<Value>,
    /// `None`: there is nothing to compare with yet.
    pub(super) rates: Option<Rates>,
}

/// How many a second there were since the look before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) opens: f64,
    pub(super) writes: f64,
    pub(super) errors: f64,
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) seen: Arc<Seen>,
    pub(super) readers: Arc<Vec<ReaderRow>>,
    /// Why it is not the present state.
    pub(super) problem: Option<String>,
    /// Why not all readers are known.
    pub(super) audit_problem: Option<String>,
}

#[derive(Default)]
struct Shared {
    look: Look,
    /// When the look that is under way began.
    began: Option<Instant>,
}

pub(super) struct Reader(Arc<Mutex<Shared>>);

impl Seen {
    /// A figure that has this label, or none.
    pub(super) fn figure(&self, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
        let fits = |sample: &&Sample| {
            let has_label = label.is_none_or(|(label, text)| sample.label(label) == Some(text));
            is_named(sample, name) && has_label
        };
        self.samples.iter().find(fits).map(|sample| sample.value)
    }

    /// All figures of a name together.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let samples = self.samples.iter().filter(|sample| is_named(sample, name));
        samples.map(|sample| sample.value).sum()
    }

    /// The texts of a label under a name.
    pub(super) fn labels(&self, name: &str, label: &str) -> Vec<&str> {
        let samples = self.samples.iter().filter(|sample| is_named(sample, name));
        samples.filter_map(|sample| sample.label(label)).collect()
    }

    fn rates_since(&self, before: &Self, passed: Duration) -> Rates {
        let rate = |name: &str| {
            let (now, before) = (self.sum(name), before.sum(name));
            // Another server begins at zero.
            let grown = if now < before { now } else { now - before };
            grown / passed.as_secs_f64().max(0.001)
        };
        Rates {
            opens: rate("secret_opens_total"),
            writes: rate("writes_total"),
            errors: rate("request_errors_total"),
        }
    }
}

fn is_named(sample: &Sample, name: &str) -> bool {
    sample.name.strip_prefix("simpletuner_live_") == Some(name)
}

impl Reader {
    /// Begins to read every so often.
    pub(super) fn start(
        client: MountClient,
        trail: Result<AuditOptions, String>,
        interval: Duration,
    ) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let seen = shared.clone();
        let read = move || read_mount(&client, &seen, interval);
        let read = sync::spawn("top-mount", LARGE_STACK, read);
        let problem = read
            .err()
            .map(|error| format!("no thread can be started: {error}"));
        let seen = shared.clone();
        let audit = move || read_trail(trail, &seen, interval);
        let audit = sync::spawn("top-audit", LARGE_STACK, audit);
        let audit_problem = audit.err().map(|error| error.to_string());
        if problem.is_some() || audit_problem.is_some() {
            let mut shared = shared.lock();
            shared.look.problem = problem;
            shared.look.audit_problem = audit_problem;
        }
        Self(shared)
    }

    /// What is known now. Never waits.
    pub(super) fn look(&self) -> Look {
        let shared = self.0.lock();
        let mut look = shared.look.clone();
        let silent = shared.began.map(|began| began.elapsed());
        if let Some(silent) = silent.filter(|silent| *silent > SILENCE) {
            let silent = lasting(silent);
            look.problem = Some(format!("the mount has not answered for {silent}"));
        }
        look
    }
}

fn read_mount(client: &MountClient, shared: &Mutex<Shared>, interval: Duration) {
    let mut events = Events::default();
    let mut before: Option<(Instant, Arc<Seen>)> = None;
    loop {
        let began = Instant::now();
        shared.lock().began = Some(began);
        let seen = read_once(client, &mut events);
        let problem = match seen {
            Ok(mut seen) => {
                if let Some((at, before)) = &before {
                    seen.rates = Some(seen.rates_since(before, began - *at));
                }
                let seen = Arc::new(seen);
                before = Some((began, seen.clone()));
                shared.lock().look.seen = seen;
                None
            }
            Err(failure) => {
                // That says more than the errno of one file.
                let require = MountClient::require(client.root());
                Some(require.err().unwrap_or(failure).message())
            }
        };
        let mut now = shared.lock();
        now.began = None;
        now.look.problem = problem;
        drop(now);
        std::thread::sleep(interval);
    }
}

fn read_once(client: &MountClient, events: &mut Events) -> Result<Seen, Failure> {
    let status = client.read_json("status")?;
    Ok(Seen {
        status,
        providers: client.providers(),
        samples: parse(&client.read_text("metrics")?),
        events: events.read(client.path("events")),
        rates: None,
    })
}

/// The last events, which are read anew if the file has changed.
#[derive(Default)]
struct Events {
    length: u64,
    last: Vec<Value>,
}

impl Events {
    fn read(&mut self, path: PathBuf) -> Vec<Value> {
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if length != self.length
            && let Ok(text) = fs::read_to_string(&path)
        {
            self.length = length;
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(MAX_EVENTS));
            self.last = last
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
        }
        self.last.clone()
    }
}

fn read_trail(trail: Result<AuditOptions, String>, shared: &Mutex<Shared>, interval: Duration) {
    let trail = match trail {
        Ok(trail) if trail.reads => trail,
        Ok(_) => {
            let why = "who reads what is not recorded (setting audit_reads)";
            shared.lock().look.audit_problem = Some(why.into());
            return;
        }
        Err(error) => {
            shared.lock().look.audit_problem = Some(error);
            return;
        }
    };
    let mut reader = trail.read_chain().reader();
    let mut readers = Readers::default();
    let mut is_first = true;
    loop {
        let rows = match is_first {
            true => reader.last(ROWS),
            false => reader.new_rows(ROWS),
        };
        let problem = match rows {
            Ok(rows) => {
                is_first = false;
                if !rows.is_empty() {
                    rows.iter().for_each(|row| readers.add(row));
                    shared.lock().look.readers = Arc::new(readers.rows());
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        shared.lock().look.audit_problem = problem;
        std::thread::sleep(interval);
    }
}
