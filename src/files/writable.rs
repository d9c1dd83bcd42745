//! Whether a file could be written now, as far as that shows without writing. Knows no content.

use std::io;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::place::Place;

/// Space for what a write adds, and for the entries of the folder.
const MARGIN: u64 = 4096;

/// Why a file of `size` bytes cannot take the place of the one there, made beside it and renamed onto it. `beside`: the bytes of
/// other files that are made in the folder at the same time.
///
/// # Errors
/// EROFS, EACCES, EPERM (an immutable file or folder), ENOSPC, EFBIG (`ulimit -f`).
pub(crate) fn check_replaceable(place: &Place, size: u64, beside: u64) -> io::Result<()> {
    let (folder, name) = place.existing_folder();
    rustix::fs::accessat(
        folder,
        ".",
        Access::WRITE_OK | Access::EXEC_OK,
        AtFlags::empty(),
    )?;
    // Nothing can be renamed onto an immutable file. Its mode does not matter.
    if let Some(name) = name
        && rustix::fs::accessat(folder, name, Access::WRITE_OK, AtFlags::empty())
            == Err(Errno::PERM)
    {
        return Err(Errno::PERM.into());
    }
    check_room(place, size, beside)
}

/// Why the file there cannot be written in place by a program that also makes files beside it. If there is none, it is made.
///
/// # Errors
/// As for [`check_replaceable`].
pub(crate) fn check_writable(place: &Place) -> io::Result<()> {
    check_replaceable(place, 0, 0)?;
    let (folder, name) = place.existing_folder();
    match name {
        Some(name) => Ok(rustix::fs::accessat(
            folder,
            name,
            Access::READ_OK | Access::WRITE_OK,
            AtFlags::empty(),
        )?),
        None => Ok(()),
    }
}

/// Whether the filesystem has room for a file of `size` bytes, and for as many bytes of others.
fn check_room(place: &Place, size: u64, beside: u64) -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    if limit.current.is_some_and(|limit| size > limit) {
        return Err(Errno::FBIG.into());
    }
    let Ok(room) = rustix::fs::fstatvfs(place.existing_folder().0) else {
        return Ok(());
    };
    // Root may use the blocks that are reserved for it.
    let blocks = match rustix::process::geteuid().is_root() {
        true => room.f_bfree,
        false => room.f_bavail,
    };
    let wanted = size.saturating_add(beside).saturating_add(MARGIN);
    // Some filesystems do not count their blocks, and some not their inodes.
    let is_full = room.f_blocks > 0 && blocks.saturating_mul(room.f_frsize) < wanted;
    let has_no_inode = room.f_files > 0 && room.f_ffree == 0;
    match is_full || has_no_inode {
        true => Err(Errno::NOSPC.into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::place;

    #[test]
    fn a_file_that_would_not_fit_on_the_disk_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let place = place::find(&dir.path().join("new/file")).unwrap();
        check_replaceable(&place, 1024, 1024).unwrap();
        for (size, beside) in [(u64::MAX / 2, 0), (0, u64::MAX)] {
            let error = check_replaceable(&place, size, beside).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        }
    }

    #[test]
    fn a_folder_that_may_not_be_written_is_refused_and_the_mode_of_the_file_does_not_matter() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mode = std::fs::Permissions::from_mode;
        std::fs::set_permissions(&file, mode(0o400)).unwrap();
        check_replaceable(&place::find(&file).unwrap(), 0, 0).unwrap();
        if rustix::process::geteuid().is_root() {
            return;
        }
        let refused = check_writable(&place::find(&file).unwrap()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        std::fs::set_permissions(dir.path(), mode(0o500)).unwrap();
        let refused = check_replaceable(&place::find(&file).unwrap(), 0, 0).unwrap_err();
        std::fs::set_permissions(dir.path(), mode(0o700)).unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
