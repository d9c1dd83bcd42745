//! Finds where a path leads, and trusts nothing on the way that another user could have put there: each folder, link and
//! file belongs to this user or root, and no other user can write it. In a sticky folder that all can write, only the
//! entries of this user and root count. Links that this user or root made are followed.
//!
//! Each step begins at the descriptor of a folder that was checked, whose entries nobody else can exchange.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::names::Names;
use super::{base_folder, groups, not_a_file};
use crate::text::shell_path;

const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why a file is not used: another user could have put it there. Names the path and the remedy.
#[derive(Debug)]
struct Untrusted(String);

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Untrusted {}

fn untrusted(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Untrusted(reason))
}

/// Whether an error means that another user could have put the file there.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Untrusted>())
}

/// Where a path leads: a name in a checked folder.
pub(crate) struct Place {
    folder: Folder,
    /// The folders below `folder` that do not exist yet.
    missing: Vec<OsString>,
    name: OsString,
    path: PathBuf,
    stat: Option<Stat>,
}

/// A folder that was checked.
struct Folder {
    fd: OwnedFd,
    /// Whether it is sticky, and others can add entries.
    is_shared: bool,
}

/// Where the path leads, links followed; the file and the folders need not exist.
///
/// # Errors
/// The kind `PermissionDenied` if another user could have put it there, with the remedy; any system error.
pub(crate) fn find(path: &Path) -> io::Result<Place> {
    match walk(path, &[], true)? {
        Some(place) => Ok(place),
        None => Err(Errno::LOOP.into()),
    }
}

/// Like [`find`], but `None` before the first step into one of these folders.
pub(crate) fn find_outside(path: &Path, mount_points: &[PathBuf]) -> io::Result<Option<Place>> {
    walk(path, mount_points, true)
}

/// Opens an existing regular file.
///
/// # Errors
/// As for [`find`].
pub(crate) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    find(path)?.open(flags)
}

/// Opens a regular file; creates a missing one (0600) and its folders (0700).
///
/// # Errors
/// As for [`find`].
pub(crate) fn open_or_create(path: &Path, flags: OFlags) -> io::Result<File> {
    find(path)?.make_folders()?.open(flags | OFlags::CREATE)
}

/// Creates a file that must not exist yet; a link there is not followed.
///
/// # Errors
/// As for [`find`].
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    let place = find_entry(path)?.make_folders()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    place.open_as(flags, Mode::from_raw_mode(mode))
}

/// Creates a file (0600) with this content, whole or not at all, and its folders (0700). Does nothing if there is one
/// already, or a link. The content is on the disk when this returns.
///
/// # Errors
/// As for [`find`].
pub(crate) fn create_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let place = find_entry(path)?.make_folders()?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let mut temporary = OsString::from(".");
    temporary.push(&place.name);
    temporary.push(format!(".{:016x}", u64::from_ne_bytes(random)));
    let fd = &place.folder.fd;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(
        fd,
        &temporary,
        flags,
        Mode::from(0o600),
    )?);
    let written = io::Write::write_all(&mut file, content)
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(rename_noreplace(fd, &temporary, &place.name)?));
    if let Err(error) = written {
        let _ = rustix::fs::unlinkat(fd, &temporary, AtFlags::empty());
        return match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        };
    }
    // If a power failure lost a key, every value that was encrypted meanwhile would be lost, too. Some filesystems cannot
    // sync a folder, and return EINVAL.
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::fsync(rustix::fs::openat(fd, ".", folder, Mode::empty())?) {
        Err(errno) if errno != Errno::INVAL => Err(errno.into()),
        _ => Ok(()),
    }
}

/// Renames unless the new name exists.
fn rename_noreplace(folder: &OwnedFd, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // The filesystem does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(folder, from, folder, to, AtFlags::empty())?;
            rustix::fs::unlinkat(folder, from, AtFlags::empty())
        }
        renamed => renamed,
    }
}

/// The place of the name itself: a link there is not followed.
fn find_entry(path: &Path) -> io::Result<Place> {
    match walk(path, &[], false)? {
        Some(place) => Ok(place),
        None => Err(Errno::LOOP.into()),
    }
}

impl Place {
    /// The path without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file there.
    pub(crate) fn stat(&self) -> Option<&Stat> {
        self.stat.as_ref()
    }

    /// The last folder on the way that exists, and the file's name if the file is in it.
    pub(super) fn existing_folder(&self) -> (&OwnedFd, Option<&OsStr>) {
        let is_there = self.missing.is_empty() && self.stat.is_some();
        (&self.folder.fd, is_there.then_some(&*self.name))
    }

    /// Refuses a sticky folder that others can write, for files that have further files beside them.
    ///
    /// # Errors
    /// As for [`find`].
    pub(crate) fn refuse_shared_folder(&self) -> io::Result<()> {
        match self.folder.is_shared && self.missing.is_empty() {
            false => Ok(()),
            true => Err(writable(self.path.parent().unwrap_or(Path::new("/")))),
        }
    }

    /// Creates the missing folders (0700), before a file that may be missing as well is created.
    ///
    /// # Errors
    /// As for [`find`].
    pub(crate) fn make_folders(mut self) -> io::Result<Self> {
        if self.stat().is_none() {
            base_folder::refuse_anew(&self.path).map_err(io::Error::other)?;
        }
        let below = self.path.parent().unwrap_or(Path::new("/"));
        let depth = below.components().count() - self.missing.len();
        for (name, at) in std::mem::take(&mut self.missing).iter().zip(depth..) {
            match rustix::fs::mkdirat(&self.folder.fd, name, Mode::from(0o700)) {
                Err(errno) if errno != Errno::EXIST => return Err(errno.into()),
                _ => {}
            }
            let here: PathBuf = below.components().take(at + 1).collect();
            self.folder = Folder::open(&self.folder, name, &here)?;
        }
        Ok(self)
    }

    /// Opens the regular file.
    ///
    /// # Errors
    /// As for [`find`].
    pub(crate) fn open(&self, flags: OFlags) -> io::Result<File> {
        self.open_as(flags, Mode::from(0o600))
    }

    fn open_as(&self, flags: OFlags, mode: Mode) -> io::Result<File> {
        // Before the open, too, because opening a device can have effects.
        let missing = (!self.missing.is_empty()).then_some(Errno::NOENT);
        missing.map_or(Ok(()), |errno| Err(io::Error::from(errno)))?;
        self.stat.as_ref().map_or(Ok(()), refuse_irregular)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder.fd, &self.name, flags, mode)?;
        let stat = rustix::fs::fstat(&file)?;
        check(&stat, &self.path, self.folder.is_shared)?;
        refuse_irregular(&stat)?;
        Ok(file.into())
    }
}

fn refuse_irregular(stat: &Stat) -> io::Result<()> {
    not_a_file(stat).map_or(Ok(()), |what| Err(io::Error::other(what)))
}

impl Folder {
    fn root() -> io::Result<Self> {
        let fd = rustix::fs::open("/", FOLDER, Mode::empty())?;
        Self::checked(fd, Path::new("/"), false)
    }

    fn open(parent: &Folder, name: &OsStr, path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::openat(&parent.fd, name, FOLDER, Mode::empty())?;
        Self::checked(fd, path, parent.is_shared)
    }

    fn checked(fd: OwnedFd, path: &Path, is_in_shared: bool) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let is_shared = check(&stat, path, is_in_shared)?;
        Ok(Self { fd, is_shared })
    }
}

fn walk(path: &Path, mount_points: &[PathBuf], follow_last: bool) -> io::Result<Option<Place>> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    let path = std::path::absolute(path)?;
    let mut rest = Names::of(&path);
    let mut folder = Folder::root()?;
    let mut here = PathBuf::from("/");
    let mut missing = Vec::new();
    while let Some(name) = rest.next() {
        if name == ".." {
            here.pop();
            if missing.pop().is_none() {
                folder = Folder::open(&folder, &name, &here)?;
            }
            continue;
        }
        here.push(&name);
        if mount_points.iter().any(|mount| here.starts_with(mount)) {
            return Ok(None);
        }
        let is_last = rest.is_empty();
        if !missing.is_empty() {
            match is_last {
                true => return Ok(Some(Place::new(folder, missing, name, here, None))),
                false => missing.push(name),
            }
            continue;
        }
        if !is_last {
            // Opened first, because that mounts what autofs has not mounted yet.
            let error = match Folder::open(&folder, &name, &here) {
                Ok(next) => {
                    folder = next;
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::ENOENT) => {
                    missing.push(name);
                    continue;
                }
                Some(libc::ENOTDIR | libc::ELOOP) => {}
                _ => return Err(error),
            }
        }
        let stat = match rustix::fs::statat(&folder.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if is_last => {
                return Ok(Some(Place::new(folder, missing, name, here, None)));
            }
            Err(errno) => return Err(errno.into()),
        };
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if is_link && (follow_last || !is_last) {
            check(&stat, &here, folder.is_shared)?;
            let target = rustix::fs::readlinkat(&folder.fd, &name, Vec::new())?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            rest.follow(&target)?;
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
                folder = Folder::root()?;
            }
            continue;
        }
        if !is_last {
            return Err(Errno::NOTDIR.into());
        }
        if !is_link {
            check(&stat, &here, folder.is_shared)?;
        }
        return Ok(Some(Place::new(folder, missing, name, here, Some(stat))));
    }
    // The path ends in `..`, or is `/`.
    Err(Errno::ISDIR.into())
}

impl Place {
    fn new(
        folder: Folder,
        missing: Vec<OsString>,
        name: OsString,
        path: PathBuf,
        stat: Option<Stat>,
    ) -> Self {
        Self {
            folder,
            missing,
            name,
            path,
            stat,
        }
    }
}

/// Checks one step of a path. Returns whether it is a sticky folder that others can write.
fn check(stat: &Stat, path: &Path, is_in_shared: bool) -> io::Result<bool> {
    let me = rustix::process::geteuid().as_raw();
    let shown = path.display();
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !is_trusted(stat.st_uid, me, is_in_shared) {
        let owner = stat.st_uid;
        return Err(untrusted(match kind {
            FileType::Symlink => {
                format!(
                    "{shown} is a link that another user (uid {owner}) made, so it is not followed; remove it"
                )
            }
            _ => format!(
                "{shown} belongs to another user (uid {owner}), so it is not used; \
                 use another path, or fix it with: sudo chown {me} {}",
                shell_path(path)
            ),
        }));
    }
    if kind == FileType::Symlink {
        return Ok(false);
    }
    let is_writable = others_can_write(stat, path);
    let is_sticky = kind == FileType::Directory && stat.st_mode & 0o1000 != 0;
    if is_writable && !is_sticky {
        return Err(match kind {
            // Root's own folder for all, such as /workspace.
            FileType::Directory if stat.st_uid != me => untrusted(format!(
                "other users can write {shown}, so it is not used; fix it with: sudo chmod +t {}",
                shell_path(path)
            )),
            _ => writable(path),
        });
    }
    // Another user who can write the folder may have linked a file of this user into it.
    if is_in_shared && kind == FileType::RegularFile && stat.st_nlink > 1 {
        return Err(untrusted(format!(
            "{shown} has another name (a hard link), which another user may have made, so it is not used; remove it"
        )));
    }
    Ok(is_writable)
}

fn writable(path: &Path) -> io::Error {
    untrusted(format!(
        "other users can write {}, so it is not used; fix it with: chmod go-w {}",
        path.display(),
        shell_path(path)
    ))
}

/// Whether others than the owner can write a file or folder. `path` is not a link, or one of `/proc/self/fd`.
pub(crate) fn others_can_write(stat: &Stat, path: &Path) -> bool {
    stat.st_mode & 0o002 != 0
        || stat.st_mode & 0o020 != 0 && !groups::is_private(stat.st_gid, stat.st_uid, path)
}

/// Whether `user` trusts an owner: itself, or root. `is_in_shared`: others can add entries to the folder that it lies in.
pub(crate) fn is_trusted(owner: u32, user: u32, is_in_shared: bool) -> bool {
    owner == user || owner == 0 || !is_in_shared && *UNMAPPED_OWNER == Some(owner)
}

/// In a user namespace without root, root's files have this owner, as do those of all other users that are not mapped.
static UNMAPPED_OWNER: LazyLock<Option<u32>> = LazyLock::new(|| {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let all = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
    (!all).then(|| overflow.ok()?.trim().parse().ok()).flatten()
});

#[cfg(test)]
mod tests;
