//! Where the secrets file is: the path in the settings, or the first default path that exists. Knows nothing of its
//! content. Never follows a link into the mount: the server would wait for itself.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::base_folder;
use crate::files::place::Place;
use crate::settings::paths::{DEFAULT_NAMES, adopted_store, find};

/// The path of a secrets file, or the default paths.
#[derive(Clone, Debug)]
pub struct StoreLocation {
    candidates: Vec<PathBuf>,
    default_folder: Option<PathBuf>,
    mount_point: Option<PathBuf>,
}

impl StoreLocation {
    /// The location from the settings: `file_path`, or the default paths in `default_folder`. Links into `mount_point`
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

    /// This file only, without a mount to avoid.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            candidates: vec![absolute(path.into())],
            default_folder: None,
            mount_point: None,
        }
    }

    /// The files to watch: the paths themselves, and the target of a link there (last).
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.candidates.clone();
        files.extend(self.locate().ok().map(|located| located.path().to_owned()));
        files
    }

    /// Finds the file, links followed; without one, where a write creates it.
    pub(super) fn locate(&self) -> Result<Place> {
        let is_there = |path: &&PathBuf| !matches!(rustix::fs::lstat(*path), Err(Errno::NOENT));
        // There is always at least one path.
        let first = self.candidates.first().map_or(Path::new("/"), |path| path);
        let path = self.candidates.iter().find(is_there).map_or(first, |p| p);
        if let Some(place) = find(path, self.mount_point.as_deref())? {
            if place.stat().is_none() {
                base_folder::refuse_anew(place.path())?;
            }
            return Ok(place);
        }
        let store = self.adopted(path)?;
        find(&store, None)?.ok_or_else(|| Error::io(store.display().to_string(), Errno::LOOP))
    }

    /// A default path that leads into the mount was adopted, perhaps while this process ran: the store is beside it.
    fn adopted(&self, link: &Path) -> Result<PathBuf> {
        let store = self
            .default_folder()
            .and_then(|folder| adopted_store(link, folder));
        store.ok_or_else(|| {
            Error::Settings(format!(
                "{} leads into this mount, which would wait for itself; set another file_path in live.yaml",
                link.display()
            ))
        })
    }

    fn default_folder(&self) -> Option<&Path> {
        self.default_folder.as_deref()
    }

    /// Whether SimpleTuner's server reads this file itself.
    pub(super) fn is_default(&self, path: &Path) -> bool {
        self.default_folder()
            .is_some_and(|folder| DEFAULT_NAMES.iter().any(|name| folder.join(name) == path))
    }
}

/// A path that does not depend on the working folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether the suffix says YAML.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| {
        suffix.eq_ignore_ascii_case("yaml") || suffix.eq_ignore_ascii_case("yml")
    })
}
