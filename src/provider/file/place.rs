//! Where the secrets file lies: a path of one's own, or the first of the default places. Knows nothing of its content,
//! and never steps into our own mount.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::settings::paths::{DEFAULT_NAMES, Resolved, adopted_store, follow};

/// Where a secrets file lies.
#[derive(Clone, Debug)]
pub struct StorePlace {
    candidates: Vec<PathBuf>,
    default_folder: Option<PathBuf>,
    mount_point: Option<PathBuf>,
}

/// What lies there now.
pub(super) enum Look<'a> {
    /// A thing at one of the places themselves.
    Direct(&'a Path, Stat),
    /// What a link there leads to, if anything.
    Via(PathBuf, Option<Stat>),
    /// Nothing; a write would make this file.
    Nothing(&'a Path),
}

impl Look<'_> {
    pub(super) fn path(&self) -> &Path {
        match self {
            Look::Direct(path, _) | Look::Nothing(path) => path,
            Look::Via(path, _) => path,
        }
    }

    pub(super) fn stat(&self) -> Option<&Stat> {
        match self {
            Look::Direct(_, stat) => Some(stat),
            Look::Via(_, stat) => stat.as_ref(),
            Look::Nothing(_) => None,
        }
    }
}

impl StorePlace {
    /// The place that settings name: `file_path`, or the default places in `default_folder`. Links into `mount_point`
    /// are not followed.
    pub fn new(file_path: Option<PathBuf>, default_folder: &Path, mount_point: &Path) -> Self {
        Self {
            candidates: match file_path {
                Some(path) => vec![absolute(path)],
                None => DEFAULT_NAMES.map(|name| default_folder.join(name)).into(),
            },
            default_folder: Some(default_folder.to_owned()),
            mount_point: Some(mount_point.to_owned()),
        }
    }

    /// Just this file, with no mount to beware of.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            candidates: vec![absolute(path.into())],
            default_folder: None,
            mount_point: None,
        }
    }

    /// The files that say what lies there: the places themselves, and what a link there leads to.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.candidates.clone();
        files.extend(self.look().ok().map(|look| look.path().to_owned()));
        files
    }

    /// One `statx` where the first place has a regular file.
    pub(super) fn look(&self) -> Result<Look<'_>> {
        for path in &self.candidates {
            match rustix::fs::lstat(path) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    return self.look_via(path);
                }
                Ok(stat) => return Ok(Look::Direct(path, stat)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::io(path.display().to_string(), errno)),
            }
        }
        // There is always one.
        let first = self.candidates.first().map_or(Path::new("/"), |path| path);
        Ok(Look::Nothing(first))
    }

    fn look_via(&self, link: &Path) -> Result<Look<'_>> {
        let target = match follow(link, self.mount_point.as_deref())? {
            Resolved::Path(target) => target,
            Resolved::InsideMount => self.adopted(link)?,
        };
        match rustix::fs::lstat(&target) {
            Ok(stat) => Ok(Look::Via(target, Some(stat))),
            Err(Errno::NOENT) => Ok(Look::Via(target, None)),
            Err(errno) => Err(Error::io(target.display().to_string(), errno)),
        }
    }

    /// A default place that leads into the mount was adopted, maybe while this process ran: the store is beside it.
    fn adopted(&self, link: &Path) -> Result<PathBuf> {
        let store = self
            .default_folder()
            .and_then(|folder| adopted_store(link, folder));
        store.ok_or_else(|| {
            Error::Settings(format!(
                "{} leads into our own mount, which would wait for itself; name another file_path in live.yaml",
                link.display()
            ))
        })
    }

    fn default_folder(&self) -> Option<&Path> {
        self.default_folder.as_deref()
    }

    /// Whether it is the file that SimpleTuner's server reads by itself.
    pub(super) fn is_default(&self, path: &Path) -> bool {
        self.default_folder()
            .is_some_and(|folder| DEFAULT_NAMES.iter().any(|name| folder.join(name) == path))
    }
}

/// A path that stays the same when the process changes its folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether the suffix says YAML.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| {
        suffix.eq_ignore_ascii_case("yaml") || suffix.eq_ignore_ascii_case("yml")
    })
}
