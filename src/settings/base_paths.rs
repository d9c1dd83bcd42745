//! The paths from which all others are derived: the home folder, `~/.simpletuner` and the settings file. Reads no file.

use std::path::{Path, PathBuf};

use super::{Flags, paths};
use crate::error::{Error, Result};

/// The paths from which all others are derived.
pub(super) struct BasePaths {
    pub(super) home: PathBuf,
    pub(super) has_home: bool,
    pub(super) base_dir: PathBuf,
    pub(super) config_file: PathBuf,
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
        match (home, config) {
            (Some(home), config) => {
                let base_dir = home.join(".simpletuner");
                Ok(Self {
                    config_file: config.unwrap_or_else(|| base_dir.join("live.yaml")),
                    base_dir,
                    home,
                    has_home: true,
                })
            }
            // Without a home, the folder of the settings file replaces `~/.simpletuner`.
            (None, Some(config_file)) => {
                let base_dir = config_file.parent().unwrap_or(Path::new("/")).to_owned();
                Ok(Self {
                    home: base_dir.parent().unwrap_or(Path::new("/")).to_owned(),
                    has_home: false,
                    base_dir,
                    config_file,
                })
            }
            (None, None) => Err(Error::Settings(
                "HOME is not set (to an absolute path), so ~/.simpletuner cannot be found; \
                 set HOME, or pass --config FILE to use the folder of that file"
                    .to_owned(),
            )),
        }
    }

    pub(super) fn mount_point(&self, flags: &Flags) -> Result<PathBuf> {
        match &flags.mount_point {
            Some(path) => self.absolute(path),
            None => Ok(self.base_dir.join("live")),
        }
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
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|error| Error::io(path.display().to_string(), error))
}
