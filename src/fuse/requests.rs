//! What all requests have in common: who asks, what an answer looks like to the kernel, and how one is answered later.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyAttr, ReplyEmpty, ReplyOpen,
    ReplyXattr, Request,
};

use super::threads::{Notice, Workers};
use super::vitals::{At, Vitals, Word};
use super::waiting::{Resume, Waiting};
use crate::tree::{self, Attr, Caller, Closing, Lane, Opened, Stop, Tree, WaitOn};

/// The tree, and who waits for it.
pub(super) struct Inner {
    pub(super) tree: Arc<Tree>,
    pub(super) waiting: Arc<Waiting>,
    /// What this is at, for whoever comes next; `None`: nobody does.
    pub(super) vitals: Option<Vitals>,
    pub(super) workers: Workers,
    pub(super) notices: Sender<Notice>,
}

/// An answer that can be a refusal.
pub(super) trait Refuse: Send + 'static {
    /// Answers with an errno.
    fn refuse(self, errno: i32);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: i32) {
                self.error(Errno::from_i32(errno));
            }
        })*
    };
}
refuse!(ReplyAttr, ReplyEmpty, ReplyOpen, ReplyXattr);

/// Answers a request when it can go on, or refuses it.
pub(super) fn answer<R: Refuse>(reply: R, go_on: impl FnOnce(R) + Send + 'static) -> Resume {
    Box::new(move |result| match result {
        Ok(()) => go_on(reply),
        Err(errno) => reply.refuse(errno),
    })
}

/// Set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND, include/uapi/linux/fuse.h).
const RESENT: u64 = 1 << 63;

pub(super) fn caller(request: &Request) -> Caller {
    let number = request.unique().0;
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        request: number & !RESENT,
        comes_again: number & RESENT != 0,
    }
}

/// The errno for the kernel; the reason for the log, where it is worth one.
pub(super) fn errno(stop: Stop) -> i32 {
    match stop {
        Stop::Errno(errno) => errno,
        Stop::Error(error) => {
            if error.is_not_found() {
                tracing::debug!("{error}");
            } else {
                tracing::warn!("{error}");
            }
            error.errno()
        }
        // Only operations that can be parked answer so.
        Stop::Wait(_) => libc::EAGAIN,
    }
}

pub(super) fn fuse_errno(stop: Stop) -> Errno {
    Errno::from_i32(errno(stop))
}

pub(super) fn utf8(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

pub(super) fn open_flags(opened: Opened) -> FopenFlags {
    if opened.keep_pages {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
    } else {
        FopenFlags::FOPEN_DIRECT_IO
    }
}

pub(super) fn file_type(kind: tree::FileType) -> FileType {
    match kind {
        tree::FileType::Dir => FileType::Directory,
        tree::FileType::File => FileType::RegularFile,
    }
}

/// What is closed without a request, in the vitals: the inode's number, which is no request's.
const CLOSED: u64 = 1 << 62;

impl Inner {
    /// Begins with a request; `None`: servers have ended over it, and it is not tried again.
    pub(super) fn begin(&self, request: &Request) -> Option<Option<At>> {
        let Some(vitals) = &self.vitals else {
            return Some(None);
        };
        let asking = caller(request);
        if asking.comes_again && vitals.is_deadly(asking.request) {
            tracing::error!("a request ended two servers, and is refused: {request:?}");
            return None;
        }
        vitals.set(Word::Last, asking.request);
        Some(Some(vitals.at(Word::Reading, asking.request)))
    }

    fn working(&self, lane: Lane, request: u64) -> Option<At> {
        let vitals = self.vitals.as_ref()?;
        let word = match lane {
            Lane::Store => Word::Committing,
            Lane::Database => Word::Saving,
        };
        Some(vitals.at(word, request))
    }

    /// What the kernel is told of an inode whose number for it is `node`.
    pub(super) fn file_attr(&self, node: u64, attr: &Attr) -> FileAttr {
        let (uid, gid) = self.tree.owner();
        FileAttr {
            ino: INodeNo(node),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: attr.mtime,
            mtime: attr.mtime,
            ctime: attr.mtime,
            crtime: SystemTime::UNIX_EPOCH,
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.nlink,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Parks a request until what it waits for is settled.
    fn park(&self, caller: &Caller, on: WaitOn, resume: Resume) {
        self.waiting.park(caller, Some(on.clone()), resume);
        let wake = {
            let (waiting, on) = (self.waiting.clone(), on.clone());
            Box::new(move || waiting.wake(&on))
        };
        match &on {
            WaitOn::Secret(name) => self.tree.manager().fetch(name, wake),
            WaitOn::Listing => self.tree.manager().fetch_all(wake),
            // It may have been settled before this was parked.
            WaitOn::Write(name) if !self.tree.is_settling(name) => self.waiting.wake(&on),
            WaitOn::Write(_) => {}
            WaitOn::Config(name) => match self.tree.configs() {
                Some(configs) => configs.fetch(name, wake),
                None => self.waiting.wake(&on),
            },
        }
    }

    /// Does work that may wait on the thread for that, and answers when the kernel knows of what it changed.
    pub(super) fn work(
        self: &Arc<Self>,
        caller: &Caller,
        lane: Lane,
        answer: Resume,
        told: bool,
        work: impl FnOnce(&Tree) -> Result<(), Stop> + Send + 'static,
    ) {
        let id = self.waiting.park(caller, None, answer);
        let (inner, request) = (self.clone(), caller.request);
        self.workers.of(lane).run(move || {
            let _at = inner.working(lane, request);
            let result = work(&inner.tree).map_err(errno);
            let waiting = inner.waiting.clone();
            if told && result.is_ok() {
                let then = Box::new(move || waiting.complete(id, result));
                drop(inner.notices.send(Notice::Then(then)));
            } else {
                waiting.complete(id, result);
            }
        });
    }

    pub(super) fn open(self: Arc<Self>, caller: Caller, ino: u64, flags: i32, reply: ReplyOpen) {
        match self.tree.open(&caller, ino, flags) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(opened)),
            Err(Stop::Wait(on)) => {
                let inner = self.clone();
                self.park(
                    &caller,
                    on,
                    answer(reply, move |reply| inner.open(caller, ino, flags, reply)),
                );
            }
            Err(stop) => reply.error(fuse_errno(stop)),
        }
    }

    /// Answers what the tree gives, or when it can be asked again.
    pub(super) fn reply<R: Refuse, T>(
        self: Arc<Self>,
        caller: Caller,
        reply: R,
        ask: impl Fn(&Tree) -> Result<T, Stop> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        match ask(&self.tree) {
            Ok(given) => give(reply, given),
            Err(Stop::Wait(on)) => {
                let inner = self.clone();
                let again = move |reply| inner.reply(caller, reply, ask, give);
                self.park(&caller, on, answer(reply, again));
            }
            Err(stop) => reply.refuse(errno(stop)),
        }
    }

    pub(super) fn getattr(
        self: Arc<Self>,
        caller: Caller,
        ino: u64,
        handle: Option<u64>,
        reply: ReplyAttr,
    ) {
        match self.tree.attr(&caller, ino, handle) {
            // Here, the number is the file's, not the version's: it is what `stat` shows.
            Ok(attr) => reply.attr(&attr.valid, &self.file_attr(attr.ino, &attr)),
            Err(Stop::Wait(on)) => {
                let inner = self.clone();
                self.park(
                    &caller,
                    on,
                    answer(reply, move |reply| {
                        inner.getattr(caller, ino, handle, reply)
                    }),
                );
            }
            Err(stop) => reply.error(fuse_errno(stop)),
        }
    }

    pub(super) fn commit_released(self: &Arc<Self>, closing: Closing) {
        let inner = self.clone();
        let lane = self.tree.lane(closing.node());
        self.workers.of(lane).run(move || {
            let number = closing.node() | CLOSED;
            let is_deadly = |vitals: &Vitals| vitals.is_deadly(number);
            if inner.vitals.as_ref().is_some_and(is_deadly) {
                tracing::error!("a write ended two servers, and is given up");
                inner.tree.settle(closing);
                return;
            }
            let _at = inner.working(lane, number);
            if let Err(stop) = inner.tree.commit(&closing) {
                tracing::warn!(
                    "a write was given up, as its file had no close left to tell: errno {}",
                    errno(stop)
                );
            }
            if let Some(name) = inner.tree.settle(closing) {
                inner.waiting.wake(&WaitOn::Write(name));
            }
        });
    }
}
