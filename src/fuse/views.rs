//! Turns fuser's calls into those of the tree of views. The kernel checks who may do what, and opens by itself.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, ReplyStatfs, Request,
};

use super::convert::{caller, text_of};
use super::errors::Failures;
use super::init::MAX_WRITE;
use super::reply::ErrorReply;
use super::waiting::{InterruptedBy, Waiting};
use crate::live::{Caller, OpError};
use crate::metrics::MountCounters;
use crate::process::heartbeat::{HeartbeatPage, OF_VIEWS, Slot};
use crate::sync::Mutex;
use crate::views::{Answer, Ask, OpenAudit, ViewAttr, ViewError, Views};

/// An older kernel works without those that it does not have.
const CAPABILITIES: [InitFlags; 5] = [
    // A lookup that waits must not lock the folder.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // The kernel opens files and folders by itself, once an open was answered with ENOSYS.
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    // The kernel keeps a listing for as long as the folder's modification time stays the same.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    // Containers with user namespaces mount views with mapped users.
    InitFlags::FUSE_ALLOW_IDMAP,
];

/// The filesystem of the views: fuser calls it for each request.
pub struct ViewsFs(Arc<Dispatcher>);

struct Dispatcher {
    views: Arc<Views>,
    waiting: Arc<Waiting>,
    heartbeat: HeartbeatPage,
    failures: Failures,
    counters: Arc<MountCounters>,
    /// Whether the kernel can open folders by itself (Linux 5.1).
    opens_folders: Mutex<bool>,
}

impl ViewsFs {
    /// The filesystem over a tree. Its requests are counted in `counters`.
    pub(crate) fn new(
        views: Arc<Views>,
        heartbeat: HeartbeatPage,
        counters: Arc<MountCounters>,
    ) -> Self {
        Self(Arc::new(Dispatcher {
            views,
            waiting: Arc::new(Waiting::new(Some(heartbeat), counters.clone())),
            heartbeat,
            failures: Failures::new(counters.clone()),
            counters,
            opens_folders: Mutex::new(true),
        }))
    }
}

impl Dispatcher {
    /// Begins a request, as the live tree's does: the heartbeat page shows that a server works on it.
    fn begin<R: ErrorReply>(
        self: &Arc<Self>,
        request: &Request,
        reply: R,
        operation: impl FnOnce(&Arc<Self>, Caller, R),
    ) {
        self.counters.requests.increment();
        let mut caller = caller(request);
        caller.request |= OF_VIEWS;
        if caller.is_resend && self.heartbeat.is_poisonous(caller.request) {
            tracing::error!("two servers crashed on a request, so it fails: {request:?}");
            return reply.fail(self.failures.count(Errno::EIO));
        }
        self.heartbeat.set(Slot::LastViewsRequest, caller.request);
        let _working = self
            .heartbeat
            .working_on(Slot::ReadingViews, caller.request);
        operation(self, caller, reply);
    }

    /// Asks the tree, and answers. While the answer has to be waited for, the request is parked.
    fn ask<R: ErrorReply, T>(
        self: &Arc<Self>,
        caller: Caller,
        operation: &'static str,
        reply: R,
        answer: Option<Answer>,
        ask: impl Fn(&Views, Option<Answer>) -> Result<T, ViewError> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let Some(_turn) = self.views.turn() else {
            return reply.fail(Errno::ENOTCONN);
        };
        let has_waited = answer.is_some();
        let error = match ask(&self.views, answer) {
            Ok(given) => return give(reply, given),
            Err(ViewError::Ask(what)) if !has_waited => {
                return self.park(caller, operation, what, reply, ask, give);
            }
            Err(ViewError::Ask(_)) => OpError::Errno(libc::EIO),
            Err(ViewError::Errno(errno)) => OpError::Errno(errno),
            Err(ViewError::Error(error)) => OpError::Error(error),
        };
        reply.fail(self.failures.errno(operation, error));
    }

    fn park<R: ErrorReply, T>(
        self: &Arc<Self>,
        caller: Caller,
        operation: &'static str,
        what: Ask,
        reply: R,
        ask: impl Fn(&Views, Option<Answer>) -> Result<T, ViewError> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let answer: Arc<Mutex<Option<Answer>>> = Arc::default();
        let (fs, answered) = (self.clone(), answer.clone());
        let resume = Box::new(move |result: Result<(), Errno>| match result {
            Ok(()) => {
                let answer = answered.lock().take().unwrap_or(Answer::InSnapshot);
                fs.ask(caller, operation, reply, Some(answer), ask, give);
            }
            Err(errno) => reply.fail(errno),
        });
        let signals = InterruptedBy::EndingSignals;
        let id = self.waiting.park(&caller, None, signals, resume);
        let waiting = self.waiting.clone();
        self.views.ask(what, move |got| {
            *answer.lock() = Some(got);
            waiting.complete(id, Ok(()));
        });
    }
}

impl Filesystem for ViewsFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let flag = InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        *self.0.opens_folders.lock() = config.capabilities().contains(flag);
        let version = config.kernel_abi();
        self.0
            .views
            .kernel_names()
            .set_protocol((version.0, version.1));
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.waiting.end_all();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.begin(request, reply, |fs, caller, reply| {
            let name = match text_of(name, libc::ENOENT) {
                Ok(name) => name,
                Err(errno) => return reply.error(fs.failures.count(errno)),
            };
            fs.ask(
                caller,
                "lookup in a view",
                reply,
                None,
                move |views, answer| views.lookup(parent.0, &name, answer),
                |reply, entry| {
                    let attr = file_attr(&entry.attr);
                    let valid = (entry.attr.valid, entry.valid);
                    reply.entry_with_ttls(&valid.0, &valid.1, &attr, Generation(0));
                },
            );
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.0.views.forget(ino.0, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.ask(
                caller,
                "stat in a view",
                reply,
                None,
                move |views, _| views.attr(ino.0),
                |reply, attr| reply.attr(&attr.valid, &file_attr(&attr)),
            );
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.begin(request, reply, |fs, caller, reply| {
            if fs.views.open_audit() != OpenAudit::Open {
                return reply.error(Errno::ENOSYS);
            }
            let (uid, tid) = (caller.uid, caller.tid);
            fs.ask(
                caller,
                "open in a view",
                reply,
                None,
                move |views, _| {
                    views.record_open(ino.0, uid, tid);
                    Ok(())
                },
                |reply, ()| {
                    let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.opened(FileHandle(0), flags);
                },
            );
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match *self.0.opens_folders.lock() {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.ask(
                caller,
                "read in a view",
                reply,
                None,
                move |views, _| views.read(ino.0),
                move |reply, value| {
                    let rest = value.as_bytes().get(offset as usize..).unwrap_or_default();
                    reply.data(&rest[..rest.len().min(size as usize)]);
                },
            );
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.ask(
                caller,
                "list a view",
                reply,
                None,
                move |views, answer| views.list(ino.0, answer.is_some()),
                move |mut reply, listed| {
                    let behind = listed.partition_point(|entry| entry.offset <= offset);
                    for entry in &listed[behind..] {
                        let kind = file_type(entry.is_dir);
                        if reply.add(INodeNo(entry.ino), entry.offset, kind, &entry.name) {
                            break;
                        }
                    }
                    reply.ok();
                },
            );
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // There is no free space, because nothing can be written.
        reply.statfs(1, 0, 0, 0, 0, 4096, 255, 4096);
    }
}

fn file_type(is_dir: bool) -> FileType {
    match is_dir {
        true => FileType::Directory,
        false => FileType::RegularFile,
    }
}

fn file_attr(attr: &ViewAttr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.changed_at,
        mtime: attr.changed_at,
        ctime: attr.changed_at,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.is_dir),
        perm: attr.owner.mode,
        nlink: attr.nlink,
        uid: attr.owner.uid,
        gid: attr.owner.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
