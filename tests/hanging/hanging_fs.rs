//! A filesystem that shows a folder and hangs on demand, like a network filesystem whose server is gone. While it hangs, it
//! reads every request and answers none, so not even SIGKILL ends a caller.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::LIMIT;
use super::support::home::mounts_below;

/// Many at once must hang.
const THREADS: usize = 24;
const NOW: Duration = Duration::ZERO;

/// The mounted filesystem. It answers again, and is unmounted, when this is dropped.
pub struct HangingFs {
    gate: Arc<Gate>,
    point: PathBuf,
    session: Option<BackgroundSession>,
}

#[derive(Default)]
struct Gate {
    /// Since when it is closed.
    closed: Mutex<Option<Instant>>,
    moved: Condvar,
}

impl Gate {
    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        let is_closed = |since: &mut Option<Instant>| {
            since.is_some_and(|since: Instant| since.elapsed() < LIMIT)
        };
        drop(
            self.moved
                .wait_timeout_while(closed, LIMIT, is_closed)
                .unwrap(),
        );
    }
}

impl HangingFs {
    /// Shows the folder `over` at the folder `at`.
    pub fn mount(over: &Path, at: &Path) -> Self {
        let gate = Arc::new(Gate::default());
        let mirror = Mirror {
            gate: gate.clone(),
            paths: Mutex::new(HashMap::from([(1, over.to_owned())])),
            files: Mutex::default(),
        };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(mirror, at, &config).unwrap();
        Self {
            gate,
            point: at.to_owned(),
            session: Some(session),
        }
    }

    pub fn hang(&self) {
        *self.gate.closed.lock().unwrap() = Some(Instant::now());
    }

    fn answer(&self) -> Option<Instant> {
        let since = self.gate.closed.lock().unwrap().take();
        self.gate.moved.notify_all();
        since
    }

    /// Answers again. Nothing before this may have waited for it.
    #[track_caller]
    pub fn resume(&self) {
        let since = self.answer().unwrap();
        assert!(since.elapsed() < LIMIT, "something waited for the disk");
    }
}

impl Drop for HangingFs {
    fn drop(&mut self) {
        self.answer();
        for point in mounts_below(&self.point) {
            let mut umount = Command::new("umount");
            umount.arg("-l").arg(point).stderr(Stdio::null());
            let _ = umount.status();
        }
        drop(self.session.take());
    }
}

struct Mirror {
    gate: Arc<Gate>,
    paths: Mutex<HashMap<u64, PathBuf>>,
    files: Mutex<(u64, HashMap<u64, Arc<File>>)>,
}

fn attr(metadata: &Metadata, ino: u64) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        UNIX_EPOCH + Duration::new(seconds as u64, nanoseconds as u32)
    };
    FileAttr {
        ino: INodeNo(ino),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: match metadata.is_dir() {
            true => FileType::Directory,
            false => FileType::RegularFile,
        },
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

/// Answers with what succeeded, or with the errno.
macro_rules! answer {
    ($reply:ident, $result:expr, |$done:pat_param| $then:expr) => {
        match $result {
            Ok($done) => $then,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl Mirror {
    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        let path = self.paths.lock().unwrap().get(&ino.0).cloned();
        path.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// The attributes of what lies at a path, which its inode has from now on.
    fn found(&self, path: &Path) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(path)?;
        let mut paths = self.paths.lock().unwrap();
        paths.insert(metadata.ino(), path.to_owned());
        Ok(attr(&metadata, metadata.ino()))
    }

    fn opened(&self, file: File) -> FileHandle {
        let (next, files) = &mut *self.files.lock().unwrap();
        *next += 1;
        files.insert(*next, Arc::new(file));
        FileHandle(*next)
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let file = self.files.lock().unwrap().1.get(&handle.0).cloned();
        file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Filesystem for Mirror {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.gate.pass();
        let found = self.child(parent, name).and_then(|path| self.found(&path));
        answer!(reply, found, |attr| reply.entry(&NOW, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.gate.pass();
        let metadata = match handle {
            Some(handle) => self.file(handle).and_then(|file| file.metadata()),
            None => self.path(ino).and_then(fs::symlink_metadata),
        };
        answer!(reply, metadata, |metadata| reply
            .attr(&NOW, &attr(&metadata, ino.0)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.gate.pass();
        let change = || {
            let path = self.path(ino)?;
            if let Some(mode) = mode {
                fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o7777))?;
            }
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            fs::symlink_metadata(path)
        };
        answer!(reply, change(), |metadata| reply
            .attr(&NOW, &attr(&metadata, ino.0)));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.gate.pass();
        let make = || {
            let path = self.child(parent, name)?;
            fs::DirBuilder::new().mode(mode & !umask).create(&path)?;
            self.found(&path)
        };
        answer!(reply, make(), |attr| reply.entry(
            &NOW,
            &attr,
            Generation(0)
        ));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.gate.pass();
        let removed = self.child(parent, name).and_then(fs::remove_file);
        answer!(reply, removed, |()| reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.gate.pass();
        let rename = || {
            let (from, to) = (self.child(parent, name)?, self.child(new_parent, new_name)?);
            if !flags.is_empty() && to.exists() {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            fs::rename(from, &to)?;
            self.found(&to).map(drop)
        };
        answer!(reply, rename(), |()| reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.gate.pass();
        let open = || {
            let can_write = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
            let mut options = OpenOptions::new();
            options.read(true).write(can_write).open(self.path(ino)?)
        };
        answer!(reply, open(), |file| {
            reply.opened(self.opened(file), FopenFlags::empty());
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.gate.pass();
        let create = || {
            let path = self.child(parent, name)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(mode & !umask);
            match flags & libc::O_EXCL {
                0 => options.create(true),
                _ => options.create_new(true),
            };
            let file = options.open(&path)?;
            Ok::<_, io::Error>((self.found(&path)?, self.opened(file)))
        };
        answer!(reply, create(), |(attr, handle)| {
            reply.created(&NOW, &attr, Generation(0), handle, FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.gate.pass();
        let read = || {
            let mut bytes = vec![0; size as usize];
            let count = self.file(handle)?.read_at(&mut bytes, offset)?;
            bytes.truncate(count);
            Ok::<_, io::Error>(bytes)
        };
        answer!(reply, read(), |bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.gate.pass();
        let written = self
            .file(handle)
            .and_then(|file| file.write_all_at(data, offset));
        answer!(reply, written, |()| reply.written(data.len() as u32));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.gate.pass();
        self.files.lock().unwrap().1.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.gate.pass();
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.gate.pass();
        let list = || {
            let entries = fs::read_dir(self.path(ino)?)?;
            entries.collect::<io::Result<Vec<_>>>()
        };
        answer!(reply, list(), |entries| {
            for (entry, at) in entries.iter().zip(1..).skip(offset as usize) {
                let metadata = entry.metadata().unwrap();
                let kind = attr(&metadata, 1).kind;
                if reply.add(INodeNo(metadata.ino()), at, kind, entry.file_name()) {
                    break;
                }
            }
            reply.ok();
        });
    }
}
