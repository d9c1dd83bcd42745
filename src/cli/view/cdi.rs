//! `view cdi`: a file by which container engines know the views as devices.

use std::fs;
use std::io;
use std::path::Path;

use super::Target;
use crate::cli::Outcome;
use crate::cli::failure::{Failure, say, warn};
use crate::cli::output;
use crate::error::Error;
use crate::provider::file::write::replace;
use crate::views::cdi::{KIND, is_device_name, specification};

/// The file's name in the engine's folder.
const FILE: &str = "simpletuner-live.json";

pub(super) fn run(target: &Target, dir: &Path) -> Outcome {
    let all = target.all()?;
    let (names, others): (Vec<&str>, Vec<&str>) = all
        .keys()
        .map(String::as_str)
        .partition(|name| is_device_name(name));
    for name in others {
        warn(&format!(
            "the view {name} is left out: a device's name begins and ends with a letter or a digit"
        ));
    }
    let file = dir.join(FILE);
    if names.is_empty() {
        return remove(&file);
    }
    let folder = target.path("");
    let text = serde_json::to_string_pretty(&specification(&names, &folder));
    let text = text.map_err(|error| Failure::new(error.to_string()))? + "\n";
    fs::create_dir_all(dir).map_err(|e| failed(Error::io(dir.display().to_string(), e)))?;
    // Engines of ordinary users read it, too. It holds paths only.
    replace(&file, text.as_bytes(), 0o644).map_err(failed)?;
    if target.client.is_none() {
        say(
            "note",
            "no mount is running: containers find the views once `simpletuner-live mount` runs",
        );
    }
    say(
        "note",
        &format!("--device {KIND}={} gives a container that view", names[0]),
    );
    output::line(&file.display().to_string())
}

/// A file without devices would be refused by engines.
fn remove(file: &Path) -> Outcome {
    match fs::remove_file(file) {
        Ok(()) => say(
            "note",
            &format!("there is no view; {} is removed", file.display()),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say("note", "there is no view, and so no file is written");
        }
        Err(error) => return Err(failed(Error::io(file.display().to_string(), error))),
    }
    Ok(())
}

fn failed(error: Error) -> Failure {
    match error.errno() {
        libc::EACCES | libc::EPERM | libc::EROFS => Failure::with_hint(
            error.to_string(),
            "run it as root, or name another folder by --dir, which the engine knows as well",
        ),
        _ => error.into(),
    }
}
