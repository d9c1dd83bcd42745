//! Paths without touching what they lead to: a path of ours that led into our own mount would wait for itself.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::mountinfo;

/// How long a filesystem may take to say what is a link.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The default places of the secrets file in `~/.simpletuner`, in order.
pub(crate) const DEFAULT_NAMES: [&str; 3] = ["secrets.json", "secrets.yaml", "secrets.yml"];
/// Where `adopt` puts the store, in the same order.
pub(crate) const ADOPTED_NAMES: [&str; 3] = ["store.json", "store.yaml", "store.yml"];

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To this place (which need not exist), links followed.
    To(PathBuf),
    /// Into the mount.
    IntoMount,
}

/// Follows an absolute path's links by reading them, and stops before the first step into `mount_point`.
///
/// # Errors
/// `ELOOP` where the links go round.
pub(crate) fn follow(path: &Path, mount_point: Option<&Path>) -> Result<Leads> {
    match mount_point {
        Some(mount) => walk(path, &[lexical(mount), without_links(mount)]),
        None => walk(path, &[]),
    }
}

/// Whether an absolute path leads into what is, or is to be, mounted at `mount_point`, be it through a bind mount. Links
/// that go round lead nowhere, and so does a path on a filesystem that does not answer for two seconds: our own mount is
/// never asked, so it is another one.
pub(crate) fn leads_into(path: &Path, mount_point: &Path) -> bool {
    let (sender, receiver) = channel();
    let (path, mount_point) = (path.to_owned(), mount_point.to_owned());
    std::thread::spawn(move || {
        let real = without_links(&mount_point);
        let mut places = mountinfo::aliases(&real);
        places.extend([lexical(&mount_point), real]);
        let leads = matches!(walk(&path, &places), Ok(Leads::IntoMount));
        let _ = sender.send(leads);
    });
    receiver.recv_timeout(ANSWERS_WITHIN).unwrap_or(false)
}

/// The place that an absolute path leads to, found by reading links alone: a mount there, which may not answer, is not
/// asked.
pub(crate) fn without_links(path: &Path) -> PathBuf {
    match walk(path, &[]) {
        Ok(Leads::To(place)) => place,
        _ => lexical(path),
    }
}

fn walk(path: &Path, mount_points: &[PathBuf]) -> Result<Leads> {
    let mut todo: Vec<OsString> = names_reversed(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        here.push(&name);
        if mount_points.iter().any(|mount| here.starts_with(mount)) {
            return Ok(Leads::IntoMount);
        }
        let Ok(target) = std::fs::read_link(&here) else {
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            let source = rustix::io::Errno::LOOP;
            return Err(Error::io(format!("following {}", path.display()), source));
        }
        here.pop();
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        todo.extend(names_reversed(&target));
    }
    Ok(Leads::To(here))
}

fn names_reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// The path without `.` and `..`, by its text alone.
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

/// Where the store is when a default place, `link`, leads into the mount because it was adopted.
pub(crate) fn adopted_store(link: &Path, base_dir: &Path) -> Option<PathBuf> {
    if !DEFAULT_NAMES.iter().any(|name| base_dir.join(name) == link) {
        return None;
    }
    let mut stores = ADOPTED_NAMES.iter().map(|name| base_dir.join(name));
    stores.find(|store| std::fs::symlink_metadata(store).is_ok_and(|found| found.is_file()))
}

/// SimpleTuner's state folder (formats.md, "Folders"). `root` is `/`, but for tests.
pub(super) fn state_dir(
    env: &dyn Fn(&str) -> Option<String>,
    base_dir: &Path,
    root: &Path,
) -> PathBuf {
    let named = ["SIMPLETUNER_STATE_DIR", "SIMPLETUNER_CONFIG_DIR"];
    if let Some(path) = named.iter().find_map(|name| env(name)) {
        let path = match path.strip_prefix("~/") {
            Some(rest) => base_dir.parent().unwrap_or(root).join(rest),
            None => PathBuf::from(path),
        };
        return std::path::absolute(&path).unwrap_or(path);
    }
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
    fn a_path_into_the_mount_is_seen_through_text_and_links() {
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
            Leads::To(root.join("file"))
        );
    }

    #[test]
    fn a_mount_point_that_is_named_through_a_link_is_recognized() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        let mount = root.join("alias/live");
        assert!(leads_into(&root.join("real/live/x"), &mount));
        assert!(leads_into(&root.join("alias/live/x"), &mount));
    }

    #[test]
    fn links_that_go_round_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let error = follow(&dir.path().join("a"), None).unwrap_err();
        assert_eq!(error.errno(), libc::ELOOP);
    }
}
