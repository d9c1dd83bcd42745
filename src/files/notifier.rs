//! Waits for changes of files, with inotify if it works.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::clock::Instant;

/// The files that are watched.
pub(crate) struct FileNotifier {
    inotify: Option<OwnedFd>,
    names: HashSet<OsString>,
}

impl FileNotifier {
    pub(crate) fn new() -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Self {
            inotify: inotify::init(flags).ok(),
            names: HashSet::new(),
        }
    }

    /// Watches the folders of these files. Watching a folder again costs nothing more.
    pub(crate) fn watch_folders_of(&mut self, files: &[PathBuf]) {
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
            // A folder that cannot be watched is checked every second.
            let _ = inotify::add_watch(inotify, folder, flags);
        }
    }

    /// Waits until a file changes, `wake` (an eventfd that does not block) is written to, or this time has come; returns whether a file
    /// changed.
    pub(crate) fn wait(&self, wake: Option<BorrowedFd<'_>>, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(1),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = Vec::with_capacity(2);
            let notifier = self.inotify.as_ref().map(AsFd::as_fd);
            for fd in [wake, notifier].iter().flatten() {
                fds.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
            }
            if poll(&mut fds, Some(&timeout)).is_err() && left.is_zero() {
                return false;
            }
            let woken = wake.is_some_and(|wake| rustix::io::read(wake, &mut [0; 8]).is_ok());
            let has_event = self.has_event();
            if has_event || woken || left.is_zero() {
                return has_event;
            }
        }
    }

    /// Whether a file changed since the last call.
    fn has_event(&self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut has_event = false;
        while let Ok(event) = events.next() {
            has_event |= match event.file_name() {
                Some(name) => self.names.contains(OsStr::from_bytes(name.to_bytes())),
                // The folder itself changed, or the queue overflowed.
                None => true,
            };
        }
        has_event
    }
}
