//! Finds a program as execvp(3) does, and refuses one that another user could have put there.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::files::{not_a_file, place};

/// The path of a program: `word` itself if it is a path, else the first program of that name in the folders of `search`
/// (`PATH`). Only this user and root can have put it there, and everything on the way to it.
///
/// # Errors
/// What is wrong, and how to mend it.
pub(crate) fn find(word: &Path, search: Option<&OsStr>) -> Result<PathBuf, String> {
    let shown = word.display();
    if word.components().count() > 1 || word.is_absolute() {
        return match check(word)? {
            Candidate::Program => Ok(word.to_owned()),
            Candidate::Missing => Err(format!("the program {shown} does not exist")),
            Candidate::Unusable(why) => Err(format!("the program {shown} cannot be run: {why}")),
        };
    }
    let mut unusable = None;
    let folders = search.map(std::env::split_paths).into_iter().flatten();
    // A relative folder would depend on where the daemon was started.
    for folder in folders.filter(|folder| folder.is_absolute()) {
        let path = folder.join(word);
        match check(&path)? {
            Candidate::Program => return Ok(path),
            Candidate::Missing => {}
            Candidate::Unusable(why) => {
                unusable.get_or_insert(format!(
                    "the program {} cannot be run: {why}",
                    path.display()
                ));
            }
        }
    }
    let search = search.unwrap_or_default().to_string_lossy();
    Err(unusable.unwrap_or_else(|| {
        format!("there is no program {shown} in the PATH of this process ({search}); give its whole path")
    }))
}

enum Candidate {
    Program,
    Missing,
    Unusable(&'static str),
}

fn check(path: &Path) -> Result<Candidate, String> {
    let found = match place::find(path) {
        Ok(found) => found,
        Err(error) if place::is_untrusted(&error) => return Err(error.to_string()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Candidate::Missing);
        }
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            return Ok(Candidate::Unusable("it is a folder"));
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Ok(Candidate::Unusable(
                "this user may not look into a folder on the way to it",
            ));
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let Some(stat) = found.stat() else {
        return Ok(Candidate::Missing);
    };
    if let Some(what) = not_a_file(stat) {
        return Ok(Candidate::Unusable(what));
    }
    // By the path without links: nobody else can exchange any step of it.
    let access = rustix::fs::accessat(CWD, found.path(), Access::EXEC_OK, AtFlags::EACCESS);
    Ok(match access {
        // A kernel before Linux 5.8 does not know the flag: then the start shows it.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP) => Candidate::Program,
        Err(_) => Candidate::Unusable(
            "it is not executable; see chmod +x, and whether its filesystem is mounted noexec",
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_program_is_found_in_the_path_and_refused_where_another_user_could_have_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let make = |path: &str, mode: u32| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let first = make("a/tool", 0o644);
        let second = make("b/tool", 0o755);
        symlink("tool", root.join("b/link")).unwrap();
        fs::create_dir(root.join("b/folder")).unwrap();
        let search = format!("relative:{0}/none:{0}/a:{0}/b", root.display());
        let by = |word: &str| find(Path::new(word), Some(OsStr::new(&search)));
        assert_eq!(by("tool"), Ok(second.clone()));
        assert_eq!(by("link"), Ok(root.join("b/link")));
        assert!(
            by("nope")
                .unwrap_err()
                .contains("no program nope in the PATH")
        );
        let said = by(first.to_str().unwrap()).unwrap_err();
        assert!(said.contains("not executable"), "{said}");
        let said = by(root.join("b/folder").to_str().unwrap()).unwrap_err();
        assert!(said.contains("it is a folder"), "{said}");
        let said = by(root.join("b/nope").to_str().unwrap()).unwrap_err();
        assert!(said.contains("does not exist"), "{said}");
        fs::remove_file(&second).unwrap();
        assert!(by("tool").unwrap_err().contains("not executable"));
        // A user who can write the folder can put any program there.
        make("b/tool", 0o755);
        fs::set_permissions(root.join("b"), Permissions::from_mode(0o757)).unwrap();
        let said = by("tool").unwrap_err();
        assert!(said.contains("chmod go-w"), "{said}");
        let said = by(second.to_str().unwrap()).unwrap_err();
        assert!(said.contains("chmod go-w"), "{said}");
    }
}
