//! The service that mounts at login or at boot: whether there is one, and whether it will be started. Looks at files only, as systemd
//! does, so that it needs no service manager.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::subject::program_word;
use super::{Finding, Subject};
use crate::mount::UNIT;
use crate::text::{as_root, shell_path, shell_word};

/// How long the user database may take.
const NAME_TIMEOUT: Duration = Duration::from_secs(2);
/// Where systemd notes whose services run without a login (logind, `linger`).
const LINGER: &str = "/var/lib/systemd/linger";

/// A place for units, and the command that works on it.
struct Place {
    units: Vec<PathBuf>,
    /// Where links enable them.
    wanted: Vec<PathBuf>,
    systemctl: String,
    is_users: bool,
}

fn places() -> Vec<Place> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    let own = config.map(|config| config.join("systemd/user"));
    let with_own = |others: &[&str]| {
        let others = others.iter().map(PathBuf::from);
        own.clone().into_iter().chain(others).collect::<Vec<_>>()
    };
    vec![
        Place {
            wanted: with_own(&["/etc/systemd/user"])
                .iter()
                .map(|folder| folder.join("default.target.wants"))
                .collect(),
            units: with_own(&["/etc/systemd/user", "/usr/lib/systemd/user"]),
            systemctl: "systemctl --user".to_owned(),
            is_users: true,
        },
        Place {
            units: ["/etc/systemd/system", "/usr/lib/systemd/system"]
                .map(PathBuf::from)
                .into(),
            wanted: vec!["/etc/systemd/system/multi-user.target.wants".into()],
            systemctl: as_root("systemctl"),
            is_users: false,
        },
    ]
}

pub(super) fn service(subject: &Subject) -> Vec<Finding> {
    let installed: Vec<(PathBuf, Place)> = places()
        .into_iter()
        .filter_map(|place| {
            let units = place.units.iter().map(|folder| folder.join(UNIT));
            let unit = units.into_iter().find(|unit| unit.is_file())?;
            Some((unit, place))
        })
        .collect();
    if installed.is_empty() {
        let said = "no unit is installed, so nothing mounts at login or at boot";
        return vec![Finding::skipped(said).mended_by(subject.command("install-service"))];
    }
    installed
        .iter()
        .flat_map(|(unit, place)| of_unit(subject, unit, place))
        .collect()
}

fn of_unit(subject: &Subject, unit: &Path, place: &Place) -> Vec<Finding> {
    let shown = unit.display();
    let systemctl = &place.systemctl;
    if let Some(program) = program_of(unit).filter(|program| !program.is_file()) {
        return vec![
            Finding::failed(format!(
                "{shown} starts {}, which is not there",
                program.display()
            ))
            .mended_by(format!(
                "{} && {systemctl} daemon-reload",
                write_anew(unit, place)
            )),
        ];
    }
    let links = place.wanted.iter().map(|folder| folder.join(UNIT));
    let is_enabled = links
        .into_iter()
        .any(|link| fs::symlink_metadata(link).is_ok());
    if !is_enabled {
        return vec![
            Finding::warning(format!("{shown} is not enabled, so nothing starts it"))
                .mended_by(format!("{systemctl} enable --now {UNIT}")),
        ];
    }
    if place.is_users && !subject.is_root() {
        let uid = rustix::process::geteuid().as_raw();
        let name = crate::users::name_within(uid, NAME_TIMEOUT);
        let lingers = name
            .as_ref()
            .is_some_and(|name| Path::new(LINGER).join(name).exists());
        if !lingers {
            let name = name.unwrap_or_else(|| uid.to_string());
            return vec![
                Finding::warning(format!(
                    "{shown} is enabled, and runs only while {name} is logged in"
                ))
                .mended_by(format!("loginctl enable-linger {}", shell_word(&name))),
            ];
        }
    }
    vec![Finding::ok(format!("{shown} is enabled"))]
}

/// The command that writes the unit again, for this program, as it was.
fn write_anew(unit: &Path, place: &Place) -> String {
    let text = fs::read_to_string(unit).unwrap_or_default();
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    // root may find another program by this one's name, or none.
    let program = match place.is_users {
        true => program_word(),
        false => fs::read_link("/proc/self/exe")
            .map_or_else(|_| program_word(), |path| shell_path(&path)),
    };
    let mut words = vec![program];
    let started = line("ExecStart=").map(words_of).unwrap_or_default();
    let mut arguments = started.iter().skip(1).peekable();
    let mut kept = Vec::new();
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--config" => {
                words.push("--config".to_owned());
                words.extend(arguments.next().map(|file| shell_word(file).into_owned()));
            }
            "--allow-root" => kept.push(word.clone()),
            // The mount point.
            path if path.starts_with('/') => kept.push(shell_word(path).into_owned()),
            _ => {}
        }
    }
    words.push("install-service".to_owned());
    if !place.is_users {
        words.push("--system".to_owned());
        if let Some(user) = line("User=") {
            words.extend(["--user".to_owned(), shell_word(user).into_owned()]);
        }
    }
    words.extend(kept);
    words.push("--force".to_owned());
    match place.is_users {
        true => words.join(" "),
        false => as_root(&words.join(" ")),
    }
}

/// The words of a command line, as `install-service` quotes them for systemd.
fn words_of(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    while rest.next_if_eq(&' ').is_some() || rest.peek().is_some() {
        let is_quoted = rest.next_if_eq(&'"').is_some();
        let mut word = String::new();
        while let Some(c) = rest.next() {
            match c {
                '"' if is_quoted => break,
                ' ' if !is_quoted => break,
                // Each stands for the second character.
                '\\' | '%' | '$' => word.extend(rest.next()),
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}

/// What the unit starts; `None`: that is not a whole path.
fn program_of(unit: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(unit).ok()?;
    let mut lines = text.lines();
    let start = lines.find_map(|line| line.strip_prefix("ExecStart="))?;
    let program = PathBuf::from(words_of(start).into_iter().next()?);
    program.is_absolute().then_some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_unit_are_those_that_were_written_into_it() {
        let line = r#"/usr/bin/a mount --foreground "/a b/\"c\"/$$HOME/%%h" /d"#;
        let words = [
            "/usr/bin/a",
            "mount",
            "--foreground",
            "/a b/\"c\"/$HOME/%h",
            "/d",
        ];
        assert_eq!(words_of(line), words);
        assert!(words_of("").is_empty());
    }
}
