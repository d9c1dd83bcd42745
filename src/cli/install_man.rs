//! `install-man`: writes the manual's pages where man(1) finds them. Touches no file that it has not made.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueHint;
use serde_json::json;
use time::OffsetDateTime;

use super::failure::{Failure, say};
use super::man::{self, MARK};
use super::{Context, Outcome, absolute, output};
use crate::error::Error;
use crate::text::shell_path;

/// Write the manual: a page for each command, and one for the settings
///
/// Running it again changes only what has changed, and removes the pages of commands that no longer exist. It touches no file
/// that it has not made.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live install-man && man simpletuner-live-get
  sudo simpletuner-live install-man                   # for all users
  simpletuner-live install-man --dir ./man && man --manpath=./man simpletuner-live"
)]
pub(super) struct Args {
    /// The folder of man1 and man5 [default: ~/.local/share/man; for root /usr/local/share/man]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, _: &Context) -> Outcome {
    let dir = match &args.dir {
        Some(dir) => absolute(dir)?,
        None => default_dir()?,
    };
    let mut done = Done::default();
    let pages = man::pages(&date());
    // All of it is looked at before any is written.
    let places = pages.iter().map(|page| {
        let path = dir
            .join(format!("man{}", page.section))
            .join(page.file_name());
        is_current(&path, &page.text).map(|current| (path, current))
    });
    let places = places.collect::<Outcome<Vec<_>>>()?;
    for (page, (path, is_current)) in pages.iter().zip(&places) {
        if *is_current {
            done.unchanged += 1;
            continue;
        }
        write(path, &page.text)?;
        done.written.push(path.clone());
    }
    for section in ["man1", "man5"] {
        let is_wanted = |path: &PathBuf| places.iter().any(|(place, _)| place == path);
        for path in own_pages(&dir.join(section)) {
            if !is_wanted(&path) {
                fs::remove_file(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
                done.removed.push(path);
            }
        }
    }
    report(&dir, &done, args.json)
}

/// What a run did.
#[derive(Default)]
struct Done {
    written: Vec<PathBuf>,
    removed: Vec<PathBuf>,
    unchanged: usize,
}

fn report(dir: &Path, done: &Done, json: bool) -> Outcome {
    if json {
        return output::json(&json!({
            "dir": dir, "written": done.written, "removed": done.removed, "unchanged": done.unchanged,
        }));
    }
    output::line(&dir.display().to_string())?;
    let removed = match done.removed.len() {
        0 => String::new(),
        count => format!(", {count} removed"),
    };
    let (written, unchanged) = (done.written.len(), done.unchanged);
    say(
        "note",
        &format!("{written} pages written, {unchanged} unchanged{removed}"),
    );
    let man = match is_searched(dir) {
        true => "man simpletuner-live".to_owned(),
        false => format!("man --manpath={} simpletuner-live", shell_path(dir)),
    };
    say("next", &man);
    Ok(())
}

fn default_dir() -> Outcome<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/usr/local/share/man".into());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match home.filter(|home| home.is_absolute()) {
        Some(home) => Ok(home.join(".local/share/man")),
        None => Err(Failure::with_hint(
            "HOME is not set to an absolute path, so there is no usual folder",
            "simpletuner-live install-man --dir DIR",
        )),
    }
}

/// The date of the pages: that of the program's own file, or `SOURCE_DATE_EPOCH`, by which packages are reproducible.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let given = epoch.and_then(|seconds| seconds.parse().ok());
    let given = given.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let built = || {
        let program = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
        OffsetDateTime::from(program.unwrap_or(SystemTime::UNIX_EPOCH))
    };
    given.unwrap_or_else(built).date().to_string()
}

/// Whether the page is there already.
///
/// # Errors
/// Another program's file is at its place.
fn is_current(path: &Path, text: &[u8]) -> Outcome<bool> {
    match fs::read(path) {
        Ok(present) if present == text => Ok(true),
        Ok(present) if is_own(&present) => Ok(false),
        Ok(_) => Err(Failure::with_hint(
            format!("{} is not a page of install-man", path.display()),
            "remove it, or choose another folder with --dir",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path.display().to_string(), error).into()),
    }
}

fn is_own(page: &[u8]) -> bool {
    page.strip_prefix(MARK.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"\n"))
}

/// The pages that install-man has made in a folder.
fn own_pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_file && is_ours_by_name(&entry.file_name())
    });
    let paths = named.map(|entry| entry.path());
    paths
        .filter(|path| fs::read(path).is_ok_and(|page| is_own(&page)))
        .collect()
}

fn is_ours_by_name(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("simpletuner-live")
}

/// Replaces a page whole, readable by all whatever the umask says: root installs it for others.
fn write(path: &Path, text: &[u8]) -> Outcome {
    let failed = |e| Failure::from(Error::io(path.display().to_string(), e));
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o755);
    folders
        .create(folder)
        .map_err(|e| Error::io(folder.display().to_string(), e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Whether man(1) looks there: `MANPATH` names it, or it lies beside a folder of `PATH`, or it is the system's.
fn is_searched(dir: &Path) -> bool {
    let system = ["/usr/share/man", "/usr/local/share/man"];
    let listed = |variable| {
        let value = std::env::var_os(variable).unwrap_or_default();
        std::env::split_paths(&value).collect::<Vec<_>>()
    };
    let beside = |bin: PathBuf| {
        let parent = bin.parent()?;
        Some([parent.join("share/man"), parent.join("man")])
    };
    let beside_programs = listed("PATH").into_iter().filter_map(beside).flatten();
    system.iter().any(|system| Path::new(system) == dir)
        || listed("MANPATH").iter().any(|path| path == dir)
        || beside_programs.into_iter().any(|path| path == dir)
}
