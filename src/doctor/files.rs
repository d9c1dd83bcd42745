//! The files: the settings, modes and owners, the disk that they lie on, and the errors in the log. Reads no secret.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, StatVfsMountFlags};

use super::{Finding, Subject};
use crate::audit::AuditOptions;
use crate::error::in_words;
use crate::files::{beside, not_a_file, read_file, remains_of};
use crate::manager::file_options;
use crate::provider::file::{FileProvider, path_of_previous};
use crate::provider::{SecretStore, parse_rfc3339};
use crate::settings::paths::DEFAULT_NAMES;
use crate::settings::{Origin, Settings, SettingsDigest};
use crate::text::{counted, printable, shell_path};

/// No writer takes so long.
const WRITE_TIME: Duration = Duration::from_secs(600);
/// The end of the log that is looked at.
const LOG_END: u64 = 256 * 1024;
/// How old an error may be.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// With less room, no write succeeds.
const MIN_ROOM: u64 = 1024 * 1024;
/// With less room, somebody should make some.
const LITTLE_ROOM: u64 = 64 * 1024 * 1024;

/// The path of the secrets file now, links followed; if it may not be used, the path where it is looked for.
pub(super) fn store_path(settings: &Settings) -> PathBuf {
    let path = FileProvider::new(file_options(settings)).path();
    if !path.as_os_str().is_empty() {
        return path;
    }
    let mut defaults = DEFAULT_NAMES
        .iter()
        .map(|name| settings.base_dir.join(name));
    let first = settings.base_dir.join(DEFAULT_NAMES[0]);
    let named = settings.file_path.clone();
    named.unwrap_or_else(|| {
        let found = defaults.find(|path| fs::symlink_metadata(path).is_ok());
        found.unwrap_or(first)
    })
}

pub(super) fn settings(subject: &Subject) -> Vec<Finding> {
    let Some(settings) = subject.settings() else {
        let why = subject.problem().unwrap_or("they cannot be read");
        return vec![Finding::failed(why)];
    };
    let file = &settings.config_file;
    if let Some(why) = subject.problem() {
        return vec![
            Finding::failed(format!("{why}; what follows is checked with the defaults"))
                .mended_as(why, format!("${{EDITOR:-vi}} {}", shell_path(file))),
        ];
    }
    let shown = file.display();
    let mut findings = vec![match file.exists() {
        true => Finding::ok(format!("{shown} is right")),
        false => Finding::ok(format!("there is no {shown}; the defaults are in force")),
    }];
    let status = subject.mount().status.as_ref();
    let in_force = status.map(|status| status["settings"]["in_force"].clone());
    let in_force: Option<SettingsDigest> =
        in_force.and_then(|digest| serde_json::from_value(digest).ok());
    if in_force.is_some_and(|digest| digest.differs_from(file)) {
        let newer = format!("{shown} is newer than what the mount has in force");
        findings.push(Finding::warning(newer).mended_by(subject.command("reload")));
    }
    findings
}

/// A file or folder of this program's, and what others may do with it.
struct Owned {
    path: PathBuf,
    is_folder: bool,
    /// Whether it holds a secret that nobody else may read.
    is_secret: bool,
}

fn owned(settings: &Settings) -> Vec<Owned> {
    let mut all = Vec::new();
    let mut add = |path: PathBuf, is_folder, is_secret| {
        all.push(Owned {
            path,
            is_folder,
            is_secret,
        });
    };
    let store = store_path(settings);
    add(settings.base_dir.clone(), true, false);
    if let Some(folder) = store.parent().filter(|folder| *folder != settings.base_dir) {
        add(folder.to_owned(), true, false);
    }
    for key in file_options(settings).key.all_files() {
        add(key, false, true);
    }
    add(path_of_previous(&store), false, true);
    add(beside(&store, "", ".lock"), false, false);
    add(store, false, true);
    let has_credential = settings
        .in_force
        .iter()
        .any(|setting| setting.from == Origin::File && setting.row.is_secret());
    add(settings.config_file.clone(), false, has_credential);
    add(settings.views_file.clone(), false, false);
    add(settings.log_file.clone(), false, false);
    add(beside(&settings.log_file, "", ".1"), false, false);
    let audit = AuditOptions::from_settings(settings);
    add(settings.state_dir.clone(), true, false);
    add(settings.state_dir.join("audit.key"), false, true);
    add(audit.read_chain().path().to_owned(), false, false);
    add(audit.change_chain().path().to_owned(), false, false);
    all
}

pub(super) fn modes(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let mut checked = 0;
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for owned in owned(settings) {
        if seen.contains(&owned.path) {
            continue;
        }
        match of_file(&owned) {
            Ok(true) => checked += 1,
            Ok(false) => {}
            Err(finding) => findings.push(finding),
        }
        seen.push(owned.path);
    }
    if let Some(finding) = of_remains(&seen) {
        findings.push(finding);
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "the files and folders of this program ({checked}) belong to this user, and others may change none of them"
        )));
    }
    findings
}

/// The hidden files that commands left which were killed.
fn of_remains(files: &[PathBuf]) -> Option<Finding> {
    let is_old = |path: &PathBuf| {
        let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
        let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        age.is_ok_and(|age| age > WRITE_TIME)
    };
    let mut left: Vec<PathBuf> = files.iter().flat_map(|file| remains_of(file, "")).collect();
    left.retain(is_old);
    left.sort();
    left.dedup();
    let words: Vec<_> = left.iter().map(|path| shell_path(path)).collect();
    (!left.is_empty()).then(|| {
        Finding::warning(format!(
            "commands that were killed left {} behind, which nothing needs",
            counted(left.len() as u64, "hidden file")
        ))
        .mended_by(format!("rm {}", words.join(" ")))
    })
}

/// Whether it is there.
fn of_file(owned: &Owned) -> Result<bool, Finding> {
    let path = &owned.path;
    let (shown, word) = (path.display(), shell_path(path));
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return match fs::symlink_metadata(path) {
                Ok(link) if link.is_symlink() => Err(Finding::failed(format!(
                    "{shown} is a link to a file that does not exist"
                ))
                .mended_by(format!("rm {word}"))),
                _ => Ok(false),
            };
        }
        Err(errno) => {
            let why = in_words(&errno.into());
            return Err(
                Finding::failed(format!("{shown} cannot be looked at: {why}"))
                    .mended_by(format!("sudo chown -R \"$(id -un)\": {word}")),
            );
        }
    };
    let is_folder = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    match (owned.is_folder, not_a_file(&stat)) {
        (false, Some(what)) => {
            return Err(Finding::failed(format!("{shown} must be a file: {what}"))
                .mended_by(format!("mv {word} {word}.away")));
        }
        (true, _) if !is_folder => {
            return Err(Finding::failed(format!("{shown} must be a folder"))
                .mended_by(format!("mv {word} {word}.away")));
        }
        _ => {}
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && stat.st_uid != 0 {
        let owner = crate::users::name_within(stat.st_uid, Duration::from_secs(1));
        let owner = owner.unwrap_or_else(|| stat.st_uid.to_string());
        return Err(
            Finding::failed(format!("{shown} belongs to {owner}, who can change it"))
                .mended_by(format!("sudo chown \"$(id -un)\": {word}")),
        );
    }
    let needed = match is_folder {
        true => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
        false => Access::READ_OK | Access::WRITE_OK,
    };
    if let Err(errno) = rustix::fs::access(path, needed)
        && errno == rustix::io::Errno::ACCESS
    {
        let mode = if is_folder { "u+rwx" } else { "u+rw" };
        let fix = match stat.st_uid == me {
            true => format!("chmod {mode} {word}"),
            false => format!("sudo chown \"$(id -un)\": {word}"),
        };
        let why = format!("this user may not read and write {shown}");
        return Err(Finding::failed(why).mended_by(fix));
    }
    let others = stat.st_mode & 0o077;
    let chmod = format!("chmod {} {word}", if is_folder { "go-w" } else { "600" });
    match () {
        // In a sticky folder, others cannot exchange this user's entries.
        () if others & 0o022 != 0 && !(is_folder && stat.st_mode & 0o1000 != 0) => {
            Err(Finding::failed(format!("other users may change {shown}")).mended_by(chmod))
        }
        () if owned.is_secret && others & 0o007 != 0 => Err(Finding::failed(format!(
            "every user may read {shown}, which holds secrets"
        ))
        .mended_by(chmod)),
        () if !is_folder && owned.is_secret && others != 0 => Err(Finding::warning(format!(
            "the group may read {shown}, which holds secrets"
        ))
        .mended_by(chmod)),
        () => Ok(true),
    }
}

pub(super) fn disk(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let store = store_path(settings);
    let folders = [
        Some(settings.base_dir.as_path()),
        store.parent(),
        Some(settings.state_dir.as_path()),
    ];
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for folder in folders.into_iter().flatten() {
        // The nearest that there is: a command would make the rest.
        let Some(folder) = folder.ancestors().find(|folder| folder.exists()) else {
            continue;
        };
        let device = fs::metadata(folder).map_or(0, |found| found.dev());
        if !seen.contains(&device) {
            seen.push(device);
            findings.push(of_disk(folder));
        }
    }
    findings
}

fn of_disk(folder: &Path) -> Finding {
    let (shown, word) = (folder.display(), shell_path(folder));
    let space = match rustix::fs::statvfs(folder) {
        Ok(space) => space,
        Err(errno) => {
            let why = in_words(&errno.into());
            return Finding::failed(format!("the disk of {shown} does not answer: {why}"));
        }
    };
    let largest = format!("du -xah {word} | sort -h | tail -n 20    # shows what takes the room");
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Finding::failed(format!("the disk of {shown} is read-only")).mended_by(format!(
            "sudo mount -o remount,rw \"$(findmnt -no TARGET --target {word})\""
        ));
    }
    let room = space.f_bavail.saturating_mul(space.f_frsize);
    let mebibytes = room / (1024 * 1024);
    // A filesystem that counts no files says 0 of 0.
    let is_out_of_files = space.f_files > 0 && space.f_favail < 16;
    match () {
        () if is_out_of_files => {
            Finding::failed(format!("the disk of {shown} has no room for another file"))
                .mended_by(largest)
        }
        () if room < MIN_ROOM => {
            Finding::failed(format!("the disk of {shown} is full: no write succeeds"))
                .mended_by(largest)
        }
        () if room < LITTLE_ROOM => {
            Finding::warning(format!("the disk of {shown} has {mebibytes} MiB left"))
                .mended_by(largest)
        }
        () => Finding::ok(format!("the disk of {shown} has {mebibytes} MiB left")),
    }
}

pub(super) fn log(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let path = &settings.log_file;
    let Some(text) = end_of(path) else {
        return vec![Finding::skipped(format!(
            "there is no {}; a mount in the foreground logs to standard error, and a service to the journal",
            path.display()
        ))];
    };
    vec![of_log(&text, path, SystemTime::now())]
}

/// The end of the log; not more of it is read.
fn end_of(path: &Path) -> Option<String> {
    // What is larger was never rotated, so another program made it.
    let content = read_file(path, 16 * 1024 * 1024).ok()?;
    let from = content.bytes.len().saturating_sub(LOG_END as usize);
    Some(String::from_utf8_lossy(&content.bytes[from..]).into_owned())
}

fn of_log(text: &str, path: &Path, now: SystemTime) -> Finding {
    let of_line = |line: &str| {
        let (at, rest) = line.split_once(' ')?;
        let message = rest.strip_prefix("error: ")?.to_owned();
        let age = now.duration_since(parse_rfc3339(at)?).unwrap_or_default();
        (age <= RECENT).then(|| (at.to_owned(), message))
    };
    let errors: Vec<(String, String)> = text.lines().filter_map(of_line).collect();
    let shown = path.display();
    match errors.last() {
        None => Finding::ok(format!("{shown} has no error of the last day")),
        Some((at, message)) => Finding::warning(format!(
            "{shown} has {} of the last day; the last, at {at}: {}",
            counted(errors.len() as u64, "error"),
            printable(message)
        ))
        .mended_by(format!("grep ' error: ' {} | tail", shell_path(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Verdict;

    #[test]
    fn only_the_errors_of_the_last_day_count() {
        let now = parse_rfc3339("2026-11-30T12:00:00Z").unwrap();
        let of = |text: &str| of_log(text, Path::new("/l"), now);
        let old =
            "2026-11-28T12:00:00.000000Z error: old\n2026-11-30T11:00:00Z warning: error: no\n";
        assert_eq!(of(old).status, Verdict::Ok);
        assert_eq!(of("garbage\n\n error: x").status, Verdict::Ok);
        let new = format!("{old}2026-11-30T11:59:00.123456Z error: the disk is full\u{1b}[2J\n");
        let found = of(&new);
        assert_eq!(found.status, Verdict::Warning);
        assert!(
            found.message.contains("1 error of the last day"),
            "{found:?}"
        );
        assert!(
            found.message.ends_with("the disk is full\\u{1b}[2J"),
            "{found:?}"
        );
    }
}
