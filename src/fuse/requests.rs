//! What all requests share: the caller, the kernel's form of an answer, and answering later.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
};

use super::errors::Failures;
use super::reply::Device;
use super::threads::{Job, Workers};
use super::waiting::{EndsBy, Resume, Waiting};
use crate::live::{self, Attr, Caller, Commits, OpError, Opened, Tree, WaitOn, WorkQueue};
use crate::process::heartbeat::{HeartbeatPage, Slot, WorkingOn};
use crate::versions::Place;

/// The tree, and who waits for it.
pub(super) struct Inner {
    pub(super) tree: Arc<Tree>,
    pub(super) waiting: Arc<Waiting>,
    /// Where the threads write which request they work on, for the next server; `None`: there will be none.
    pub(super) heartbeat: Option<HeartbeatPage>,
    pub(super) workers: Workers,
    pub(super) failures: Failures,
    pub(super) device: Device,
}

/// An answer that can be a refusal.
pub(super) trait Refuse: Send + 'static {
    /// Answers with an errno.
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
refuse!(
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr
);

/// Answers a request when it can go on, or refuses it.
pub(super) fn answer<R: Refuse>(reply: R, resume: impl FnOnce(R) + Send + 'static) -> Resume {
    Box::new(move |result| match result {
        Ok(()) => resume(reply),
        Err(errno) => reply.refuse(errno),
    })
}

/// Set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND, include/uapi/linux/fuse.h).
const RESENT: u64 = 1 << 63;

pub(super) fn caller(request: &Request) -> Caller {
    let number = request.unique().0;
    Caller {
        uid: request.uid(),
        tid: request.pid(),
        request: number & !RESENT,
        is_resend: number & RESENT != 0,
    }
}

pub(super) fn utf8(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

pub(super) fn open_flags(opened: Opened) -> FopenFlags {
    if opened.keeps_pages {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
    } else {
        FopenFlags::FOPEN_DIRECT_IO
    }
}

pub(super) fn file_type(kind: live::FileType) -> FileType {
    match kind {
        live::FileType::Dir => FileType::Directory,
        live::FileType::File => FileType::RegularFile,
    }
}

/// Marks a commit without a request in the heartbeat: an inode's number with this bit, which no request's number has.
const CLOSED: u64 = 1 << 62;

impl Inner {
    /// Begins a request. `None`: two servers died over it, and it is refused.
    pub(super) fn begin(&self, request: &Request) -> Option<Option<WorkingOn>> {
        let Some(heartbeat) = &self.heartbeat else {
            return Some(None);
        };
        let asking = caller(request);
        if asking.is_resend && heartbeat.is_poisonous(asking.request) {
            tracing::error!("a request ended two servers, and is refused: {request:?}");
            return None;
        }
        heartbeat.set(Slot::LastRequest, asking.request);
        Some(Some(heartbeat.working_on(Slot::Reading, asking.request)))
    }

    fn working(&self, word: Slot, request: u64) -> Option<WorkingOn> {
        Some(self.heartbeat.as_ref()?.working_on(word, request))
    }

    /// The errno of an error for the kernel.
    pub(super) fn errno(&self, operation: &str, error: OpError) -> Errno {
        self.failures.errno(operation, error)
    }

    /// Attributes in fuser's form, with `node` as the number.
    pub(super) fn file_attr(&self, node: u64, attr: &Attr) -> FileAttr {
        let owner = self.tree.owner();
        FileAttr {
            ino: INodeNo(node),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: attr.mtime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            crtime: SystemTime::UNIX_EPOCH,
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.nlink,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Parks a request until what it waits for is settled.
    fn park(&self, caller: &Caller, on: WaitOn, ends_by: EndsBy, resume: Resume) {
        self.waiting.park(caller, Some(on.clone()), ends_by, resume);
        let wake = {
            let (waiting, on) = (self.waiting.clone(), on.clone());
            Box::new(move || waiting.wake(&on))
        };
        self.tree.settle(&on, wake);
    }

    /// Runs work that may wait on the worker of its queue, and answers when it is done.
    pub(super) fn work(
        self: &Arc<Self>,
        caller: &Caller,
        operation: &'static str,
        queue: WorkQueue,
        answer: Resume,
        work: impl FnOnce(&Tree) -> Result<(), OpError> + Send + 'static,
    ) {
        let id = self.waiting.park(caller, None, EndsBy::Kill, answer);
        let (inner, request) = (self.clone(), caller.request);
        self.workers.of(queue).run(move || {
            let _at = inner.working(word_of(queue), request);
            let result = work(&inner.tree).map_err(|error| inner.errno(operation, error));
            inner.waiting.complete(id, result);
        });
    }

    /// Commits, and answers when it is done.
    pub(super) fn commit(
        self: &Arc<Self>,
        caller: &Caller,
        operation: &'static str,
        commits: Commits,
        answer: Resume,
    ) {
        let id = self.waiting.park(caller, None, EndsBy::Kill, answer);
        self.queue_commit(id, caller.request, operation, commits);
    }

    fn queue_commit(
        self: &Arc<Self>,
        id: u64,
        request: u64,
        operation: &'static str,
        commits: Commits,
    ) {
        let inner = self.clone();
        let done = Box::new(move |result: Result<(), OpError>| {
            let result = result.map_err(|error| inner.errno(operation, error));
            inner.waiting.complete(id, result);
        });
        let queue = self.tree.queue_of(&commits);
        self.workers
            .of(queue)
            .queue(Job::Commit(request, commits, done));
    }

    /// A descriptor was closed: the closer thread asks `/proc` who closed it.
    pub(super) fn close(self: &Arc<Self>, caller: Caller, handle: u64, answer: Resume) {
        let id = self.waiting.park(&caller, None, EndsBy::Kill, answer);
        let inner = self.clone();
        self.workers.closer.run(move || {
            let _at = inner.working(Slot::Closing, caller.request);
            let commits = inner.tree.close(&caller, handle);
            match commits.is_empty() {
                true => inner.waiting.complete(id, Ok(())),
                false => inner.queue_commit(id, caller.request, "close", commits),
            }
        });
    }

    /// The last descriptor of a file is gone. Queued behind the closes before it.
    /// It is answered when that is in the journal: otherwise the kernel sends it again to the next server.
    pub(super) fn release(self: &Arc<Self>, caller: Caller, handle: u64, reply: ReplyEmpty) {
        let inner = self.clone();
        let settles = self.tree.begin_release(handle);
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.mark_unanswered(caller.request);
        }
        self.workers.closer.run(move || {
            let commits = inner.tree.release(handle);
            reply.ok();
            if let Some(heartbeat) = &inner.heartbeat {
                heartbeat.mark_answered(caller.request);
            }
            inner.commit_released(commits, settles);
        });
    }

    /// Commits writes that no close waits for; readers of the name may wait for them.
    pub(super) fn commit_released(self: &Arc<Self>, commits: Commits, settles: Option<Place>) {
        let number = commits.number() | CLOSED;
        let is_poisonous = |heartbeat: &HeartbeatPage| heartbeat.is_poisonous(number);
        if self.heartbeat.as_ref().is_some_and(is_poisonous) {
            tracing::error!("a write ended two servers, and is given up");
            self.tree.give_up(&commits);
            return self.settled(settles);
        }
        let inner = self.clone();
        let done = Box::new(move |result: Result<(), OpError>| {
            if let Err(error) = result {
                inner.errno("a write whose file had no close left to report it", error);
            }
            inner.settled(settles);
        });
        // Queued even if there is nothing to commit, to come after the commits of the closes before it.
        let queue = self.tree.queue_of(&commits);
        self.workers
            .of(queue)
            .queue(Job::Commit(number, commits, done));
    }

    fn settled(&self, settles: Option<Place>) {
        if let Some(place) = settles {
            self.tree.settled(&place);
            self.waiting.wake(&WaitOn::Write(place));
        }
    }

    pub(super) fn open(
        self: Arc<Self>,
        caller: Caller,
        ino: u64,
        flags: i32,
        has_waited: bool,
        reply: ReplyOpen,
    ) {
        match self.tree.open(&caller, ino, flags, has_waited) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(opened)),
            Err(OpError::Blocked(on)) => {
                let inner = self.clone();
                let resume = answer(reply, move |reply| {
                    inner.open(caller, ino, flags, true, reply)
                });
                self.park(&caller, on, EndsBy::AnyThatEnds, resume);
            }
            Err(error) => reply.error(self.errno("open", error)),
        }
    }

    /// Asks the tree and answers, or parks the request and asks again later. `ask` gets whether it has waited.
    pub(super) fn reply<R: Refuse, T>(
        self: Arc<Self>,
        caller: Caller,
        operation: &'static str,
        has_waited: bool,
        reply: R,
        ask: impl Fn(&Tree, bool) -> Result<T, OpError> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        match ask(&self.tree, has_waited) {
            Ok(given) => give(reply, given),
            Err(OpError::Blocked(on)) => {
                let inner = self.clone();
                let again = move |reply| inner.reply(caller, operation, true, reply, ask, give);
                self.park(&caller, on, EndsBy::AnyThatEnds, answer(reply, again));
            }
            Err(error) => reply.refuse(self.errno(operation, error)),
        }
    }
}

fn word_of(queue: WorkQueue) -> Slot {
    match queue {
        WorkQueue::Store => Slot::Committing,
        WorkQueue::Database => Slot::Saving,
    }
}
