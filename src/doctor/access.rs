//! What keeps this user from a file or a folder, or lets others at it, and the command that mends it. Reads no content.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FileType, Stat};
use rustix::io::Errno;

use super::Finding;
use crate::error::in_words;
use crate::files::{not_a_file, place};
use crate::settings::paths::without_links;
use crate::text::{as_root, shell_path};

/// The bits of a sticky folder, in which others cannot exchange this user's entries.
const STICKY: u32 = 0o1000;

/// A file or folder of this program's.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) path: PathBuf,
    pub(super) is_folder: bool,
    /// Whether it holds a secret that nobody else may read.
    pub(super) is_secret: bool,
    /// Whether this program never writes it.
    pub(super) is_only_read: bool,
}

impl Owned {
    pub(super) fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_folder: false,
            is_secret: false,
            is_only_read: false,
        }
    }

    pub(super) fn secret(path: impl Into<PathBuf>) -> Self {
        Self {
            is_secret: true,
            ..Self::file(path)
        }
    }

    pub(super) fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            is_folder: true,
            ..Self::file(path)
        }
    }

    /// The command that lets this user at it; `None`: no owner, mode or kind of file is in the way.
    pub(super) fn mending(&self) -> Option<String> {
        self.check().err()?.fix
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<bool, Finding> {
        let path = &self.path;
        let (shown, word) = (path.display(), shell_path(path));
        let stat = match rustix::fs::stat(path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return match fs::symlink_metadata(path) {
                    Ok(link) if link.is_symlink() => Err(Finding::failed(format!(
                        "{shown} is a link to a file that does not exist"
                    ))
                    .mended_by(format!("rm {word}"))),
                    _ => Ok(false),
                };
            }
            Err(errno) => return Err(out_of_reach(path, errno)),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
        match (self.is_folder, not_a_file(&stat)) {
            (false, Some(what)) => {
                let said = format!("{shown} must be a file: {what}");
                return Err(Finding::failed(said).mended_by(set_aside(path)));
            }
            (true, _) if !is_folder => {
                let said = format!("{shown} must be a folder");
                return Err(Finding::failed(said).mended_by(set_aside(path)));
            }
            _ => {}
        }
        let me = rustix::process::geteuid().as_raw();
        if !place::is_trusted(stat.st_uid, me, false) {
            let owner = crate::users::name_within(stat.st_uid, Duration::from_secs(1));
            let owner = owner.unwrap_or_else(|| stat.st_uid.to_string());
            let said = format!("{shown} belongs to {owner}, who can change it");
            return Err(match !is_folder || is_in_home(path) {
                true => Finding::failed(said).mended_by(take_over(path)),
                false => Finding::failed(said),
            });
        }
        let needed = match (is_folder, self.is_only_read) {
            (true, _) => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
            (false, false) => Access::READ_OK | Access::WRITE_OK,
            (false, true) => Access::READ_OK,
        };
        match rustix::fs::access(path, needed) {
            Err(Errno::ACCESS) if is_folder => return Err(closed(path)),
            Err(Errno::ACCESS) => {
                let verb = if self.is_only_read {
                    "read"
                } else {
                    "read and write"
                };
                let said = format!("this user may not {verb} {shown}");
                let fix = match stat.st_uid == me {
                    true => format!("chmod u+rw {word}"),
                    false => take_over(path),
                };
                return Err(Finding::failed(said).mended_by(fix));
            }
            Err(Errno::PERM) => {
                let said = format!("nobody may change {shown}: it is immutable");
                let fix = as_root(&format!("chattr -i {word}"));
                return Err(Finding::failed(said).mended_by(fix));
            }
            // A read-only disk is the subject of another check.
            _ => {}
        }
        self.check_others(&stat)
    }

    /// What others may do.
    fn check_others(&self, stat: &Stat) -> Result<bool, Finding> {
        let (shown, word) = (self.path.display(), shell_path(&self.path));
        let is_sticky = self.is_folder && stat.st_mode & STICKY != 0;
        let me = rustix::process::geteuid().as_raw();
        let chmod = match (self.is_folder, stat.st_uid == me) {
            (true, true) => format!("chmod go-w {word}"),
            // Root's own folder for all, such as /workspace.
            (true, false) => as_root(&format!("chmod +t {word}")),
            (false, true) => format!("chmod 600 {word}"),
            (false, false) => take_over(&self.path),
        };
        let may_read = stat.st_mode & 0o077;
        match () {
            () if place::others_can_write(stat, &without_links(&self.path)) && !is_sticky => {
                Err(Finding::failed(format!("other users may change {shown}")).mended_by(chmod))
            }
            () if self.is_secret && may_read & 0o007 != 0 => Err(Finding::failed(format!(
                "every user may read {shown}, which holds secrets"
            ))
            .mended_by(chmod)),
            () if self.is_secret && may_read != 0 => Err(Finding::warning(format!(
                "the group may read {shown}, which holds secrets"
            ))
            .mended_by(chmod)),
            () => Ok(true),
        }
    }
}

/// The command that gives what is in the way another name, which is free.
pub(super) fn set_aside(path: &Path) -> String {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(".away");
        if number > 1 {
            name.push(number.to_string());
        }
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let mut names = (1..100).map(numbered);
    let free = names.find(is_free).unwrap_or_else(|| numbered(100));
    format!("mv {} {}", shell_path(path), shell_path(&free))
}

fn take_over(path: &Path) -> String {
    as_root(&format!("chown \"$(id -un)\": {}", shell_path(path)))
}

/// A path that cannot be looked at, because of a folder above it.
fn out_of_reach(path: &Path, errno: Errno) -> Finding {
    let real = without_links(path);
    let outer_first = real.ancestors().collect::<Vec<_>>().into_iter().rev();
    let mut outer_first = outer_first.map(Path::to_owned);
    match errno {
        Errno::ACCESS => {
            let is_closed = |folder: &PathBuf| {
                *folder != real && rustix::fs::access(folder, Access::EXEC_OK).is_err()
            };
            match outer_first.find(is_closed) {
                Some(folder) if is_mine(&folder) || is_in_home(&folder) => closed(&folder),
                // Others have their files there, too, so its owner stays.
                Some(folder) => {
                    let fix = format!("setfacl -m \"u:$(id -un):x\" {}", shell_path(&folder));
                    Finding::failed(in_folder(&folder)).mended_by(as_root(&fix))
                }
                None => unknown(path, errno),
            }
        }
        Errno::NOTCONN => {
            let has_ended =
                |folder: &PathBuf| rustix::fs::stat(folder).err() == Some(Errno::NOTCONN);
            match outer_first.find(has_ended) {
                Some(folder) => Finding::failed(format!(
                    "{} is a mount whose program has ended",
                    folder.display()
                ))
                .mended_by(as_root(&format!("umount -l {}", shell_path(&folder)))),
                None => unknown(path, errno),
            }
        }
        Errno::LOOP => {
            let said = format!("{} is a link that leads back to itself", path.display());
            Finding::failed(said).mended_by(format!("rm {}", shell_path(path)))
        }
        _ => unknown(path, errno),
    }
}

fn unknown(path: &Path, errno: Errno) -> Finding {
    let why = in_words(&errno.into());
    Finding::failed(format!("{} cannot be looked at: {why}", path.display()))
}

fn in_folder(folder: &Path) -> String {
    format!("this user may not use the folder {}", folder.display())
}

/// A folder that this user may not enter, list or write.
fn closed(folder: &Path) -> Finding {
    let finding = Finding::failed(in_folder(folder));
    match () {
        () if is_mine(folder) => finding.mended_by(format!("chmod u+rwx {}", shell_path(folder))),
        // Root may have run something here.
        () if is_in_home(folder) => finding.mended_by(take_over(folder)),
        // It may be a folder of the system's, such as /etc.
        () => Finding::failed(format!(
            "{}; let the settings name a file in a folder of this user's",
            finding.message
        )),
    }
}

fn is_mine(path: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    fs::metadata(path).is_ok_and(|found| found.uid() == me)
}

/// Whether a folder lies in the home of this user, so that it is this user's by right.
fn is_in_home(folder: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute() && is_mine(home));
    let home = home.map(|home| without_links(&home));
    home.is_some_and(|home| folder != home && without_links(folder).starts_with(home))
}
