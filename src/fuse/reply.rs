//! What fuser's replies lack: one trait for their errors, a lookup whose `st_ino` differs from the inode's number, and
//! extended attributes with their length.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLock, ReplyOpen, ReplyWrite, ReplyXattr,
};

use crate::live::{FileType, LookupReply, Owner};

/// All of fuser's replies have this method, but no trait for it.
pub(super) trait ErrorReply: Send + 'static {
    /// Answers with an errno.
    fn fail(self, errno: Errno);
}

macro_rules! impl_error_reply {
    ($($reply:ty),*) => {
        $(impl ErrorReply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
impl_error_reply!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLock,
    ReplyOpen,
    ReplyWrite,
    ReplyXattr
);

/// The session's device, for answers that go past fuser.
#[derive(Default)]
pub(super) struct Device(OnceLock<OwnedFd>);

impl Device {
    pub(super) fn set(&self, device: OwnedFd) {
        // A filesystem has one session, so this is never set twice.
        let _ = self.0.set(device);
    }

    /// Answers a lookup. With fuser's own answer, `stat` would show the inode's number instead of the file's until the
    /// kernel asks for the attributes. Returns the reply if the device is not set yet.
    pub(super) fn entry(
        &self,
        unique: u64,
        found: &LookupReply,
        owner: Owner,
        reply: ReplyEntry,
    ) -> Result<(), ReplyEntry> {
        let Some(device) = self.0.get() else {
            return Err(reply);
        };
        let answer = entry_out(unique, found, owner);
        // ENOENT: the caller was killed.
        let _ = rustix::io::write(device.as_fd(), &answer);
        // Dropping the reply would answer a second time. It owns only a reference to the session's device.
        std::mem::forget(reply);
        Ok(())
    }
}

/// `fuse_out_header` and `fuse_entry_out` (include/uapi/linux/fuse.h), 16 and 128 bytes.
fn entry_out(unique: u64, found: &LookupReply, owner: Owner) -> [u8; 144] {
    let attr = &found.attr;
    let mut out = Out([0; 144], 0);
    out.u32(144).u32(0).u64(unique);
    out.u64(found.nodeid).u64(0);
    out.u64(found.valid.as_secs()).u64(attr.valid.as_secs());
    out.u32(found.valid.subsec_nanos())
        .u32(attr.valid.subsec_nanos());
    out.u64(attr.ino)
        .u64(attr.size)
        .u64(attr.size.div_ceil(512));
    let times = [attr.mtime, attr.mtime, attr.ctime].map(timestamp);
    for (seconds, _) in times {
        out.u64(seconds as u64);
    }
    for (_, nanos) in times {
        out.u32(nanos);
    }
    let kind = match attr.file_type {
        FileType::Dir => libc::S_IFDIR,
        FileType::File => libc::S_IFREG,
    };
    out.u32(kind | u32::from(attr.mode)).u32(attr.nlink);
    out.u32(owner.uid).u32(owner.gid).u32(0).u32(4096).u32(0);
    out.0
}

/// Seconds since 1970, rounded down, and nanoseconds.
fn timestamp(at: SystemTime) -> (i64, u32) {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before: Duration = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

struct Out([u8; 144], usize);

impl Out {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }
}

/// Answers getxattr(2) and listxattr(2), where size 0 asks for the length.
pub(super) fn xattr_reply(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(bytes.len() as u32),
        available if bytes.len() <= available => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Attr;

    #[test]
    fn a_lookups_answer_has_the_kernels_layout() {
        let found = LookupReply {
            nodeid: 7,
            attr: Attr {
                ino: 9,
                file_type: FileType::File,
                mode: 0o600,
                size: 513,
                mtime: UNIX_EPOCH - Duration::from_millis(1500),
                ctime: UNIX_EPOCH,
                nlink: 1,
                valid: Duration::from_secs(2),
            },
            valid: Duration::from_secs(3),
        };
        let owner = Owner {
            uid: 10,
            gid: 11,
            allows_root: false,
        };
        let out = entry_out(5, &found, owner);
        let u64_at = |at: usize| u64::from_ne_bytes(out[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(out[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u64_at(8)), (144, 0, 5));
        assert_eq!((u64_at(16), u64_at(32), u64_at(40)), (7, 3, 2));
        assert_eq!((u64_at(56), u64_at(64), u64_at(72)), (9, 513, 2));
        assert_eq!((u64_at(80) as i64, u32_at(104)), (-2, 500_000_000));
        assert_eq!(u32_at(116), libc::S_IFREG | 0o600);
        assert_eq!((u32_at(120), u32_at(124), u32_at(128)), (1, 10, 11));
    }
}
