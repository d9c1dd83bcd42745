//! Follows paths that no other user can change: to a program that is about to run, and to the folder that root is about to
//! mount on. Each step opens one name below the last descriptor, so what was checked is what is used.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::names::Names;
use crate::files::place::{is_trusted, others_can_write};
use crate::text::shell_path;
use crate::users;

/// Names a file without opening it: a named pipe, a device or a filesystem that hangs does not block.
const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file or folder, and its path without links.
pub(super) struct OpenedPath {
    /// Only names it (`O_PATH`).
    pub(super) file: OwnedFd,
    pub(super) path: PathBuf,
}

/// A user, who trusts itself and root.
#[derive(Clone, Copy)]
pub(super) struct Trust {
    user: u32,
}

impl Trust {
    pub(super) fn of(user: u32) -> Self {
        Self { user }
    }

    fn names(self) -> String {
        match self.user {
            0 => "root".into(),
            user => format!("{} or root", users::display_name(user)),
        }
    }

    /// Checks that a trusted user owns it.
    pub(super) fn check_owner(self, path: &Path, stat: &Stat) -> Result<()> {
        self.check_owner_in(path, stat, false)
    }

    fn check_owner_in(self, path: &Path, stat: &Stat, is_in_shared: bool) -> Result<()> {
        if is_trusted(stat.st_uid, self.user, is_in_shared) {
            return Ok(());
        }
        Err(Error::Settings(format!(
            "{} belongs to {}; it must belong to {}",
            path.display(),
            users::display_name(stat.st_uid),
            self.names()
        )))
    }

    /// Checks that no other user can exchange what has this name in the folder.
    fn check_folder(self, folder: &OpenedPath, name: &OsStr, named: &Stat) -> Result<()> {
        let stat = stat_of(folder)?;
        self.check_owner(&folder.path, &stat)?;
        // There, only the owner of an entry can exchange it.
        if stat.st_mode & libc::S_ISVTX != 0 && may_be_written(folder, &stat) {
            return self.check_owner_in(&folder.path.join(name), named, true);
        }
        self.check_not_writable(folder, &stat)
    }

    fn check_not_writable(self, found: &OpenedPath, stat: &Stat) -> Result<()> {
        if !may_be_written(found, stat) {
            return Ok(());
        }
        Err(Error::Settings(format!(
            "other users may write to {}, and could exchange what is there; fix it with: chmod go-w {}",
            found.path.display(),
            shell_path(&found.path)
        )))
    }
}

fn may_be_written(found: &OpenedPath, stat: &Stat) -> bool {
    others_can_write(stat, Path::new(&path_of_descriptor(&found.file)))
}

/// A path to what a descriptor names, even if something else lies at its old path now.
pub(super) fn path_of_descriptor(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

pub(super) fn stat_of(found: &OpenedPath) -> Result<Stat> {
    fstat(&found.file).map_err(|e| path_error(&found.path, e))
}

pub(super) fn path_error(path: &Path, error: Errno) -> Error {
    Error::io(path.display().to_string(), error)
}

/// Follows an absolute path. With `trust`, nobody else may be able to change any step of it, links included. With
/// `create`, missing folders are made, for their owner only.
///
/// # Errors
/// [`Error::Settings`] names the folder that others can change.
pub(super) fn follow(path: &Path, trust: Option<Trust>, create: bool) -> Result<OpenedPath> {
    let root = || {
        let file = openat(CWD, "/", NAMED, Mode::empty()).map_err(|e| path_error(path, e))?;
        Ok::<_, Error>(OpenedPath {
            file,
            path: "/".into(),
        })
    };
    let mut here = root()?;
    let mut rest = Names::of(path);
    while let Some(name) = rest.next() {
        let is_parent = name == "..";
        let named = match openat(&here.file, &name, NAMED, Mode::empty()) {
            Err(Errno::NOENT) if create => make_folder(&here.file, &name),
            named => named,
        };
        let file = named.map_err(|e| path_error(&here.path.join(&name), e))?;
        let stat = fstat(&file).map_err(|e| path_error(&here.path.join(&name), e))?;
        if let Some(trust) = trust.filter(|_| !is_parent) {
            trust.check_folder(&here, &name, &stat)?;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = readlinkat(&file, "", Vec::new()).map_err(|e| path_error(path, e))?;
            let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
            rest.follow(&target).map_err(|e| path_error(path, e))?;
            if target.is_absolute() {
                here = root()?;
            }
            continue;
        }
        here.file = file;
        match is_parent {
            true => drop(here.path.pop()),
            false => here.path.push(name),
        }
    }
    Ok(here)
}

fn make_folder(parent: &OwnedFd, name: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => openat(parent, name, NAMED, Mode::empty()),
        Err(error) => Err(error),
    }
}

/// Opens a program that `user` is about to run: a regular file of that user or root which no other user can change or
/// exchange.
///
/// # Errors
/// What is wrong with it, and how to fix that.
pub fn open_program(path: &Path, user: u32) -> Result<OwnedFd> {
    let trust = Trust::of(user);
    let found = follow(path, Some(trust), false)?;
    let stat = stat_of(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let path = found.path.display();
        return Err(Error::Settings(format!("{path} is not a regular file")));
    }
    trust.check_owner(&found.path, &stat)?;
    trust.check_not_writable(&found, &stat)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path_of_descriptor(&found.file), flags, Mode::empty())
        .map_err(|e| path_error(&found.path, e))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_program_is_opened_through_links_unless_others_can_write_to_a_folder_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["bin", "opt"] {
            fs::create_dir(root.join(folder)).unwrap();
            set_mode(&root.join(folder), 0o755);
        }
        let program = root.join("opt/program");
        fs::write(&program, "x").unwrap();
        set_mode(&program, 0o755);
        symlink("../opt/program", root.join("bin/link")).unwrap();
        let opened = || open_program(&root.join("bin/link"), me()).map(drop);
        opened().unwrap();
        for folder in ["bin", "opt"] {
            set_mode(&root.join(folder), 0o757);
            let said = opened().unwrap_err().to_string();
            let mend = format!("chmod go-w {}", root.join(folder).display());
            assert!(said.contains(&mend), "{said}");
            set_mode(&root.join(folder), 0o1757);
            opened().unwrap();
            set_mode(&root.join(folder), 0o755);
        }
        set_mode(&program, 0o777);
        assert!(opened().unwrap_err().to_string().contains("chmod go-w"));
        fs::remove_file(&program).unwrap();
        symlink("link", root.join("opt/program")).unwrap();
        symlink("program", root.join("opt/link")).unwrap();
        assert_eq!(opened().unwrap_err().errno(), libc::ELOOP);
    }

    /// Whose group it is say the tables of users and groups, as for files on the disk.
    #[test]
    fn a_group_with_the_users_number_is_not_their_own_unless_it_has_their_name() {
        if me() != 0 {
            return;
        }
        const NUMBER: u32 = 54_321;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        set_mode(&root, 0o755);
        let program = root.join("program");
        fs::write(&program, "x").unwrap();
        std::os::unix::fs::chown(&program, Some(NUMBER), Some(NUMBER)).unwrap();
        set_mode(&program, 0o755);
        open_program(&program, NUMBER).unwrap();
        set_mode(&program, 0o775);
        let said = open_program(&program, NUMBER).unwrap_err().to_string();
        assert!(said.contains("chmod go-w"), "{said}");
        std::os::unix::fs::chown(&program, Some(0), Some(0)).unwrap();
        set_mode(&program, 0o775);
        open_program(&program, NUMBER).unwrap();
    }

    #[test]
    fn only_a_regular_file_is_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in ["fifo", ""] {
            let said = open_program(&root.join(path), me())
                .unwrap_err()
                .to_string();
            assert!(said.contains("is not a regular file"), "{said}");
        }
    }

    #[test]
    fn missing_folders_are_made_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let found = follow(&root.join("a/b"), Some(Trust::of(me())), true).unwrap();
        assert_eq!(found.path, root.join("a/b"));
        for made in ["a", "a/b"] {
            let mode = fs::metadata(root.join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
