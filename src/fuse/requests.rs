//! What all operations share: how a request begins, and how it is answered, at once or after a wait.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    ReplyXattr, Request,
};
use zeroize::Zeroizing;

use super::convert::{self, caller, text_of};
use super::errors::Failures;
use super::reply::{Device, ErrorReply, xattr_reply};
use super::threads::{Job, Workers};
use super::waiting::{InterruptedBy, Resume, Waiting};
use crate::live::{
    Attr, AttrChange, AttrChanged, Caller, Commits, LookupReply, OpError, Tree, WaitOn, WorkQueue,
};
use crate::process::heartbeat::{HeartbeatPage, Slot, WorkingOn};
use crate::versions::DirEntry;

/// The tree, the requests that wait for it, and the threads that work on it.
pub(super) struct Dispatcher {
    pub(super) tree: Arc<Tree>,
    pub(super) waiting: Arc<Waiting>,
    /// Where the threads write which request they work on, for the next server; `None`: there is no next server.
    heartbeat: Option<HeartbeatPage>,
    pub(super) workers: Workers,
    failures: Failures,
    pub(super) device: Device,
}

/// A [`Resume`] that calls `resume` with the reply, or answers with the errno.
fn resume_with<R: ErrorReply>(reply: R, resume: impl FnOnce(R) + Send + 'static) -> Resume {
    Box::new(move |result| match result {
        Ok(()) => resume(reply),
        Err(errno) => reply.fail(errno),
    })
}

/// An extended attribute of any folder: this prefix and a key's name give why the last operation on that key failed.
const ERROR_OF: &str = "user.simpletuner.error.";
/// On the heartbeat page, a commit without a request has the inode's number with this bit, which no request's number has.
const WITHOUT_REQUEST: u64 = 1 << 62;

impl Dispatcher {
    pub(super) fn new(tree: Arc<Tree>, heartbeat: Option<HeartbeatPage>) -> io::Result<Self> {
        let counters = &tree.counters().live;
        Ok(Self {
            waiting: Arc::new(Waiting::new(heartbeat, counters.clone())),
            workers: Workers::start(tree.clone(), heartbeat)?,
            heartbeat,
            failures: Failures::new(counters.clone()),
            device: Device::default(),
            tree,
        })
    }

    /// Whether two servers crashed on this request.
    pub(super) fn is_poisonous(&self, request: &Request) -> bool {
        let caller = caller(request);
        let is_poisonous = |page: &HeartbeatPage| page.is_poisonous(caller.request);
        caller.is_resend && self.heartbeat.as_ref().is_some_and(is_poisonous)
    }

    /// Begins a request: `operation` gets it with its caller, while the heartbeat page shows that the reading thread works
    /// on it. A poisonous request fails with EIO instead.
    pub(super) fn begin<R: ErrorReply>(
        self: &Arc<Self>,
        request: &Request,
        reply: R,
        operation: impl FnOnce(&Arc<Self>, Caller, R),
    ) {
        self.tree.counters().live.requests.increment();
        if self.is_poisonous(request) {
            tracing::error!("two servers crashed on a request, so it fails: {request:?}");
            return self.refuse(reply, Errno::EIO);
        }
        let caller = caller(request);
        if let Some(page) = &self.heartbeat {
            page.set(Slot::LastRequest, caller.request);
        }
        let _working = self.working_on(Slot::Reading, caller.request);
        operation(self, caller, reply);
    }

    /// As [`Dispatcher::begin`], for an operation on a name. A name that is too long fails with ENAMETOOLONG, and one that
    /// is not UTF-8 with `errno`.
    pub(super) fn begin_named<R: ErrorReply>(
        self: &Arc<Self>,
        request: &Request,
        name: &OsStr,
        errno: i32,
        reply: R,
        operation: impl FnOnce(&Arc<Self>, Caller, String, R),
    ) {
        self.begin(request, reply, |fs, caller, reply| {
            match text_of(name, errno) {
                Ok(name) => operation(fs, caller, name, reply),
                Err(errno) => fs.refuse(reply, errno),
            }
        });
    }

    /// Answers with an errno of which the tree knows nothing.
    pub(super) fn refuse(&self, reply: impl ErrorReply, errno: Errno) {
        reply.fail(self.failures.count(errno));
    }

    fn working_on(&self, slot: Slot, request: u64) -> Option<WorkingOn> {
        Some(self.heartbeat.as_ref()?.working_on(slot, request))
    }

    /// The request is answered later, but not parked.
    fn mark_unanswered(&self, caller: &Caller) {
        if let Some(page) = &self.heartbeat {
            page.mark_unanswered(caller.request);
        }
    }

    fn mark_answered(&self, caller: &Caller) {
        if let Some(page) = &self.heartbeat {
            page.mark_answered(caller.request);
        }
    }

    /// Begins a request, asks the tree, and answers. While the tree is blocked, the request is parked, and the tree is then
    /// asked again. `ask` also gets whether the request has waited.
    pub(super) fn ask<R: ErrorReply, T>(
        self: &Arc<Self>,
        request: &Request,
        operation: &'static str,
        reply: R,
        ask: impl Fn(&Tree, &Caller, bool) -> Result<T, OpError> + Send + 'static,
        give: impl FnOnce(&Arc<Self>, R, T) + Send + 'static,
    ) {
        self.begin(request, reply, |fs, caller, reply| {
            fs.ask_for(caller, operation, reply, ask, give);
        });
    }

    /// As [`Dispatcher::ask`], for a request that has begun.
    pub(super) fn ask_for<R: ErrorReply, T>(
        self: &Arc<Self>,
        caller: Caller,
        operation: &'static str,
        reply: R,
        ask: impl Fn(&Tree, &Caller, bool) -> Result<T, OpError> + Send + 'static,
        give: impl FnOnce(&Arc<Self>, R, T) + Send + 'static,
    ) {
        self.ask_again(caller, operation, false, reply, ask, give);
    }

    fn ask_again<R: ErrorReply, T>(
        self: &Arc<Self>,
        caller: Caller,
        operation: &'static str,
        has_waited: bool,
        reply: R,
        ask: impl Fn(&Tree, &Caller, bool) -> Result<T, OpError> + Send + 'static,
        give: impl FnOnce(&Arc<Self>, R, T) + Send + 'static,
    ) {
        match ask(&self.tree, &caller, has_waited) {
            Ok(given) => give(self, reply, given),
            Err(OpError::Blocked(on)) => {
                let fs = self.clone();
                let again = move |reply| fs.ask_again(caller, operation, true, reply, ask, give);
                self.park(&caller, on, resume_with(reply, again));
            }
            Err(error) => reply.fail(self.errno(operation, error)),
        }
    }

    /// Answers with the result of an operation that never waits.
    pub(super) fn answer<R: ErrorReply, T>(
        &self,
        operation: &str,
        result: Result<T, OpError>,
        reply: R,
        give: impl FnOnce(R, T),
    ) {
        match result {
            Ok(given) => give(reply, given),
            Err(error) => reply.fail(self.errno(operation, error)),
        }
    }

    /// Answers a lookup.
    pub(super) fn entry(&self, caller: &Caller, found: &LookupReply, reply: ReplyEntry) {
        let (number, owner) = (convert::unique(caller), self.tree.owner());
        if let Err(reply) = self.device.entry(number, found, owner, reply) {
            let attr = self.file_attr(found.nodeid, &found.attr);
            reply.entry_with_ttls(&Duration::ZERO, &found.valid, &attr, Generation(0));
        }
    }

    /// The errno for the kernel; logs the reason.
    pub(super) fn errno(&self, operation: &str, error: OpError) -> Errno {
        self.failures.errno(operation, error)
    }

    /// Attributes in fuser's form, with `nodeid` as the inode number.
    pub(super) fn file_attr(&self, nodeid: u64, attr: &Attr) -> FileAttr {
        convert::file_attr(self.tree.owner(), nodeid, attr)
    }

    /// Parks a request until what it is blocked on is over.
    fn park(&self, caller: &Caller, on: WaitOn, resume: Resume) {
        let interrupted_by = InterruptedBy::EndingSignals;
        self.waiting
            .park(caller, Some(on.clone()), interrupted_by, resume);
        let wake = {
            let (waiting, on) = (self.waiting.clone(), on.clone());
            Box::new(move || waiting.wake(&on))
        };
        self.tree.when_unblocked(&on, wake);
    }

    /// Runs an operation that may wait on the worker of its queue, and then answers.
    pub(super) fn work(
        self: &Arc<Self>,
        caller: &Caller,
        operation: &'static str,
        queue: WorkQueue,
        reply: ReplyEmpty,
        work: impl FnOnce(&Tree) -> Result<(), OpError> + Send + 'static,
    ) {
        let done = resume_with(reply, ReplyEmpty::ok);
        let id = self
            .waiting
            .park(caller, None, InterruptedBy::KillSignals, done);
        let (fs, request) = (self.clone(), caller.request);
        self.workers.of(queue).run(move || {
            let _working = fs.working_on(slot_of(queue), request);
            let result = work(&fs.tree).map_err(|error| fs.errno(operation, error));
            fs.waiting.complete(id, result);
        });
    }

    /// Commits, and then resumes the request.
    fn commit(
        self: &Arc<Self>,
        caller: &Caller,
        operation: &'static str,
        commits: Commits,
        resume: Resume,
    ) {
        let id = self
            .waiting
            .park(caller, None, InterruptedBy::KillSignals, resume);
        let fs = self.clone();
        let done = Box::new(move |result: Result<(), OpError>| {
            let result = result.map_err(|error| fs.errno(operation, error));
            fs.waiting.complete(id, result);
        });
        let queue = self.tree.queue_of(&commits);
        self.workers
            .of(queue)
            .queue(Job::Commit(caller.request, commits, done));
    }

    /// A process closed a descriptor. The thread `close` asks `/proc` which process, and commits if it is the opener's last. Only
    /// then can a signal end the wait: a process that is gone could not be told from the opener.
    pub(super) fn close(self: &Arc<Self>, caller: Caller, handle: u64, reply: ReplyEmpty) {
        if handle == 0 {
            return reply.ok();
        }
        let fs = self.clone();
        self.mark_unanswered(&caller);
        self.workers.closer.run(move || {
            let _working = fs.working_on(Slot::Closing, caller.request);
            let commits = fs.tree.close(&caller, handle);
            if commits.is_empty() {
                reply.ok();
                return fs.mark_answered(&caller);
            }
            let done = resume_with(reply, ReplyEmpty::ok);
            fs.commit(&caller, "close", commits, done);
        });
    }

    /// The last descriptor of a file is gone. The release is queued behind the closes before it, and answered once it is in
    /// the journal: until then, the kernel would resend it to the next server.
    pub(super) fn release(self: &Arc<Self>, caller: Caller, handle: u64, reply: ReplyEmpty) {
        if handle == 0 {
            return reply.ok();
        }
        let fs = self.clone();
        let releasing = self.tree.begin_release(handle);
        self.mark_unanswered(&caller);
        self.workers.closer.run(move || {
            let commits = fs.tree.release(handle);
            reply.ok();
            fs.mark_answered(&caller);
            fs.commit_released(commits, releasing);
        });
    }

    /// Commits writes that no close waits for. Readers of the name may wait for `releasing`.
    pub(super) fn commit_released(self: &Arc<Self>, commits: Commits, releasing: Option<DirEntry>) {
        let number = commits.first_ino() | WITHOUT_REQUEST;
        let is_poisonous = |page: &HeartbeatPage| page.is_poisonous(number);
        if self.heartbeat.as_ref().is_some_and(is_poisonous) {
            tracing::error!("two servers crashed on a write, so it is dropped");
            self.tree.discard(&commits);
            return self.end_release(releasing);
        }
        let fs = self.clone();
        let done = Box::new(move |result: Result<(), OpError>| {
            if let Err(error) = result {
                fs.errno("a write that no close can report", error);
            }
            fs.end_release(releasing);
        });
        // Queued even if nothing is to be committed, so that readers are released only after the earlier closes' commits.
        let queue = self.tree.queue_of(&commits);
        self.workers
            .of(queue)
            .queue(Job::Commit(number, commits, done));
    }

    fn end_release(&self, releasing: Option<DirEntry>) {
        if let Some(dir_entry) = releasing {
            self.tree.end_release(&dir_entry);
            self.waiting.wake(&WaitOn::Write(dir_entry));
        }
    }

    /// Reads a file. Bytes in memory go to the kernel without a copy; those that a request had to wait for are copied.
    pub(super) fn read(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        handle: u64,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let mut reply = Some(reply);
        let result = self.tree.read(ino, handle, offset, size, false, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        let (Err(error), Some(reply)) = (result, reply) else {
            return;
        };
        match error {
            OpError::Blocked(_) => self.ask_for(
                caller,
                "read",
                reply,
                move |tree, _, has_waited| {
                    let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
                    tree.read(ino, handle, offset, size, has_waited, copy)
                },
                |_, reply, bytes| reply.data(&bytes),
            ),
            error => reply.error(self.errno("read", error)),
        }
    }

    /// Writes into a buffer. Only a request that has to wait copies its data.
    pub(super) fn write(
        self: &Arc<Self>,
        caller: Caller,
        handle: u64,
        offset: u64,
        data: &[u8],
        appends: bool,
        reply: ReplyWrite,
    ) {
        match (self.tree).write(&caller, handle, offset, data, appends, false) {
            Ok(count) => reply.written(count),
            Err(OpError::Blocked(_)) => {
                let data = Zeroizing::new(data.to_vec());
                self.ask_for(
                    caller,
                    "write",
                    reply,
                    move |tree, caller, has_waited| {
                        tree.write(caller, handle, offset, &data, appends, has_waited)
                    },
                    |_, reply, count| reply.written(count),
                );
            }
            Err(error) => reply.error(self.errno("write", error)),
        }
    }

    /// Changes attributes. A truncation by name is committed before the answer.
    pub(super) fn set_attr(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        handle: Option<u64>,
        change: AttrChange,
        reply: ReplyAttr,
    ) {
        let operation = match change.size {
            Some(_) => "truncate",
            None => "setattr",
        };
        let give = |fs: &Self, reply: ReplyAttr, attr: &Attr| {
            reply.attr(&Duration::ZERO, &fs.file_attr(attr.ino, attr));
        };
        self.ask_for(
            caller,
            operation,
            reply,
            move |tree, caller, has_waited| tree.set_attr(caller, ino, handle, change, has_waited),
            move |fs, reply, changed| match changed {
                AttrChanged::Done(attr) => give(fs, reply, &attr),
                AttrChanged::Commit(commits, attr) => {
                    let done = fs.clone();
                    let done = resume_with(reply, move |reply| give(&done, reply, &attr));
                    fs.commit(&caller, operation, commits, done);
                }
            },
        );
    }

    /// Reads an extended attribute.
    pub(super) fn xattr(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        name: String,
        size: u32,
        reply: ReplyXattr,
    ) {
        if let Some(key) = name.strip_prefix(ERROR_OF) {
            let may_read = self.tree.access(&caller, ino, libc::R_OK).is_ok();
            return match self.failures.last_of(key).filter(|_| may_read) {
                Some(reason) => xattr_reply(reason.as_bytes(), size, reply),
                None => self.refuse(reply, Errno::NO_XATTR),
            };
        }
        self.ask_for(
            caller,
            "getxattr",
            reply,
            move |tree, caller, _| tree.xattr(caller, ino, &name),
            move |_, reply, value| xattr_reply(value.as_bytes(), size, reply),
        );
    }
}

fn slot_of(queue: WorkQueue) -> Slot {
    match queue {
        WorkQueue::Store => Slot::Committing,
        WorkQueue::Database => Slot::Saving,
    }
}
