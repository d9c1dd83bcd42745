//! Where the secrets file is: the path in the settings, or the first default path that exists. Knows nothing of its
//! content. Never follows a link into the mount: the server would wait for itself.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::base_folder;
use crate::files::place::Place;
use crate::settings::paths::{ADOPTED_NAMES, DEFAULT_NAMES, adopted_store, find, is_link_of_adopt};

/// The path of a secrets file, or the default paths.
#[derive(Clone, Debug)]
pub struct StoreLocation {
    candidates: Vec<PathBuf>,
    default_folder: Option<PathBuf>,
    mount_point: Option<PathBuf>,
    /// The only candidate, if `adopt` has put it into the settings.
    store_of_adopt: Option<PathBuf>,
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
            store_of_adopt: None,
        }
    }

    /// With `by_adopt`, the settings have the path because of `adopt`: once `adopt --undo` has put SimpleTuner's own file back, that
    /// is the store, even for a process that has read its settings before.
    #[must_use]
    pub fn named_by_adopt(mut self, by_adopt: bool) -> Self {
        let folder = self.default_folder.as_deref();
        let is_ours = |store: &&PathBuf| {
            folder.is_some_and(|folder| {
                ADOPTED_NAMES
                    .iter()
                    .any(|name| folder.join(name) == **store)
            })
        };
        self.store_of_adopt = match by_adopt {
            true => self.candidates.first().filter(is_ours).cloned(),
            false => None,
        };
        self
    }

    /// This file only, without a mount to avoid.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            candidates: vec![absolute(path.into())],
            default_folder: None,
            mount_point: None,
            store_of_adopt: None,
        }
    }

    /// The files to watch: the paths themselves, and the target of a link there (last).
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.candidates.clone();
        if self.store_of_adopt.is_some() {
            files.extend(self.defaults());
        }
        files.extend(self.locate().ok().map(|located| located.path().to_owned()));
        files
    }

    /// Finds the file, links followed; without one, where a write creates it.
    pub(crate) fn locate(&self) -> Result<Place> {
        let defaults: Vec<PathBuf>;
        let candidates = match &self.store_of_adopt {
            Some(store) if self.is_undone(store) => {
                defaults = self.defaults().collect();
                &defaults
            }
            _ => &self.candidates,
        };
        // There is always at least one path.
        let first = candidates.first().map_or(Path::new("/"), |path| path);
        let path = candidates.iter().find(is_there).map_or(first, |p| p);
        let is_adopted = is_link_of_adopt(path) && self.adopted(path).is_ok();
        if !is_adopted && let Some(place) = find(path, self.mount_point.as_deref())? {
            if place.stat().is_none() {
                base_folder::refuse_anew(place.path())?;
            }
            return Ok(place);
        }
        let store = self.adopted(path)?;
        find(&store, None)?.ok_or_else(|| Error::io(store.display().to_string(), Errno::LOOP))
    }

    /// Whether `adopt --undo` has removed the store. `adopt` makes it before it links to the mount, and `--undo` removes it last.
    fn is_undone(&self, store: &PathBuf) -> bool {
        !is_there(&store) && !self.defaults().any(|path| is_link_of_adopt(&path))
    }

    fn defaults(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.default_folder().into_iter();
        folder.flat_map(|folder| DEFAULT_NAMES.map(|name| folder.join(name)))
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

    /// Whether SimpleTuner's server reads this file itself. `path`: links followed.
    pub(super) fn is_default(&self, path: &Path) -> bool {
        let there = self.defaults().find(|default| is_there(&default));
        there.is_some_and(|default| {
            let place = find(&default, self.mount_point.as_deref());
            place.is_ok_and(|place| place.is_some_and(|place| place.path() == path))
        })
    }
}

fn is_there(path: &&PathBuf) -> bool {
    !matches!(rustix::fs::lstat(*path), Err(Errno::NOENT))
}

/// A path that does not depend on the working folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether the suffix says YAML.
pub(crate) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| {
        suffix.eq_ignore_ascii_case("yaml") || suffix.eq_ignore_ascii_case("yml")
    })
}
