//! The paths from which all others are derived: the home folder, `~/.simpletuner`, the settings file, the mount point. Reads
//! no file.

use std::path::{Path, PathBuf};

use super::{Flags, paths};
use crate::error::{Error, Result};

/// The paths from which all others are derived.
#[derive(Default)]
pub(super) struct BasePaths {
    pub(super) home: PathBuf,
    pub(super) has_home: bool,
    pub(super) base_dir: PathBuf,
    pub(super) config_file: PathBuf,
    pub(super) mount_point: PathBuf,
}

impl BasePaths {
    pub(super) fn find(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let config = match &flags.config {
            Some(path) => Some(absolute(path)?),
            None => None,
        };
        let home = env("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute());
        let mut base = match (home, config) {
            (Some(home), config) => {
                let base_dir = home.join(".simpletuner");
                Self {
                    config_file: config.unwrap_or_else(|| base_dir.join("live.yaml")),
                    mount_point: base_dir.join("live"),
                    base_dir,
                    home,
                    has_home: true,
                }
            }
            // Without a home, the folder of the settings file replaces `~/.simpletuner`.
            (None, Some(config_file)) => {
                let base_dir = config_file.parent().unwrap_or(Path::new("/")).to_owned();
                Self {
                    home: base_dir.parent().unwrap_or(Path::new("/")).to_owned(),
                    has_home: false,
                    mount_point: base_dir.join("live"),
                    base_dir,
                    config_file,
                }
            }
            (None, None) => {
                return Err(Error::Settings(
                    "HOME is not set (to an absolute path), so ~/.simpletuner cannot be found; \
                     set HOME, or pass --config FILE to use the folder of that file; `umount`, \
                     `status`, `reload` and `upgrade` also take the mount's folder"
                        .to_owned(),
                ));
            }
        };
        if let Some(path) = &flags.mount_point {
            base.mount_point = base.absolute(path)?;
        }
        Ok(base)
    }

    /// A path of the command line; `~` only if the shell has not expanded it.
    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf> {
        match path.to_str() {
            Some(text) if text == "~" || text.starts_with("~/") => {
                self.expand(text, Path::new("/"))
            }
            _ => absolute(path),
        }
    }

    /// A path of the settings file: `~` is the home folder, and other relative paths begin in the file's folder.
    pub(super) fn expand(&self, text: &str, beside: &Path) -> Result<PathBuf> {
        let below_home = match text {
            "~" => Some(""),
            _ => text.strip_prefix("~/"),
        };
        match below_home {
            Some(_) if !self.has_home => Err(Error::Settings(format!(
                "{text} begins with ~, but HOME is not set"
            ))),
            Some(rest) => Ok(paths::lexical(&self.home.join(rest))),
            None => Ok(paths::lexical(&beside.join(text))),
        }
    }

    /// Refuses a path into the mount: the server would wait for itself. Accepts a default path that `adopt` has replaced with
    /// a link into the mount, because the provider then uses the store beside it.
    pub(super) fn keep_out_of_mount(&self, what: &str, path: &Path) -> Result<()> {
        let mount_point = &self.mount_point;
        let is_adopted = paths::adopted_store(path, &self.base_dir).is_some();
        if is_adopted || !paths::leads_into(path, mount_point) {
            return Ok(());
        }
        if self.base_dir.starts_with(mount_point) {
            return Err(Error::Settings(format!(
                "{} cannot be a mount point: a mount would hide {}, which it needs; choose an empty folder, or a name that does not \
                 exist yet",
                mount_point.display(),
                self.base_dir.display()
            )));
        }
        Err(Error::Settings(format!(
            "{what}, {}, leads into the mount at {}, which would wait for itself; use a path outside of it",
            path.display(),
            mount_point.display()
        )))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|error| Error::io(path.display().to_string(), error))
}
