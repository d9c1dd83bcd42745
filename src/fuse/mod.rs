//! fuser's calls turned into the tree's, and the tree's errors into errnos. Decides nothing about secrets.
//!
//! One thread reads requests, so a release that is read is handled before an open that follows it. It never waits:
//! what may, goes to the commit thread, or is parked until a provider has answered.

mod requests;
mod threads;
pub(crate) mod vitals;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::tree::{AttrChange, AttrChanged, Closing, KernelInfo, Tree};
use requests::{Inner, answer, caller, file_type, fuse_errno, open_flags, utf8};
use threads::{Notice, Workers};
use vitals::Vitals;
use waiting::Waiting;

/// The largest single write the kernel sends. Values are 64 KiB; fuser has a buffer for 16 MiB, of which only what is
/// used becomes resident.
const MAX_WRITE: u32 = 128 * 1024;
/// For how long the end of a mount waits for the last writes.
const PATIENCE: Duration = Duration::from_secs(15);
/// Releases are background requests: past this many unanswered ones they would be held back, and reordered.
const MAX_BACKGROUND: u16 = 1024;

/// The filesystem: the tree, and who waits for it.
pub struct Fs(Arc<Inner>);

/// What is left to start when the session is there.
pub struct Notices(Receiver<Notice>);

impl Notices {
    /// Begins to tell the kernel of changes.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(self, notifier: Notifier) -> io::Result<()> {
        threads::start_notifying(notifier, self.0)
    }
}

impl Fs {
    /// The filesystem over a tree, and what is to be started with its session. What it is at shows in its vitals, if
    /// it has any.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn new(tree: Arc<Tree>, vitals: Option<Vitals>) -> io::Result<(Self, Notices)> {
        let (notices, receiver) = channel();
        let sender = notices.clone();
        tree.on_outdated(Box::new(move |outdated| {
            drop(sender.send(Notice::Outdated(outdated)))
        }));
        let inner = Inner {
            tree,
            waiting: Arc::new(Waiting::new(vitals.clone())),
            vitals,
            workers: Workers::start()?,
            notices,
        };
        Ok((Self(Arc::new(inner)), Notices(receiver)))
    }
}

/// Ends what is under way, when the mount ends.
#[derive(Clone)]
pub struct Drain(Arc<Inner>);

impl Fs {
    /// What finishes the writes of this filesystem.
    pub fn drain(&self) -> Drain {
        Drain(self.0.clone())
    }
}

impl Drain {
    /// Goes on with commits that a server before this one left.
    pub(crate) fn resume(&self, unfinished: Vec<Closing>) {
        for closing in unfinished {
            self.0.commit_released(closing);
        }
    }

    /// Waits until all writes that were closed are on disk, but no longer than 15 seconds.
    pub fn finish(&self) {
        let (sender, receiver) = channel();
        let running = self.0.workers.running().map(|worker| {
            let sender = sender.clone();
            worker.run(move || {
                // Whoever waited has given up.
                let _ = sender.send(());
            });
        });
        let count = running.count();
        let until = Instant::now() + PATIENCE;
        for _ in 0..count {
            let left = until.saturating_duration_since(Instant::now());
            if receiver.recv_timeout(left).is_err() {
                tracing::error!("gave up waiting for the last writes");
                break;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        // What was done is recorded even if nothing is left of the time.
        self.0.tree.flush_audit(left.max(Duration::from_secs(1)));
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            // One lookup that is slow must not hold the folder.
            InitFlags::FUSE_PARALLEL_DIROPS,
            // `ls -l` in one trip a page of names.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            // An older kernel does without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let version = config.kernel_abi();
        let resend = config.capabilities().contains(InitFlags::FUSE_HAS_RESEND);
        self.0.tree.set_mount_info(|info| {
            info.kernel = KernelInfo {
                fuse: format!("{}.{}", version.0, version.1),
                resend,
            };
        });
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.waiting.end_all();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let Ok(name) = utf8(name) else {
            return reply.error(Errno::ENOENT);
        };
        match self.0.tree.lookup(&caller(request), parent.0, name) {
            Ok(found) => {
                let attr = self.0.file_attr(found.node, &found.attr);
                reply.entry_with_ttls(&found.attr.valid, &found.valid, &attr, Generation(0));
            }
            Err(stop) => reply.error(fuse_errno(stop)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.0.tree.forget(ino.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        self.0
            .clone()
            .getattr(caller(request), ino.0, handle.map(|handle| handle.0), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let (asking, ino) = (caller(request), ino.0);
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let change = AttrChange {
            mode,
            uid,
            gid,
            size,
            mtime,
        };
        match self
            .0
            .tree
            .set_attr(&asking, ino, handle.map(|handle| handle.0), change)
        {
            Ok(AttrChanged::Done(attr)) => {
                reply.attr(&Duration::ZERO, &self.0.file_attr(attr.ino, &attr));
            }
            Ok(AttrChanged::Commit(closing)) => {
                let inner = self.0.clone();
                let done = answer(reply, move |reply| inner.getattr(asking, ino, None, reply));
                let lane = self.0.tree.lane(closing.node());
                // Not told first: the kernel holds the inode while it waits for this answer.
                self.0.work(&asking, lane, done, false, move |tree| {
                    tree.commit(&closing)
                });
            }
            Err(stop) => reply.error(fuse_errno(stop)),
        }
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let Ok(name) = utf8(name).map(String::from) else {
            return reply.error(Errno::ENOENT);
        };
        let (asking, parent) = (caller(request), parent.0);
        let lane = self.0.tree.lane_of_names(parent, &[&name]);
        let done = answer(reply, ReplyEmpty::ok);
        self.0.work(&asking, lane, done, false, move |tree| {
            tree.unlink(&asking, parent, &name)
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let (Ok(name), Ok(new_name)) = (
            utf8(name).map(String::from),
            utf8(new_name).map(String::from),
        ) else {
            return reply.error(Errno::EINVAL);
        };
        let (asking, parent, new_parent) = (caller(request), parent.0, new_parent.0);
        let lane = self.0.tree.lane_of_names(parent, &[&name, &new_name]);
        let done = answer(reply, ReplyEmpty::ok);
        self.0.work(&asking, lane, done, false, move |tree| {
            tree.rename(&asking, parent, &name, new_parent, &new_name, flags.bits())
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        self.0.clone().open(caller(request), ino.0, flags.0, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let Ok(name) = utf8(name) else {
            return reply.error(Errno::EINVAL);
        };
        match self.0.tree.create(&caller(request), parent.0, name, flags) {
            Ok((found, opened)) => {
                let attr = self.0.file_attr(found.node, &found.attr);
                let handle = FileHandle(opened.handle);
                reply.created(
                    &Duration::ZERO,
                    &attr,
                    Generation(0),
                    handle,
                    open_flags(opened),
                );
            }
            Err(stop) => reply.error(fuse_errno(stop)),
        }
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let mut reply = Some(reply);
        let result = self.0.tree.read(handle.0, offset, size, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        if let (Err(errno), Some(reply)) = (result, reply) {
            reply.error(Errno::from_i32(errno));
        }
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        match self.0.tree.write(&asking, handle.0, offset, data) {
            Ok(count) => reply.written(count),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        match self.0.tree.flush(&asking, handle.0) {
            None => reply.ok(),
            Some(closing) => {
                let lane = self.0.tree.lane(closing.node());
                self.0.work(
                    &asking,
                    lane,
                    answer(reply, ReplyEmpty::ok),
                    true,
                    move |tree| tree.commit(&closing),
                )
            }
        }
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        if let Some(closing) = self.0.tree.release(handle.0) {
            self.0.commit_released(closing);
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // A write takes effect, and reaches the disk, when it is closed.
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        self.0.clone().reply(
            asking,
            reply,
            move |tree| tree.open_dir(&asking, ino.0),
            |reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let result = self.0.tree.read_dir(handle.0, offset, |listed, next| {
            let kind = file_type(listed.kind);
            !reply.add(INodeNo(listed.ino), next, kind, &listed.name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let result = self
            .0
            .tree
            .read_dir_plus(handle.0, offset, |name, found, next| {
                let attr = self.0.file_attr(found.node, &found.attr);
                let valid = found.attr.valid.min(found.valid);
                !reply.add(
                    INodeNo(found.attr.ino),
                    next,
                    name,
                    &valid,
                    &attr,
                    Generation(0),
                )
            });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.tree.release_dir(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // Programs that look for room before they write find some; how much is left is the disk's affair.
        const BLOCKS: u64 = 1 << 20;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let (asking, mask) = (caller(request), mask.bits());
        self.0.clone().reply(
            asking,
            reply,
            move |tree| tree.access(&asking, ino.0, mask),
            |reply, ()| reply.ok(),
        );
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let Ok(name) = utf8(name).map(String::from) else {
            return reply.error(Errno::NO_XATTR);
        };
        let asking = caller(request);
        self.0.clone().reply(
            asking,
            reply,
            move |tree| tree.xattr(&asking, ino.0, &name),
            move |reply, value| xattr_reply(value.as_bytes(), size, reply),
        );
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        self.0.clone().reply(
            asking,
            reply,
            move |tree| tree.xattr_names(&asking, ino.0),
            move |reply, names| xattr_reply(&names, size, reply),
        );
    }
}

/// getxattr(2) and listxattr(2): size 0 asks for the length.
fn xattr_reply(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(bytes.len() as u32),
        room if bytes.len() <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}
