//! Converts fuser's types into the tree's, and back.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow};

use crate::live::{self, Attr, Caller, Opened, Owner};

/// Set in the number of a request that the kernel resends (FUSE_UNIQUE_RESEND, include/uapi/linux/fuse.h).
const RESENT: u64 = 1 << 63;

/// The caller of a request.
pub(super) fn caller(request: &Request) -> Caller {
    let unique = request.unique().0;
    Caller {
        uid: request.uid(),
        tid: request.pid(),
        request: unique & !RESENT,
        is_resend: unique & RESENT != 0,
    }
}

/// The number under which the kernel expects the answer.
pub(super) fn unique(caller: &Caller) -> u64 {
    match caller.is_resend {
        true => caller.request | RESENT,
        false => caller.request,
    }
}

/// The longest name, in bytes, as on Linux's own filesystems.
const MAX_NAME: usize = 255;

/// A name as text.
///
/// # Errors
/// ENAMETOOLONG; `not_utf8` for a name that is not UTF-8.
pub(super) fn text_of(name: &OsStr, not_utf8: i32) -> Result<String, Errno> {
    match name.to_str() {
        _ if name.len() > MAX_NAME => Err(Errno::from_i32(libc::ENAMETOOLONG)),
        Some(text) => Ok(text.to_owned()),
        None => Err(Errno::from_i32(not_utf8)),
    }
}

pub(super) fn system_time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => match UNIX_EPOCH.duration_since(time) {
            // Before 1970, fuser takes the nanoseconds off, but the kernel's are always added to the seconds.
            Ok(before) => time + Duration::from_nanos(2 * u64::from(before.subsec_nanos())),
            Err(_) => time,
        },
        TimeOrNow::Now => SystemTime::now(),
    }
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

/// Attributes in fuser's form, with `nodeid` as the inode number.
pub(super) fn file_attr(owner: Owner, nodeid: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(nodeid),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.file_type),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
