//! Changes `file_path` in `live.yaml` line by line, so that the rest stays as the user wrote it. Knows no store.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{ReadError, beside, read_file};
use crate::provider::file::write::{replace, sync_folder_of};
use crate::settings::Settings;
use crate::settings::paths::{ADOPT_MARK, Resolved, follow, is_file_path, is_line_of_adopt};
use crate::yaml::{self, Mapping, Value};

/// Begins the user's own line while `adopt` replaces it; `adopt --undo` restores it.
const DISABLED: &str = "#before adopt# ";
const MAX_SETTINGS: usize = 1024 * 1024;

/// The settings file with another `file_path`.
pub(super) struct Change {
    path: PathBuf,
    /// `None`: it has this text already.
    text: Option<String>,
    mode: u32,
}

impl Change {
    /// `file_path` is this store, or (`None`) what it was before `adopt`. Changes nothing yet.
    ///
    /// # Errors
    /// [`Error::Settings`] if the file cannot be changed line by line.
    pub(super) fn prepare(settings: &Settings, store: Option<&Path>) -> Result<Self> {
        let path = match follow(&settings.config_file, Some(&settings.mount_point))? {
            Resolved::Path(path) => path,
            Resolved::InsideMount => settings.config_file.clone(),
        };
        let (text, mode) = match read_file(&path, MAX_SETTINGS) {
            Ok(content) => {
                let text = String::from_utf8_lossy(&content.bytes).into_owned();
                (text, content.mode & 0o777)
            }
            Err(ReadError::Missing) => (String::new(), 0o600),
            Err(_) => return Err(cannot_change(&path)),
        };
        let new = match store {
            Some(store) => with_file_path(&text, &line_for(settings, store)),
            None => without_file_path(&text),
        };
        if new == text {
            return Ok(Self {
                path,
                text: None,
                mode,
            });
        }
        let keeps_the_rest = rest_of(&text).is_some_and(|rest| Some(rest) == rest_of(&new));
        let is_set = new.lines().any(is_line_of_adopt) == store.is_some();
        match keeps_the_rest && is_set {
            true => Ok(Self {
                path,
                text: Some(new),
                mode,
            }),
            false => Err(cannot_change(&path)),
        }
    }

    /// Writes the file. Returns whether that changed it.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is as it was then.
    pub(super) fn apply(self) -> Result<bool> {
        match self.text.as_deref() {
            None => {
                // A killed run may have left it.
                let _ = std::fs::remove_file(beside(&self.path, ".", ".tmp"));
                return Ok(false);
            }
            // `adopt` has made the file.
            Some("") => {
                let removed = std::fs::remove_file(&self.path);
                let failed = |error| Error::io(format!("removing {}", self.path.display()), error);
                removed.map_err(failed)?;
                sync_folder_of(&self.path);
            }
            Some(text) => replace(&self.path, text.as_bytes(), self.mode)?,
        }
        Ok(true)
    }
}

fn cannot_change(path: &Path) -> Error {
    Error::Settings(format!(
        "{} cannot be changed line by line; set file_path in it yourself",
        path.display()
    ))
}

/// All settings except `file_path`; `None` if the file is not YAML.
fn rest_of(text: &str) -> Option<Mapping> {
    match yaml::parse(text).ok()?.root {
        Value::Mapping(mut settings) => {
            settings.retain(|setting| setting.key.as_str() != Some("file_path"));
            Some(settings)
        }
        root => root.is_null().then(Mapping::new),
    }
}

fn line_for(settings: &Settings, store: &Path) -> String {
    let below_home = store.strip_prefix(settings.home.join(".simpletuner"));
    let path = match below_home {
        Ok(name) if settings.base_dir.ends_with(".simpletuner") => {
            format!("~/.simpletuner/{}", name.display())
        }
        _ => store.display().to_string(),
    };
    // A JSON string is also a YAML string.
    let quoted = serde_json::Value::from(path);
    format!("file_path: {quoted}  {ADOPT_MARK}")
}

fn with_file_path(text: &str, own_line: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_replaced = false;
    for line in text.lines() {
        if is_file_path(line) {
            lines.push(own_line.to_owned());
            if !is_line_of_adopt(line) {
                lines.push(format!("{DISABLED}{line}"));
            }
            is_replaced = true;
        } else {
            lines.push(line.to_owned());
        }
    }
    if !is_replaced {
        lines.push(own_line.to_owned());
    }
    lines.join("\n") + "\n"
}

fn without_file_path(text: &str) -> String {
    let restored = |line: &str| line.strip_prefix(DISABLED).unwrap_or(line).to_owned();
    let lines = text
        .lines()
        .filter(|line| !is_line_of_adopt(line))
        .map(restored);
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_other_settings_stay_as_they_were_written() {
        let ours = format!("file_path: \"/x/store.json\"  {ADOPT_MARK}");
        for before in [
            "",
            "# mine\nttl: 60   # a minute\n",
            "encrypt: true\nfile_path: ~/.simpletuner/secrets.json  # here\naccess: []\n",
        ] {
            let after = with_file_path(before, &ours);
            assert!(after.lines().any(|line| line == ours));
            assert!(rest_of(before) == rest_of(&after));
            assert_eq!(
                with_file_path(&after, &ours),
                after,
                "a second run changes nothing"
            );
            assert_eq!(without_file_path(&after), before);
        }
    }
}
