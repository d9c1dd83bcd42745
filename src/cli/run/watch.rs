//! Notices on a thread of its own, which a mount that hangs may hold, when a secret of `run --watch` has changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use rustix::pipe::{PipeFlags, pipe_with};

use super::request::{Fetched, Request};
use crate::cli::Outcome;
use crate::cli::failure::{Failure, say, warn};
use crate::cli::target::Target;
use crate::error::Error;
use crate::launch::{Launch, Restarts};
use crate::secret::SecretName;
use crate::sync;

/// How often it is looked. It costs a stat of each secret, which is no read.
const INTERVAL: Duration = Duration::from_secs(1);

/// What `stat` says of a secret. A new value is another inode.
type Version = Option<(u64, u64, SystemTime)>;

/// Begins to watch. Each launch that comes has values that were read before.
pub(super) fn start(
    request: Request,
    target: Target,
    fetched: Fetched,
    command: Vec<OsString>,
    jitter: Duration,
) -> Outcome<Restarts> {
    let failed = |error| Failure::from(Error::io("cannot watch", error));
    let (notified, notifier) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| failed(error.into()))?;
    let (sender, launches) = channel();
    let mut watch = Watch {
        versions: BTreeMap::new(),
        is_uncertain: true,
        fingerprints: fetched.fingerprints,
        last_problem: None,
        request,
        target,
        command,
        jitter,
    };
    let run = move || {
        loop {
            if let Some(launch) = watch.look() {
                if sender.send(launch).is_err() {
                    return;
                }
                let _ = rustix::io::write(&notifier, &[0]);
            }
            std::thread::sleep(INTERVAL);
        }
    };
    sync::spawn("watch", sync::LARGE_STACK, run).map_err(failed)?;
    Ok(Restarts { launches, notified })
}

struct Watch {
    request: Request,
    target: Target,
    command: Vec<OsString>,
    jitter: Duration,
    versions: BTreeMap<SecretName, Version>,
    /// Whether the values are to be read although no version is another one.
    is_uncertain: bool,
    /// Of the values that the command has.
    fingerprints: BTreeMap<SecretName, u64>,
    /// What was said last, so that it is said once.
    last_problem: Option<String>,
}

impl Watch {
    fn look(&mut self) -> Option<Launch> {
        let versions = self.versions();
        if versions == self.versions && !self.is_uncertain {
            return None;
        }
        if !self.versions.is_empty() {
            std::thread::sleep(self.jitter.mul_f64(chance()));
        }
        // Read after the versions, so that a change in between is noticed the next time.
        self.versions = versions;
        let fetched = match self.request.fetch(&self.target) {
            Ok(fetched) => fetched,
            Err(failure) => {
                self.is_uncertain = true;
                let problem = failure.message();
                if self.last_problem.as_ref() != Some(&problem) {
                    warn(&format!(
                        "{problem}; the command goes on with the values that it has"
                    ));
                    self.last_problem = Some(problem);
                }
                return None;
            }
        };
        self.is_uncertain = false;
        self.last_problem = None;
        let changed = changed(&self.fingerprints, &fetched.fingerprints);
        if changed.is_empty() {
            return None;
        }
        let launch = Launch::new(&self.command, &fetched.variables).ok()?;
        say(
            "note",
            &format!(
                "{} changed; the command is started anew",
                changed.join(", ")
            ),
        );
        self.fingerprints = fetched.fingerprints;
        Some(launch)
    }

    fn versions(&self) -> BTreeMap<SecretName, Version> {
        let Target::Mount(client) = &self.target else {
            return BTreeMap::new();
        };
        let (named, all) = self.request.keys();
        let mut keys: Vec<SecretName> = named.cloned().collect();
        if all {
            let entries = fs::read_dir(client.path("secrets")).into_iter().flatten();
            let names = entries.flatten().map(|entry| entry.file_name());
            keys.extend(names.filter_map(|name| SecretName::new(name.to_str()?).ok()));
        }
        let version = |key: &SecretName| {
            let stat = fs::metadata(client.path("secrets").join(key.as_str())).ok()?;
            Some((stat.ino(), stat.len(), stat.modified().ok()?))
        };
        let versions = keys.into_iter().map(|key| {
            let version = version(&key);
            (key, version)
        });
        versions.collect()
    }
}

/// The secrets that are new, gone, or have another value.
fn changed(before: &BTreeMap<SecretName, u64>, now: &BTreeMap<SecretName, u64>) -> Vec<String> {
    let names = before.keys().chain(now.keys());
    let mut changed: Vec<String> = names
        .filter(|name| before.get(*name) != now.get(*name))
        .map(SecretName::to_string)
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// A random number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers it waits for no time.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
