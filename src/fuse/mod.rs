//! Turns fuser's calls into the tree's ([`live`](crate::live)), and the tree's errors into errnos. Decides nothing about secrets.
//!
//! One thread reads requests and never waits. A request that may wait goes to another thread, or is parked until a provider
//! has answered. Each operation begins with `Dispatcher::begin`, which adds the caller and refuses a request on which servers
//! crashed; `Dispatcher::ask` also asks the tree and answers, and parks the request if the answer is not there yet.

mod convert;
mod drain;
mod errors;
mod folders;
mod init;
mod read_buffer;
mod reply;
mod requests;
mod threads;
mod views;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use libc::{EINVAL, ENODATA, ENOENT};

use crate::live::{AttrChange, Tree};
use crate::process::heartbeat::HeartbeatPage;
use convert::{open_flags, system_time, text_of};
pub use drain::Drain;
use reply::xattr_reply;
use requests::Dispatcher;

pub use read_buffer::Allocator;
pub(crate) use views::ViewsFs;

/// The filesystem: fuser calls it for each request.
pub struct Fs(Arc<Dispatcher>);

impl Fs {
    /// The filesystem over a tree. With a heartbeat page, each thread writes there which request it works on.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(crate) fn new(tree: Arc<Tree>, heartbeat: Option<HeartbeatPage>) -> io::Result<Self> {
        Ok(Self(Arc::new(Dispatcher::new(tree, heartbeat)?)))
    }

    /// A handle that finishes this filesystem's writes.
    pub fn drain(&self) -> Drain {
        Drain(self.0.clone())
    }
}

/// Operations that always fail: their arguments after the request, their reply, and the errno.
macro_rules! refused {
    ($($operation:ident($($argument:ty),*) -> $reply:ty = $errno:ident;)*) => {
        $(fn $operation(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            self.0.refuse(reply, Errno::$errno);
        })*
    };
}

impl Filesystem for Fs {
    refused! {
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry = EPERM;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty = EPERM;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry = EPERM;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry = EPERM;
        readlink(INodeNo) -> ReplyData = EINVAL;
        getlk(INodeNo, FileHandle, LockOwner, u64, u64, i32, u32) -> ReplyLock = ENOLCK;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty = EOPNOTSUPP;
    }

    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::negotiate(&self.0.tree, config);
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.waiting.end_all();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0
            .begin_named(request, name, ENOENT, reply, |fs, caller, name, reply| {
                fs.ask_for(
                    caller,
                    "lookup",
                    reply,
                    move |tree, caller, waited| tree.lookup(caller, parent.0, &name, waited),
                    move |fs, reply, found| fs.entry(&caller, &found, reply),
                );
            });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.0.tree.forget(ino.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.0.ask(
            request,
            "stat",
            reply,
            // The kernel gives the handle where it asks for itself, during a read: fstat(2) comes without.
            move |tree, caller, waited| match handle {
                Some(_) => tree.attr_of_open(caller, ino.0, waited),
                None => tree.attr(caller, ino.0, waited),
            },
            // `stat` shows the file's number, which a new value keeps, not the inode's.
            |fs, reply, attr| reply.attr(&attr.valid, &fs.file_attr(attr.ino, &attr)),
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
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttrChange {
            mode,
            uid,
            gid,
            size,
            mtime: mtime.map(system_time),
        };
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.set_attr(caller, ino.0, handle.map(u64::from), change, reply);
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            if mode & libc::S_IFMT != libc::S_IFREG && mode & libc::S_IFMT != 0 {
                return fs.refuse(reply, Errno::EPERM);
            }
            let name = match text_of(name, EINVAL) {
                Ok(name) => name,
                Err(errno) => return fs.refuse(reply, errno),
            };
            let result = fs.tree.mknod(&caller, parent.0, &name);
            fs.answer("mknod", result, reply, |reply, found| {
                fs.entry(&caller, &found, reply);
            });
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0
            .begin_named(request, name, ENOENT, reply, |fs, caller, name, reply| {
                let queue = fs.tree.queue_of_names(parent.0, &[&name]);
                fs.work(&caller, "unlink", queue, reply, move |tree| {
                    tree.unlink(&caller, parent.0, &name)
                });
            });
    }

    fn rename(
        &self,
        request: &Request,
        from: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            let names = (text_of(name, EINVAL), text_of(new_name, EINVAL));
            let (name, new_name) = match names {
                (Ok(name), Ok(new_name)) => (name, new_name),
                (Err(errno), _) | (_, Err(errno)) => return fs.refuse(reply, errno),
            };
            let queue = fs.tree.queue_of_names(from.0, &[&name, &new_name]);
            fs.work(&caller, "rename", queue, reply, move |tree| {
                tree.rename(&caller, from.0, &name, to.0, &new_name, flags.bits())
            });
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.0.ask(
            request,
            "open",
            reply,
            move |tree, caller, waited| tree.open(caller, ino.0, flags.0, waited),
            |_, reply, opened| reply.opened(FileHandle(opened.handle), open_flags(opened)),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.0
            .begin_named(request, name, EINVAL, reply, |fs, caller, name, reply| {
                fs.ask_for(
                    caller,
                    "create",
                    reply,
                    move |tree, caller, waited| tree.create(caller, parent.0, &name, flags, waited),
                    |fs, reply, (found, opened)| {
                        let attr = fs.file_attr(found.nodeid, &found.attr);
                        let (handle, flags) = (FileHandle(opened.handle), open_flags(opened));
                        reply.created(&Duration::ZERO, &attr, Generation(0), handle, flags);
                    },
                );
            });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.read(caller, ino.0, handle.0, offset, size, reply);
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.0.is_poisonous(request) {
            self.0.tree.refuse_write(handle.0);
        }
        // A mapping's page keeps its offset, even if the file is open to append.
        let is_page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let appends = flags.0 & libc::O_APPEND != 0 && !is_page;
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.write(caller, handle.0, offset, data, appends, reply);
        });
    }

    fn flush(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.0.is_poisonous(request) {
            self.0.tree.refuse_close(handle.0);
        }
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.close(caller, handle.0, reply);
        });
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.release(caller, handle.0, reply);
        });
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
            false => self.0.refuse(reply, Errno::ENOLCK),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        // A write reaches the disk when the file is closed, or when it is renamed after this.
        self.0.tree.sync(handle.0);
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.ask(
            request,
            "opendir",
            reply,
            move |tree, caller, has_waited| tree.open_dir(caller, ino.0, has_waited),
            |_, reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
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
            fs.read_dir(caller, ino.0, offset, reply);
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.0.begin(request, reply, |fs, caller, reply| {
            fs.read_dir_plus(caller, ino.0, handle.0, offset, reply);
        });
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

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Programs that check for free space before they write find some; in the end the store's disk decides.
        const BLOCKS: u64 = 1 << 20;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.0.ask(
            request,
            "access",
            reply,
            move |tree, caller, _| tree.access(caller, ino.0, mask.bits()),
            |_, reply, ()| reply.ok(),
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
        // Accepted without effect, so that an archive with these attributes can be unpacked.
        match name.as_encoded_bytes().starts_with(b"user.simpletuner.") {
            true => reply.ok(),
            false => self.0.refuse(reply, Errno::EOPNOTSUPP),
        }
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.0
            .begin_named(request, name, ENODATA, reply, |fs, caller, name, reply| {
                fs.xattr(caller, ino.0, name, size, reply);
            });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.0.ask(
            request,
            "listxattr",
            reply,
            move |tree, caller, _| tree.xattr_names(caller, ino.0),
            move |_, reply, names| xattr_reply(&names, size, reply),
        );
    }
}
