//! Changes `file_path` in `live.yaml` line by line, so that the rest stays as the user wrote it. Knows no store.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::provider::file::write::replace;
use crate::settings::Settings;
use crate::settings::paths::{Resolved, follow};
use crate::yaml::{self, Mapping, Value};

/// Ends the line that `adopt` adds.
const MARK: &str = "# by `simpletuner-live adopt`";
/// Begins the user's own line while `adopt` replaces it; `adopt --undo` restores it.
const DISABLED: &str = "#before adopt# ";
const MAX_SETTINGS: usize = 1024 * 1024;

/// Sets `file_path` to this store, or (`None`) back to what it was before `adopt`.
///
/// # Errors
/// [`Error::Settings`] if the file cannot be changed line by line; nothing has changed then.
pub(super) fn set_store(settings: &Settings, store: Option<&Path>) -> Result<()> {
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
        return Ok(());
    }
    let keeps_the_rest = rest_of(&text).is_some_and(|rest| Some(rest) == rest_of(&new));
    let is_set = match store {
        Some(_) => new.lines().any(is_own_line),
        None => !new.lines().any(is_own_line),
    };
    if !keeps_the_rest || !is_set {
        return Err(cannot_change(&path));
    }
    replace(&path, new.as_bytes(), mode)
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
    format!("file_path: {quoted}  {MARK}")
}

fn is_file_path(line: &str) -> bool {
    line.strip_prefix("file_path")
        .is_some_and(|rest| rest.trim_start().starts_with(':'))
}

fn is_own_line(line: &str) -> bool {
    is_file_path(line) && line.trim_end().ends_with(MARK)
}

fn with_file_path(text: &str, own_line: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_replaced = false;
    for line in text.lines() {
        if is_file_path(line) {
            lines.push(own_line.to_owned());
            if !is_own_line(line) {
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
    let lines = text.lines().filter(|line| !is_own_line(line)).map(restored);
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_other_settings_stay_as_they_were_written() {
        let ours = format!("file_path: \"/x/store.json\"  {MARK}");
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
