//! The answer that fuser cannot give: a lookup's, with an `st_ino` that differs from the inode's number.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::ReplyEntry;

use crate::live::{FileType, Found, Owner};

/// The device, to write answers to by hand.
#[derive(Default)]
pub(super) struct Device(OnceLock<OwnedFd>);

impl Device {
    pub(super) fn set(&self, device: OwnedFd) {
        // There is only one.
        let _ = self.0.set(device);
    }

    /// Answers a lookup. After fuser's own answer `stat` would show the inode's number instead of the file's, unless the
    /// kernel asked for attributes each time. Returns the reply if there is no device yet.
    pub(super) fn entry(
        &self,
        unique: u64,
        found: &Found,
        owner: Owner,
        reply: ReplyEntry,
    ) -> Result<(), ReplyEntry> {
        let Some(device) = self.0.get() else {
            return Err(reply);
        };
        let answer = entry_out(unique, found, owner);
        // ENOENT: the caller was killed.
        let _ = rustix::io::write(device.as_fd(), &answer);
        // It would answer once more. It holds nothing but a share of the session's device.
        std::mem::forget(reply);
        Ok(())
    }
}

/// `fuse_out_header` and `fuse_entry_out` (include/uapi/linux/fuse.h), 16 and 128 bytes.
fn entry_out(unique: u64, found: &Found, owner: Owner) -> [u8; 144] {
    let attr = &found.attr;
    let mut out = Out([0; 144], 0);
    out.u32(144).u32(0).u64(unique);
    out.u64(found.node).u64(0);
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
    let kind = match attr.kind {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Attr;

    #[test]
    fn an_answer_has_the_kernels_layout() {
        let found = Found {
            node: 7,
            attr: Attr {
                ino: 9,
                kind: FileType::File,
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
