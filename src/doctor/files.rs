//! The files: the settings, modes and owners, the disk that they lie on, and the errors in the log. Reads no secret.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::StatVfsMountFlags;

use super::access::Owned;
use super::{Finding, Subject};
use crate::audit::AuditOptions;
use crate::error::in_words;
use crate::files::{beside, read_file, remains_of};
use crate::manager::file_options;
use crate::provider::file::{FileProvider, path_of_previous};
use crate::provider::{SecretStore, parse_rfc3339};
use crate::settings::paths::DEFAULT_NAMES;
use crate::settings::{Origin, Settings, SettingsDigest};
use crate::text::{as_root, counted, printable, shell_path};

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

/// What is wrong not in the file, but in a variable; with the command for this shell.
fn without_settings(why: &str) -> Finding {
    let finding = Finding::failed(why);
    match unset_variable(why) {
        Some(unset) => finding.mended_by(unset),
        None if why.contains("HOME") => {
            finding.mended_by("export HOME=\"$(getent passwd \"$(id -u)\" | cut -d: -f6)\"")
        }
        None => finding,
    }
}

/// The command that takes away the variable that a message names, by itself or as a setting; `None`: it names none that is set.
pub(super) fn unset_variable(why: &str) -> Option<String> {
    let mut words = why.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let variable = |word: &str| {
        let name = word.to_ascii_uppercase();
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains('_');
        (is_name && std::env::var_os(&name).is_some()).then(|| format!("unset {name}"))
    };
    words.find_map(variable)
}

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
        return vec![without_settings(why)];
    };
    let file = &settings.config_file;
    if let Some(why) = subject.problem() {
        let fix = Owned::file(file).mending();
        let fix = fix.unwrap_or_else(|| format!("${{EDITOR:-vi}} {}", shell_path(file)));
        return vec![
            Finding::failed(format!("{why}; what follows is checked with the defaults"))
                .mended_as(why, fix),
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
        findings.push(Finding::warning(newer).mended_by(subject.mount_command("reload")));
    }
    findings
}

fn owned(settings: &Settings) -> Vec<Owned> {
    let store = store_path(settings);
    let key = file_options(settings).key;
    let audit = AuditOptions::from_settings(settings);
    let has_credential = settings
        .in_force
        .iter()
        .any(|setting| setting.from == Origin::File && setting.row.is_secret());
    let mut all = vec![Owned::folder(&settings.base_dir)];
    all.extend(store.parent().map(Owned::folder));
    all.push(Owned::folder(&settings.state_dir));
    all.extend(key.all_files().into_iter().map(Owned::secret));
    all.extend([
        Owned::secret(path_of_previous(&store)),
        Owned::file(beside(&store, "", ".lock")),
        Owned::secret(store),
        Owned {
            is_secret: has_credential,
            is_only_read: true,
            ..Owned::file(&settings.config_file)
        },
        Owned::file(&settings.views_file),
        Owned::file(&settings.log_file),
        Owned::file(beside(&settings.log_file, "", ".1")),
        Owned::secret(audit_key(settings)),
        Owned::file(audit.read_chain().path()),
        Owned::file(audit.change_chain().path()),
    ]);
    all
}

/// The file of the key of the audit trails.
pub(super) fn audit_key(settings: &Settings) -> PathBuf {
    settings.state_dir.join("audit.key")
}

pub(super) fn modes(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let mut checked = 0;
    let mut findings = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for owned in owned(settings) {
        if seen.contains(&owned.path) {
            continue;
        }
        match owned.check() {
            Ok(true) => checked += 1,
            Ok(false) => {}
            // One folder may be in the way to many files.
            Err(finding) if findings.contains(&finding) => {}
            Err(finding) => findings.push(finding),
        }
        seen.push(owned.path);
    }
    if let Some(finding) = of_remains(&seen) {
        findings.push(finding);
    }
    if findings.is_empty() && checked == 0 {
        let folder = settings.base_dir.display();
        findings.push(Finding::ok(format!("there is nothing in {folder} yet")));
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

/// How much room the disk of a folder has.
pub(super) fn of_disk(folder: &Path) -> Finding {
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
        let remount = format!("mount -o remount,rw \"$(findmnt -no TARGET --target {word})\"");
        return Finding::failed(format!("the disk of {shown} is read-only"))
            .mended_by(as_root(&remount));
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
