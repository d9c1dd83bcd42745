//! Records the opens that the kernel reports of the views' mount. The keeper has the queue, too, so that it goes on from server to server.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::audit::{Actor, AuditTrail};
use crate::error::{Error, Result};
use crate::files::open_events::{OpenEvent, OpenEvents};
use crate::process;
use crate::process::mountinfo::MountId;
use crate::sync::{self, Mutex, SMALL_STACK};
use crate::views::{OpenAudit, Views};

/// This variable makes the server act as without CAP_SYS_ADMIN.
const NO_FANOTIFY: &str = "SIMPLETUNER_LIVE_NO_FANOTIFY";
/// How long a server that begins waits until the kernel reports opens.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether the mount has ended.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is recorded for a server that takes over, as in `AuditTrail::freeze`.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_STEP: Duration = Duration::from_millis(20);

/// A new queue; `None`: this process may not have one, or the kernel has none.
pub(super) fn new_queue() -> Option<OwnedFd> {
    if std::env::var_os(NO_FANOTIFY).is_some() {
        return None;
    }
    let queue = OpenEvents::new();
    let queue = queue.inspect_err(|error| tracing::debug!("no reports of opens: {error}"));
    Some(queue.ok()?.into())
}

/// The thread that records, as others see it.
pub(super) struct OpenWatch {
    queue: OpenEvents,
    views: Weak<Views>,
    trail: Arc<AuditTrail>,
    /// Until when no event is taken. Held from the moment when events are taken until they are recorded.
    paused: Mutex<Option<Instant>>,
}

impl OpenWatch {
    /// Begins to record the opens on the filesystem of this mount, which must be answering. If that takes longer than a second, it goes
    /// on in the background, and the server answers opens meanwhile.
    ///
    /// # Errors
    /// Why the kernel does not report opens.
    pub(super) fn start(
        queue: OwnedFd,
        mount: MountId,
        views: &Arc<Views>,
        trail: Arc<AuditTrail>,
    ) -> Result<Arc<Self>> {
        let watch = Arc::new(Self {
            queue: OpenEvents::of_descriptor(queue),
            views: Arc::downgrade(views),
            trail,
            paused: Mutex::default(),
        });
        let (sender, receiver) = channel();
        let thread = watch.clone();
        let run = move || {
            let begun = thread.begin(&mount);
            let has_begun = begun.is_ok();
            let _ = sender.send(begun);
            if has_begun {
                thread.run();
            }
        };
        sync::spawn("views-audit", SMALL_STACK, run).map_err(|e| Error::io("threads", e))?;
        receiver.recv_timeout(BEGIN_TIMEOUT).unwrap_or(Ok(()))?;
        Ok(watch)
    }

    fn begin(&self, mount: &MountId) -> Result<()> {
        let ended = || Error::Settings("the mount is not there any more".into());
        let mount = mount.find().ok_or_else(ended)?;
        let failed = |e: std::io::Error| Error::io(mount.point.display().to_string(), e);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&mount.point, flags, Mode::empty());
        let root = root.map_err(|e| failed(e.into()))?;
        let info = std::fs::read(format!("/proc/self/fdinfo/{}", root.as_raw_fd()));
        if process::mount_of(&info.map_err(failed)?) != Some(mount.id) {
            return Err(ended());
        }
        self.queue.add_filesystem(&root).map_err(failed)?;
        if let Some(views) = self.views.upgrade() {
            views.record_opens(OpenAudit::Fanotify, self.trail.clone());
        }
        Ok(())
    }

    /// Records until the views are not served any more.
    fn run(&self) {
        loop {
            self.queue.wait(POLL_INTERVAL);
            let Some(views) = self.views.upgrade() else {
                return;
            };
            let paused = self.paused.lock();
            if paused.is_some_and(|until| Instant::now() < until) {
                drop(paused);
                std::thread::sleep(PAUSE_STEP);
                continue;
            }
            self.record_some(&views);
        }
    }

    /// Returns whether there was anything. The caller holds `paused`.
    fn record_some(&self, views: &Views) -> bool {
        let events = self.queue.take();
        let were_some = !events.is_empty();
        // One that was there after all these events, and so at each of its own. A process that opens one file after another is looked
        // at once.
        let mut known: Option<Actor> = None;
        for event in events {
            match event {
                OpenEvent::Opened(opened) => {
                    let same = known.take().filter(|known| known.pid == opened.pid);
                    let actor = same.unwrap_or_else(|| {
                        Actor::of_opener(opened.pid, |look| opened.of_process(look))
                    });
                    known = Some(actor.clone()).filter(|actor| actor.uid.is_some());
                    if let Ok(ino) = opened.ino() {
                        views.record_open_by(ino, actor);
                    }
                }
                OpenEvent::Lost => self.trail.record_dropped_reads(),
            }
        }
        were_some
    }

    /// Leaves all further events to the next server.
    pub(super) fn pause(&self) {
        *self.paused.lock() = Some(Instant::now() + PAUSE);
    }

    /// Records what has been reported, for at most so long.
    pub(super) fn finish(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let Some(views) = self.views.upgrade() else {
            return;
        };
        while Instant::now() < until {
            let _paused = self.paused.lock();
            if !self.record_some(&views) {
                return;
            }
        }
    }
}
