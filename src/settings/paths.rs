//! Resolves paths without accessing their target: if it were in this program's mount, the server would wait for itself.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files::names::Names;
use crate::files::place::{self, Place};
use crate::process::mountinfo;
use crate::sync;

/// How long a filesystem may take to read links.
const READ_LINK_TIMEOUT: Duration = Duration::from_secs(2);

/// The default names of the secrets file in `~/.simpletuner`, in order.
pub(crate) const DEFAULT_NAMES: [&str; 3] = ["secrets.json", "secrets.yaml", "secrets.yml"];
/// The names that `adopt` gives the store, in the same order.
pub(crate) const ADOPTED_NAMES: [&str; 3] = ["store.json", "store.yaml", "store.yml"];

/// What a default file links to once `adopt` has replaced it: this, in a mount.
pub(crate) const IN_MOUNT: &str = "bundle/secrets.json";
/// Ends the line of the settings file that `adopt` adds.
pub(crate) const ADOPT_MARK: &str = "# by `simpletuner-live adopt`";

/// Whether `adopt` wrote this line of the settings file: `file_path`, set to the store.
pub(crate) fn is_line_of_adopt(line: &str) -> bool {
    is_file_path(line) && line.trim_end().ends_with(ADOPT_MARK)
}

/// Whether this line of the settings file sets `file_path`.
pub(crate) fn is_file_path(line: &str) -> bool {
    line.strip_prefix("file_path")
        .is_some_and(|rest| rest.trim_start().starts_with(':'))
}

/// Whether the path is a link to the bundle of a mount, as `adopt` makes it. The mount need not be there.
pub(crate) fn is_link_of_adopt(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| target.ends_with(IN_MOUNT))
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// To this path without links, which need not exist.
    Path(PathBuf),
    /// Into the mount.
    InsideMount,
}

/// Follows the links of an absolute path, if this user or root made them, and stops before the first step into
/// `mount_point`.
///
/// # Errors
/// `ELOOP` if there are too many links, EACCES if another user could have put something there.
pub(crate) fn follow(path: &Path, mount_point: Option<&Path>) -> Result<Resolved> {
    match find(path, mount_point)? {
        Some(place) => Ok(Resolved::Path(place.path().to_owned())),
        None => Ok(Resolved::InsideMount),
    }
}

/// Like [`follow`], with the file there; `None`: inside the mount.
pub(crate) fn find(path: &Path, mount_point: Option<&Path>) -> Result<Option<Place>> {
    let mount_points = mount_point.map(|mount| [lexical(mount), without_links(mount)]);
    let mount_points = mount_points.as_ref().map_or(&[][..], |both| both);
    place::find_outside(path, mount_points)
        .map_err(|error| Error::io(path.display().to_string(), error))
}

/// Whether an absolute path leads into the (future) mount at `mount_point`, also through a bind mount. `false` for a loop of
/// links, and for a filesystem that does not answer within two seconds: that is another one, because this mount is never
/// accessed.
pub(crate) fn leads_into(path: &Path, mount_point: &Path) -> bool {
    let (path, mount_point) = (path.to_owned(), mount_point.to_owned());
    let look = move || {
        let real = without_links(&mount_point);
        let mut mount_points = mountinfo::aliases(&real);
        mount_points.extend([lexical(&mount_point), real]);
        let resolved = resolve(&path, &mount_points);
        matches!(resolved, Ok(Resolved::InsideMount))
    };
    sync::within("links", READ_LINK_TIMEOUT, look).unwrap_or(false)
}

/// The path that an absolute path leads to, found only by reading links, so that a hung mount at its end does not block.
pub(crate) fn without_links(path: &Path) -> PathBuf {
    match resolve(path, &[]) {
        Ok(Resolved::Path(path)) => path,
        _ => lexical(path),
    }
}

fn resolve(path: &Path, mount_points: &[PathBuf]) -> Result<Resolved> {
    let mut rest = Names::of(path);
    let mut here = PathBuf::from("/");
    while let Some(name) = rest.next() {
        if name == ".." {
            here.pop();
            continue;
        }
        here.push(&name);
        if mount_points.iter().any(|mount| here.starts_with(mount)) {
            return Ok(Resolved::InsideMount);
        }
        let Ok(target) = std::fs::read_link(&here) else {
            continue;
        };
        rest.follow(&target)
            .map_err(|source| Error::io(format!("following {}", path.display()), source))?;
        here.pop();
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
    }
    Ok(Resolved::Path(here))
}

/// The path without `.` and `..`, computed from its text alone.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// The store that belongs to `link`, a default path that `adopt` has replaced with a link into the mount.
pub(crate) fn adopted_store(link: &Path, base_dir: &Path) -> Option<PathBuf> {
    if !DEFAULT_NAMES.iter().any(|name| base_dir.join(name) == link) {
        return None;
    }
    let mut stores = ADOPTED_NAMES.iter().map(|name| base_dir.join(name));
    stores.find(|store| std::fs::symlink_metadata(store).is_ok_and(|found| found.is_file()))
}

/// SimpleTuner's state folder, found as SimpleTuner finds it if no variable names it. `root` is `/` except in tests.
pub(super) fn state_dir(base_dir: &Path, root: &Path) -> PathBuf {
    let candidates = [
        root.join("workspace/simpletuner"),
        root.join("notebooks/simpletuner"),
        base_dir.to_owned(),
    ];
    let has_cloud = candidates.iter().find(|path| path.join("cloud").is_dir());
    let has_parent = || {
        candidates
            .iter()
            .find(|path| path.parent().is_some_and(Path::is_dir))
    };
    has_cloud
        .or_else(has_parent)
        .cloned()
        .unwrap_or_else(|| base_dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_into_the_mount_is_recognized_through_dots_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mount = root.join("live");
        std::fs::create_dir(root.join("sub")).unwrap();
        symlink("../live/bundle/secrets.json", root.join("sub/secrets.json")).unwrap();
        symlink(&root, root.join("sub/up")).unwrap();
        symlink("file", root.join("link")).unwrap();
        for inside in [
            "live",
            "live/x",
            "sub/../live/x",
            "sub/secrets.json",
            "sub/up/live/y",
        ] {
            assert!(leads_into(&root.join(inside), &mount), "{inside}");
        }
        for outside in ["lively", "sub", "sub/up", "file", "nowhere/x"] {
            assert!(!leads_into(&root.join(outside), &mount), "{outside}");
        }
        assert_eq!(
            follow(&root.join("sub/up/link"), Some(&mount)).unwrap(),
            Resolved::Path(root.join("file"))
        );
    }

    #[test]
    fn a_mount_point_behind_a_link_is_recognized() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        let mount = root.join("alias/live");
        assert!(leads_into(&root.join("real/live/x"), &mount));
        assert!(leads_into(&root.join("alias/live/x"), &mount));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let error = follow(&dir.path().join("a"), None).unwrap_err();
        assert_eq!(error.errno(), libc::ELOOP);
    }
}
