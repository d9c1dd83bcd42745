//! The thread that checks the secrets file. No other thread touches it to read, so a filesystem that hangs blocks this
//! thread alone. Knows when to check and who waits, not what a check finds.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::clock::Instant;
use crate::files::notifier::FileNotifier;
use crate::provider::Done;
use crate::sync::{self, LARGE_STACK, Mutex};

/// How often the file is checked without a notification: not every filesystem sends any.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// When to check again a file that changed only just now: its stamp may not show the next change.
const RECHECK_DELAY: Duration = Duration::from_millis(25);

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The callbacks that wait for a check, and since when the current check runs.
pub(super) struct Watch {
    // A leaf lock.
    checks: Mutex<Checks>,
    wake: Option<OwnedFd>,
    /// When the current check began, in milliseconds since `BASE`, plus one; 0: none runs.
    began: AtomicU64,
}

#[derive(Default)]
struct Checks {
    is_running: bool,
    has_stopped: bool,
    started: u64,
    /// Callbacks, each with the number of the check that it waits for.
    waiting: Vec<(u64, Done)>,
    /// Those of writers, who wait only until it is known whether the file can be written.
    writers: Vec<Done>,
}

/// What the thread checks.
pub(super) trait CheckTarget: Send + Sync + 'static {
    /// Checks the file, and reports what is new.
    fn check(&self);

    /// Finds out whether the file can be written.
    fn check_for_writers(&self);

    /// The files to watch.
    fn files(&self) -> Vec<PathBuf>;

    /// Whether the file changed so recently that its stamp may not show the next change.
    fn is_unsettled(&self) -> bool;
}

impl Watch {
    pub(super) fn new() -> Arc<Self> {
        LazyLock::force(&BASE);
        Arc::new(Self {
            checks: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
            began: AtomicU64::new(0),
        })
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // The write fails only if the counter is full, which wakes the thread as well.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }

    /// Since when the current check runs.
    pub(super) fn checking_since(&self) -> Option<Instant> {
        let began = self.began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(*BASE + Duration::from_millis(began))
    }

    /// Calls `done` after a check that begins after this call. If the thread cannot be started, checks on this thread.
    pub(super) fn check_then<L: CheckTarget>(self: &Arc<Self>, target: &Arc<L>, done: Done) {
        {
            let mut checks = self.checks.lock();
            if self.ensure_running(&mut checks, target) {
                let next = checks.started + 1;
                checks.waiting.push((next, done));
                drop(checks);
                return self.wake();
            }
        }
        target.check();
        done();
    }

    /// Calls `done` once it is known whether the file can be written now. If the thread cannot be started, looks on this
    /// thread.
    pub(super) fn check_for_writer_then<L: CheckTarget>(
        self: &Arc<Self>,
        target: &Arc<L>,
        done: Done,
    ) {
        {
            let mut checks = self.checks.lock();
            if self.ensure_running(&mut checks, target) && !checks.has_stopped {
                checks.writers.push(done);
                drop(checks);
                return self.wake();
            }
        }
        target.check_for_writers();
        done();
    }

    /// Whether a caller waits for a check of the file itself.
    fn is_check_due(&self) -> bool {
        let checks = self.checks.lock();
        checks.has_stopped || !checks.waiting.is_empty()
    }

    /// Answers the writers that wait.
    fn serve_writers(&self, target: &impl CheckTarget) {
        let writers = std::mem::take(&mut self.checks.lock().writers);
        if writers.is_empty() {
            return;
        }
        self.begin();
        target.check_for_writers();
        self.end();
        writers.into_iter().for_each(|done| done());
    }

    /// A check begins that may hang with the disk.
    fn begin(&self) {
        let began = u64::try_from(BASE.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.began.store(began + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// Starts the thread at the first use.
    fn ensure_running<L: CheckTarget>(
        self: &Arc<Self>,
        checks: &mut Checks,
        target: &Arc<L>,
    ) -> bool {
        if !checks.is_running && self.wake.is_some() {
            let (watch, target) = (self.clone(), Arc::downgrade(target));
            let run = move || {
                let mut notifier = FileNotifier::new();
                let mut check_at = Instant::now();
                loop {
                    let Some(target) = target.upgrade() else {
                        return;
                    };
                    if Instant::now() >= check_at || watch.is_check_due() {
                        if !watch.run_check(&*target, &mut notifier) {
                            return;
                        }
                        let pause = if target.is_unsettled() {
                            RECHECK_DELAY
                        } else {
                            POLL_INTERVAL
                        };
                        check_at = Instant::now() + pause;
                    }
                    watch.serve_writers(&*target);
                    drop(target);
                    let wake = watch.wake.as_ref().map(AsFd::as_fd);
                    if notifier.wait(wake, check_at) {
                        check_at = Instant::now();
                    }
                }
            };
            match sync::spawn("store", LARGE_STACK, run) {
                Ok(_) => checks.is_running = true,
                Err(error) => {
                    tracing::warn!("no thread could be started that watches the store: {error}");
                }
            }
        }
        checks.is_running
    }

    /// Runs one check and calls those that waited for it; `false` if the watch was stopped.
    fn run_check(&self, target: &impl CheckTarget, notifier: &mut FileNotifier) -> bool {
        let number = {
            let mut checks = self.checks.lock();
            if checks.has_stopped {
                return false;
            }
            checks.started += 1;
            checks.started
        };
        self.begin();
        // Before the check, so that a change after it is noticed.
        notifier.watch_folders_of(&target.files());
        target.check();
        self.end();
        let served = {
            let mut checks = self.checks.lock();
            let all = std::mem::take(&mut checks.waiting);
            let (served, rest) = all.into_iter().partition(|(needs, _)| *needs <= number);
            checks.waiting = rest;
            served
        };
        let served: Vec<(u64, Done)> = served;
        served.into_iter().for_each(|(_, done)| done());
        true
    }

    /// Ends the thread after the current check.
    pub(super) fn stop(&self) {
        let (waiting, writers) = {
            let mut checks = self.checks.lock();
            checks.has_stopped = true;
            let waiting = std::mem::take(&mut checks.waiting);
            (waiting, std::mem::take(&mut checks.writers))
        };
        self.wake();
        let waiting = waiting.into_iter().map(|(_, done)| done);
        waiting.chain(writers).for_each(|done| done());
    }
}
