//! The thread that looks at the secrets file, so that nobody else has to: a filesystem that hangs holds up this thread
//! alone. Knows when to look and who waits for it, not what is seen.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;

use crate::provider::Done;

/// How often the file is looked at where no notification comes: the file may lie where there are none.
const EVERY: Duration = Duration::from_secs(1);
/// When a file that changed just now is looked at again: its stamp may not tell a further change.
const AGAIN: Duration = Duration::from_millis(25);

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Who waits for the next look, and how the present one is going.
pub(super) struct Watch {
    // A leaf lock.
    looks: Mutex<Looks>,
    looked: Condvar,
    wake: Option<OwnedFd>,
    /// When the look under way began, in milliseconds since `BASE`, plus one; 0: none is.
    began: AtomicU64,
}

#[derive(Default)]
struct Looks {
    is_running: bool,
    has_stopped: bool,
    begun: u64,
    ended: u64,
    /// Who waits, and for the end of which look.
    waiting: Vec<(u64, Done)>,
}

/// What the thread does.
pub(super) trait Looker: Send + Sync + 'static {
    /// Looks at the file, and takes in and tells what is new.
    fn look(&self);

    /// The files whose changes are to be noticed.
    fn files(&self) -> Vec<PathBuf>;

    /// Whether the last look saw a file that may change without its stamp telling.
    fn is_unsettled(&self) -> bool;
}

impl Watch {
    pub(super) fn new() -> Arc<Self> {
        LazyLock::force(&BASE);
        Arc::new(Self {
            looks: Mutex::default(),
            looked: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
            began: AtomicU64::new(0),
        })
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A counter that is full wakes, too.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }

    /// For how long the look under way has been going on.
    pub(super) fn hanging_for(&self, now: Instant) -> Duration {
        match self.began.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began => {
                let began = *BASE + Duration::from_millis(began - 1);
                now.saturating_duration_since(began)
            }
        }
    }

    /// Calls `done` after a look that begins from now on. Without a thread to look, looks here and now.
    pub(super) fn look_then<L: Looker>(self: &Arc<Self>, looker: &Arc<L>, done: Done) {
        {
            let mut looks = self.looks();
            if self.is_running(&mut looks, looker) {
                let next = looks.begun + 1;
                looks.waiting.push((next, done));
                drop(looks);
                return self.wake();
            }
        }
        looker.look();
        done();
    }

    /// Waits for a look that begins from now on, at most this long; whether it has ended.
    pub(super) fn look<L: Looker>(self: &Arc<Self>, looker: &Arc<L>, patience: Duration) -> bool {
        let mut looks = self.looks();
        if !self.is_running(&mut looks, looker) {
            drop(looks);
            looker.look();
            return true;
        }
        let next = looks.begun + 1;
        self.wake();
        let until = |looks: &mut Looks| looks.ended < next && !looks.has_stopped;
        let waited = self.looked.wait_timeout_while(looks, patience, until);
        !waited.unwrap_or_else(|e| e.into_inner()).1.timed_out()
    }

    /// Starts the thread at the first use.
    fn is_running<L: Looker>(self: &Arc<Self>, looks: &mut Looks, looker: &Arc<L>) -> bool {
        if !looks.is_running && self.wake.is_some() {
            let (watch, looker) = (self.clone(), Arc::downgrade(looker));
            let run = move || {
                let mut ear = Ear::new();
                loop {
                    let Some(looker) = looker.upgrade() else {
                        return;
                    };
                    if !watch.one_look(&*looker, &mut ear) {
                        return;
                    }
                    let pause = if looker.is_unsettled() { AGAIN } else { EVERY };
                    drop(looker);
                    ear.wait(&watch, pause);
                }
            };
            let thread = std::thread::Builder::new().name("store".to_owned());
            match thread.spawn(run) {
                Ok(_) => looks.is_running = true,
                Err(error) => {
                    tracing::warn!("no thread could be started that watches the store: {error}");
                }
            }
        }
        looks.is_running
    }

    /// One look, and the answers to those who waited for it; `false`: it was the last one.
    fn one_look(&self, looker: &impl Looker, ear: &mut Ear) -> bool {
        let number = {
            let mut looks = self.looks();
            if looks.has_stopped {
                return false;
            }
            looks.begun += 1;
            looks.begun
        };
        let began = u64::try_from(BASE.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.began.store(began + 1, Ordering::Relaxed);
        // First, so that nothing that changes after the look goes unnoticed.
        ear.listen_to(&looker.files());
        looker.look();
        self.began.store(0, Ordering::Relaxed);
        let served = {
            let mut looks = self.looks();
            looks.ended = number;
            let all = std::mem::take(&mut looks.waiting);
            let (served, rest) = all.into_iter().partition(|(needs, _)| *needs <= number);
            looks.waiting = rest;
            served
        };
        self.looked.notify_all();
        let served: Vec<(u64, Done)> = served;
        served.into_iter().for_each(|(_, done)| done());
        true
    }

    /// Ends the thread after the look under way.
    pub(super) fn stop(&self) {
        let waiting = {
            let mut looks = self.looks();
            looks.has_stopped = true;
            std::mem::take(&mut looks.waiting)
        };
        self.looked.notify_all();
        self.wake();
        waiting.into_iter().for_each(|(_, done)| done());
    }
}

/// What hears of changes to files.
struct Ear {
    inotify: Option<OwnedFd>,
    names: HashSet<OsString>,
}

impl Ear {
    fn new() -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Self {
            inotify: inotify::init(flags).ok(),
            names: HashSet::new(),
        }
    }

    /// Listens to the folders of these files. A folder that is listened to already costs nothing more.
    fn listen_to(&mut self, files: &[PathBuf]) {
        let Some(inotify) = &self.inotify else { return };
        use inotify::WatchFlags as W;
        let flags = W::CREATE
            | W::MODIFY
            | W::CLOSE_WRITE
            | W::MOVED_TO
            | W::MOVED_FROM
            | W::DELETE
            | W::ATTRIB
            | W::ONLYDIR;
        self.names.clear();
        for file in files {
            self.names.extend(file.file_name().map(OsStr::to_owned));
            let folder = file.parent().unwrap_or(Path::new("/"));
            // A folder that cannot be listened to is looked at every second.
            let _ = inotify::add_watch(inotify, folder, flags);
        }
    }

    /// Waits until one of the files changes, somebody wants a look, or it is time for one.
    fn wait(&self, watch: &Watch, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(1),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = Vec::with_capacity(2);
            let wake = watch.wake.as_ref().map(AsFd::as_fd);
            let ear = self.inotify.as_ref().map(AsFd::as_fd);
            for fd in [wake, ear].iter().flatten() {
                fds.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
            }
            if poll(&mut fds, Some(&timeout)).is_err() && left.is_zero() {
                return;
            }
            let woken = wake.is_some_and(|wake| rustix::io::read(wake, &mut [0; 8]).is_ok());
            if self.has_heard() || woken || left.is_zero() {
                return;
            }
        }
    }

    /// Whether one of the files changed since this was last asked.
    fn has_heard(&self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut heard = false;
        while let Ok(event) = events.next() {
            heard |= match event.file_name() {
                Some(name) => self.names.contains(OsStr::from_bytes(name.to_bytes())),
                // Of the folder itself, or too many to tell.
                None => true,
            };
        }
        heard
    }
}
