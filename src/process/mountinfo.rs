//! The table of mounts, `/proc/PID/mountinfo` (proc(5)). Its paths are bytes, because a mount point's name need not be
//! UTF-8.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use serde::{Deserialize, Serialize};

/// Identifies a mount, even after its path has changed or another filesystem was mounted there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountId {
    /// The kernel soon gives the id and the filesystem's number to another mount, often both to the same one.
    id: u64,
    filesystem: String,
    /// An id that no other mount ever has (STATX_MNT_ID_UNIQUE, Linux 6.8).
    unique: Option<u64>,
    /// The bytes of the path where it was mounted, which decides on older kernels.
    point: Vec<u8>,
}

impl MountId {
    /// The mount, if this process still sees it.
    pub(crate) fn find(&self) -> Option<Mount> {
        of_this_process()
            .ok()?
            .into_iter()
            .find(|mount| self.is_of(mount))
    }

    /// The filesystem that is mounted.
    pub(crate) fn filesystem(&self) -> Filesystem {
        Filesystem {
            number: self.filesystem.clone(),
            mount: self.id,
        }
    }

    fn is_of(&self, mount: &Mount) -> bool {
        if (mount.id, &mount.filesystem) != (self.id, &self.filesystem) {
            return false;
        }
        match (self.unique, mount.unique_id()) {
            (Some(mine), Some(its)) => mine == its,
            _ => mount.point.as_os_str().as_bytes() == self.point,
        }
    }
}

/// A filesystem, whatever its mounts: two mounts of this program give files of the same name the same inode number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// As `MAJOR:MINOR`.
    number: String,
    /// The mount on which most of its files are opened.
    mount: u64,
}

impl Filesystem {
    /// Whether a descriptor of the thread, as its `fdinfo` shows it, may belong to the filesystem: `false` only if the thread sees
    /// the descriptor's mount, and that is another filesystem's.
    pub(super) fn may_have(&self, tid: u32, fdinfo: &[u8]) -> bool {
        let Some(id) = super::mount_of(fdinfo).filter(|id| *id != self.mount) else {
            return true;
        };
        let mounts = of_process(tid).unwrap_or_default();
        let mount = mounts.iter().find(|mount| mount.id == id);
        mount.is_none_or(|mount| mount.filesystem == self.number)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The mount's id, unique on the machine.
    pub(crate) id: u64,
    /// The filesystem as `MAJOR:MINOR`; all mounts of one filesystem have the same.
    pub(crate) filesystem: String,
    /// Which folder of the filesystem is mounted; `/`: all of it.
    pub(crate) root: PathBuf,
    /// The mount point.
    pub(crate) point: PathBuf,
    /// `fuse`, `ext4`, ...
    pub(crate) fstype: String,
    /// The device or name that was mounted.
    pub(crate) source: OsString,
    /// FUSE only: the user that mounted it.
    pub(crate) user: Option<u32>,
}

impl Mount {
    pub(crate) fn id(&self) -> MountId {
        MountId {
            id: self.id,
            filesystem: self.filesystem.clone(),
            unique: self.unique_id(),
            point: self.point.as_os_str().as_bytes().to_vec(),
        }
    }

    /// Whether this process still sees it.
    pub(crate) fn is_there(&self) -> bool {
        of_this_process().is_ok_and(|mounts| mounts.contains(self))
    }

    /// `None` on an older kernel, or where another filesystem is on the mount point. Does not ask the filesystem.
    fn unique_id(&self) -> Option<u64> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.point, flags, Mode::empty()).ok()?;
        let info = fs::read(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).ok()?;
        if super::mount_of(&info) != Some(self.id) {
            return None;
        }
        let unique = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&root, "", flags, unique).ok()?;
        (stat.stx_mask & STATX_MNT_ID_UNIQUE != 0).then_some(stat.stx_mnt_id)
    }
}

/// `linux/stat.h`
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// The mounts that this process sees. If several are on one mount point, the topmost is the last.
pub(crate) fn of_this_process() -> std::io::Result<Vec<Mount>> {
    fs::read("/proc/self/mountinfo").map(|table| parse(&table))
}

/// The mounts that another process sees.
pub(crate) fn of_process(pid: u32) -> std::io::Result<Vec<Mount>> {
    fs::read(format!("/proc/{pid}/mountinfo")).map(|table| parse(&table))
}

/// The mounts that these processes see, each mount namespace once. (The link to a process's mount namespace would identify
/// it as well, but following it waits for a process in execve(2).)
pub(crate) fn of_namespaces(
    pids: impl Iterator<Item = u32>,
) -> impl Iterator<Item = (u32, Vec<Mount>)> {
    let mut known = BTreeSet::new();
    pids.filter_map(move |pid| {
        let mut file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
        // The kernel gives a page of a table at most for one read(2): of most, the beginning is enough.
        let mut table = vec![0; 4096];
        let len = file.read(&mut table).ok()?;
        table.truncate(len);
        // A mount's id is unique on the machine, so the first one is in no other namespace.
        let first = table.split(|byte| *byte == b' ').next()?;
        if !known.insert(first.to_vec()) {
            return None;
        }
        file.read_to_end(&mut table).ok()?;
        Some((pid, parse(&table)))
    })
}

/// The topmost mount whose mount point is exactly `dir`.
pub(crate) fn at<'a>(mounts: &'a [Mount], dir: &Path) -> Option<&'a Mount> {
    mounts.iter().rfind(|mount| mount.point == dir)
}

/// All mount points of the filesystem that is mounted at `dir`: `dir` itself, and bind mounts of it or of a part of it.
pub(crate) fn aliases(dir: &Path) -> Vec<PathBuf> {
    let Ok(mounts) = of_this_process() else {
        return Vec::new();
    };
    let Some(here) = at(&mounts, dir) else {
        return Vec::new();
    };
    let same = mounts
        .iter()
        .filter(|mount| mount.filesystem == here.filesystem);
    same.map(|mount| mount.point.clone()).collect()
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - type source options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let (_parent, filesystem) = (fields.next()?, fields.next()?);
    let (root, point) = (fields.next()?, fields.next()?);
    // Any number of optional fields ends with a dash.
    fields.find(|field| *field == b"-")?;
    let (fstype, source) = (fields.next()?, fields.next()?);
    let options = fields.next().unwrap_or_default();
    let mut options = options.split(|&byte| byte == b',');
    let user = options.find_map(|option| option.strip_prefix(b"user_id="));
    Some(Mount {
        id,
        filesystem: text(filesystem),
        root: unescape(root).into(),
        point: unescape(point).into(),
        fstype: text(fstype),
        source: unescape(source),
        user: user.and_then(|user| text(user).parse().ok()),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Undoes the kernel's escapes for space, tab, newline and backslash: `\040` and so on.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(&text(digits), 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn the_topmost_mount_at_a_path_is_found_among_mounts_with_odd_names() {
        let table = b"22 1 0:20 / / rw - ext4 /dev/vda rw\n\
            30 22 0:40 / /home/a\\040b/live rw,nosuid - tmpfs tmpfs rw\n\
            31 22 0:41 / /home/a\\040b/live rw,nosuid shared:5 - fuse simpletuner-live rw,user_id=1001,group_id=7\n\
            32 22 0:42 / /home/\xff\xfe/x rw - fuse.sshfs who\\040knows\xff rw,user_id=5\n\
            33 22\n\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 4);
        let live = at(&mounts, Path::new("/home/a b/live")).unwrap();
        assert_eq!((live.id, live.fstype.as_str()), (31, "fuse"));
        assert_eq!(live.source, "simpletuner-live");
        assert_eq!(live.user, Some(1001));
        assert_eq!(at(&mounts, Path::new("/home/a b")), None);
        assert_eq!(at(&mounts, Path::new("/")).unwrap().user, None);
        let odd = at(&mounts, Path::new(OsStr::from_bytes(b"/home/\xff\xfe/x"))).unwrap();
        assert_eq!(odd.fstype, "fuse.sshfs");
    }

    #[test]
    fn a_mount_that_gets_the_numbers_of_one_that_ended_is_another() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mount = |name: &str| {
            let place = dir.join(name);
            fs::create_dir(&place).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", &place, "tmpfs", flags, None).unwrap();
            at(&of_this_process().unwrap(), &place).unwrap().clone()
        };
        let end = |mount: &Mount| {
            rustix::mount::unmount(&mount.point, rustix::mount::UnmountFlags::empty()).unwrap();
        };
        // Other mounts of this machine may take the numbers.
        for round in 0.. {
            assert!(round < 1000, "no mount got the numbers of the one before");
            let before = mount(&format!("before{round}"));
            let id = before.id();
            assert_eq!(id.find().as_ref(), Some(&before));
            end(&before);
            let after = mount(&format!("after{round}"));
            let found = id.find();
            end(&after);
            assert_eq!(found, None);
            if (after.id, after.filesystem) == (before.id, before.filesystem) {
                return;
            }
        }
    }
}
