//! Parses the files in `/proc/PID`, as bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most of these files are smaller: one read suffices.
const PAGE: usize = 4096;

/// A file in `/proc`, which has no size: `std::fs::read` would ask for it, and begin with 32 bytes.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(PAGE);
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `/proc/PID/status`. Reading it never waits for another process.
pub(super) struct Status(Vec<u8>);

impl Status {
    pub(super) fn of(tid: u32) -> Option<Self> {
        read(format!("/proc/{tid}/status")).ok().map(Self)
    }

    pub(super) fn field(&self, name: &[u8]) -> Option<&[u8]> {
        field(&self.0, name)
    }

    pub(super) fn number(&self, name: &[u8]) -> Option<u32> {
        number(self.field(name)?)
    }

    pub(super) fn name(&self) -> Option<String> {
        let name = String::from_utf8_lossy(self.field(b"Name:")?);
        Some(crate::text::printable(&name))
    }

    /// The last of the four: real, effective, saved, and that of file accesses.
    pub(super) fn file_user(&self) -> Option<u32> {
        let mut ids = self.field(b"Uid:")?.split(u8::is_ascii_whitespace);
        number(ids.nth(3)?)
    }

    /// A set of signals.
    pub(super) fn mask(&self, name: &[u8]) -> Option<u64> {
        u64::from_str_radix(text(self.field(name)?)?, 16).ok()
    }

    /// `R`, `S`, `Z` and so on.
    pub(super) fn state(&self) -> Option<u8> {
        self.field(b"State:")?.first().copied()
    }

    pub(super) fn has_memory(&self) -> bool {
        self.field(b"VmSize:").is_some()
    }
}

/// The fields of `/proc/PID/stat` that this program uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) flags: u64,
    pub(super) started: u64,
    pub(super) exit_code: u64,
}

impl Stat {
    pub(super) fn of(tid: u32) -> Option<Self> {
        Self::parse(&read(format!("/proc/{tid}/stat")).ok()?)
    }

    /// The second field is the name in brackets. It may contain brackets and spaces itself, so the last `)` ends it.
    pub(super) fn parse(stat: &[u8]) -> Option<Self> {
        let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let fields = stat[after_name..].split(u8::is_ascii_whitespace);
        let fields: Vec<&[u8]> = fields.filter(|field| !field.is_empty()).collect();
        // proc(5) numbers the fields from 1, and these begin with the third.
        let field = |which: usize| number(fields.get(which - 3)?);
        Some(Self {
            flags: field(9)?,
            started: field(22)?,
            exit_code: field(52)?,
        })
    }
}

/// The rest of the line that begins with `name`, trimmed.
pub(super) fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(<[u8]>::trim_ascii)
}

pub(super) fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    text(bytes)?.parse().ok()
}

/// Whether a descriptor (`/proc/PID/fdinfo/N`) can write one of these inodes.
pub(super) fn can_write(info: &[u8], inodes: [u64; 2]) -> bool {
    let flags = field(info, b"flags:").and_then(text);
    let flags = flags.and_then(|flags| i32::from_str_radix(flags, 8).ok());
    // Unreadable flags count as writable, like a descriptor that cannot be inspected.
    let writes = flags
        .is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0);
    writes
        && field(info, b"ino:")
            .and_then(number)
            .is_some_and(|ino| inodes.contains(&ino))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
