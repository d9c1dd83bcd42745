//! fuser's calls turned into the tree's, and the tree's errors into errnos. Decides nothing about secrets.
//!
//! One thread reads requests, and never waits. A request that may wait goes to another thread, or is parked until a
//! provider has answered.

mod errors;
mod reply;
mod requests;
mod threads;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use zeroize::Zeroizing;

use crate::live::{AttrChange, AttrChanged, Commits, Found, KernelInfo, OpError, Tree};
use crate::process::heartbeat::HeartbeatPage;
use errors::Failures;
use reply::Device;
use requests::{Inner, answer, caller, file_type, open_flags, utf8};
use threads::Workers;
use waiting::Waiting;

/// The largest single write the kernel sends. Values are 64 KiB; fuser has a buffer for 16 MiB, of which only what is
/// used becomes resident.
const MAX_WRITE: u32 = 128 * 1024;
/// An extended attribute of any folder: why the last operation on the key whose name follows failed.
const ERROR_OF: &str = "user.simpletuner.error.";
/// For how long the end of a mount waits for the last writes.
const PATIENCE: Duration = Duration::from_secs(15);
/// Releases are background requests: past this many unanswered ones they would be held back, and reordered.
const MAX_BACKGROUND: u16 = 1024;

/// The filesystem: the tree, and who waits for it.
pub struct Fs(Arc<Inner>);

impl Fs {
    /// The filesystem over a tree. With `heartbeat`, it writes there which request each thread is working on.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn new(tree: Arc<Tree>, heartbeat: Option<HeartbeatPage>) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            waiting: Arc::new(Waiting::new(heartbeat.clone())),
            workers: Workers::start(tree.clone(), heartbeat.clone())?,
            heartbeat,
            failures: Failures::default(),
            device: Device::default(),
            tree,
        })))
    }
}

/// Finishes the work under way when the mount ends.
#[derive(Clone)]
pub struct Drain(Arc<Inner>);

impl Fs {
    /// A handle that finishes this filesystem's writes.
    pub fn drain(&self) -> Drain {
        Drain(self.0.clone())
    }
}

impl Drain {
    /// Sets the session's device, for epochs and for answers that fuser cannot give.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(crate) fn set_device(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.0.device.set(device.try_clone_to_owned()?);
        let names = self.0.tree.kernel_names();
        names.set_device(device.try_clone_to_owned()?);
        self.0
            .tree
            .set_mount_info(|info| info.kernel.epoch = names.are_held());
        Ok(())
    }

    /// Continues commits that an earlier server left.
    pub(crate) fn resume(&self, unfinished: Commits) {
        self.0.commit_released(unfinished, None);
    }

    /// Waits until all writes that were closed are on disk, but no longer than 15 seconds.
    pub fn finish(&self) {
        let (sender, receiver) = channel();
        let until = Instant::now() + PATIENCE;
        // In order: the first worker gives work to the others.
        for worker in self.0.workers.running() {
            let sender = sender.clone();
            worker.run(move || {
                // Nobody may wait for it any more.
                let _ = sender.send(());
            });
            let left = until.saturating_duration_since(Instant::now());
            if receiver.recv_timeout(left).is_err() {
                tracing::error!("gave up waiting for the last writes");
                break;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        // The audit trail gets a second even if no time is left.
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
            // The kernel would keep a lock by inode, and a name has another inode after each write: two processes would
            // have the same lock. So the kernel is told to ask here, and locks are refused.
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            // A writer may map what it writes.
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            // An older kernel does without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let version = config.kernel_abi();
        let resend = config.capabilities().contains(InitFlags::FUSE_HAS_RESEND);
        self.0
            .tree
            .kernel_names()
            .set_protocol((version.0, version.1));
        self.0.tree.set_mount_info(|info| {
            info.kernel = KernelInfo {
                fuse: format!("{}.{}", version.0, version.1),
                resend,
                epoch: false,
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
        let (asking, parent, name) = (caller(request), parent.0, name.to_owned());
        let (inner, unique) = (self.0.clone(), request.unique().0);
        self.0.clone().reply(
            asking,
            "lookup",
            false,
            reply,
            move |tree, has_waited| tree.lookup(&asking, parent, &name, has_waited),
            move |reply, found| inner.entry(unique, &found, reply),
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.0.tree.forget(ino.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        let inner = self.0.clone();
        self.0.clone().reply(
            asking,
            "stat",
            false,
            reply,
            move |tree, has_waited| tree.attr(&asking, ino.0, has_waited),
            // Here, the number is the file's, not the inode's: it is what `stat` shows.
            move |reply, attr| reply.attr(&attr.valid, &inner.file_attr(attr.ino, &attr)),
        );
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
        let handle = handle.map(|handle| handle.0);
        let operation = if size.is_some() {
            "truncate"
        } else {
            "setattr"
        };
        let inner = self.0.clone();
        self.0.clone().reply(
            asking,
            operation,
            false,
            reply,
            move |tree, has_waited| tree.set_attr(&asking, ino, handle, change, has_waited),
            move |reply, changed| match changed {
                AttrChanged::Done(attr) => {
                    reply.attr(&Duration::ZERO, &inner.file_attr(attr.ino, &attr));
                }
                AttrChanged::Commit(commits, attr) => {
                    let shown = inner.clone();
                    let done = answer(reply, move |reply: ReplyAttr| {
                        reply.attr(&Duration::ZERO, &shown.file_attr(attr.ino, &attr));
                    });
                    inner.commit(&asking, operation, commits, done);
                }
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        if mode & libc::S_IFMT != libc::S_IFREG && mode & libc::S_IFMT != 0 {
            return reply.error(Errno::EPERM);
        }
        let Ok(name) = utf8(name) else {
            return reply.error(Errno::EINVAL);
        };
        match self.0.tree.make_node(&caller(request), parent.0, name) {
            Ok(found) => self.0.entry(request.unique().0, &found, reply),
            Err(error) => reply.error(self.0.errno("mknod", error)),
        }
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
        let queue = self.0.tree.queue_of_names(parent, &[&name]);
        let done = answer(reply, ReplyEmpty::ok);
        self.0.work(&asking, "unlink", queue, done, move |tree| {
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
        let queue = self.0.tree.queue_of_names(parent, &[&name, &new_name]);
        let done = answer(reply, ReplyEmpty::ok);
        self.0.work(&asking, "rename", queue, done, move |tree| {
            tree.rename(&asking, parent, &name, new_parent, &new_name, flags.bits())
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        self.0
            .clone()
            .open(caller(request), ino.0, flags.0, false, reply);
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
            Err(error) => reply.error(self.0.errno("create", error)),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
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
        let asking = caller(request);
        let (ino, handle) = (ino.0, handle.0);
        // Bytes at hand go to the kernel without a copy; those that a request had to wait for are copied.
        let mut reply = Some(reply);
        let result = self.0.tree.read(ino, handle, offset, size, false, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        let (Err(error), Some(reply)) = (result, reply) else {
            return;
        };
        match error {
            OpError::Blocked(_) => self.0.clone().reply(
                asking,
                "read",
                false,
                reply,
                move |tree, has_waited| {
                    let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
                    tree.read(ino, handle, offset, size, has_waited, copy)
                },
                |reply, bytes| reply.data(&bytes),
            ),
            error => reply.error(self.0.errno("read", error)),
        }
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        // A page of a mapping goes where it is from.
        let is_page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let appends = flags.0 & libc::O_APPEND != 0 && !is_page;
        let handle = handle.0;
        let tree = &self.0.tree;
        match tree.write(&asking, handle, offset, data, appends, false) {
            Ok(count) => reply.written(count),
            Err(OpError::Blocked(_)) => {
                let data = Zeroizing::new(data.to_vec());
                self.0.clone().reply(
                    asking,
                    "write",
                    false,
                    reply,
                    move |tree, has_waited| {
                        tree.write(&asking, handle, offset, &data, appends, has_waited)
                    },
                    |reply, count| reply.written(count),
                );
            }
            Err(error) => reply.error(self.0.errno("write", error)),
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
            self.0.tree.refuse_close(handle.0);
            return reply.error(Errno::EIO);
        };
        if handle.0 == 0 {
            return reply.ok();
        }
        let done = answer(reply, ReplyEmpty::ok);
        self.0.close(caller(request), handle.0, done);
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
        match handle.0 {
            0 => reply.ok(),
            handle => self.0.release(caller(request), handle, reply),
        }
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOLCK);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        typ: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        match typ == i32::from(libc::F_UNLCK as i16) {
            true => reply.ok(),
            false => reply.error(Errno::ENOLCK),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        // A write reaches the disk when it is closed, or when it is renamed after this.
        self.0.tree.sync(handle.0);
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let asking = caller(request);
        self.0.clone().reply(
            asking,
            "opendir",
            false,
            reply,
            move |tree, _| tree.open_dir(&asking, ino.0),
            |reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(_at) = self.0.begin(request) else {
            return reply.error(Errno::EIO);
        };
        let result = self.0.tree.read_dir(ino.0, offset, |listed, next| {
            let kind = file_type(listed.kind);
            !reply.add(INodeNo(listed.ino), next, kind, &listed.name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.0.errno("readdir", error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
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
            .read_dir_plus(ino.0, handle.0, offset, |name, found, next| {
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
            Err(error) => reply.error(self.0.errno("readdir", error)),
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
        // Programs that check for free space before they write find some; the store's disk decides in the end.
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
            "access",
            false,
            reply,
            move |tree, _| tree.access(&asking, ino.0, mask),
            |reply, ()| reply.ok(),
        );
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        // Accepted so that an archive with these attributes can be unpacked; what they show does not change.
        match name.as_encoded_bytes().starts_with(b"user.simpletuner.") {
            true => reply.ok(),
            false => reply.error(Errno::EOPNOTSUPP),
        }
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
        if let Some(key) = name.strip_prefix(ERROR_OF) {
            let reason = self.0.tree.access(&asking, ino.0, libc::R_OK).ok();
            return match reason.and_then(|()| self.0.failures.last_of(key)) {
                Some(reason) => xattr_reply(reason.as_bytes(), size, reply),
                None => reply.error(Errno::NO_XATTR),
            };
        }
        self.0.clone().reply(
            asking,
            "getxattr",
            false,
            reply,
            move |tree, _| tree.xattr(&asking, ino.0, &name),
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
            "listxattr",
            false,
            reply,
            move |tree, _| tree.xattr_names(&asking, ino.0),
            move |reply, names| xattr_reply(&names, size, reply),
        );
    }
}

impl Inner {
    fn entry(&self, unique: u64, found: &Found, reply: ReplyEntry) {
        let owner = self.tree.owner();
        if let Err(reply) = self.device.entry(unique, found, owner, reply) {
            let attr = self.file_attr(found.node, &found.attr);
            reply.entry_with_ttls(&Duration::ZERO, &found.valid, &attr, Generation(0));
        }
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
