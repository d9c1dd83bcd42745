//! The mount: whether it answers, its two processes, what its providers say, its sockets.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::access::set_aside;
use super::{Finding, Subject};
use crate::mount::{self, MountPointState, UNIT};
use crate::process;
use crate::provider::parse_rfc3339;
use crate::settings::Settings;
use crate::text::{as_root, counted, printable, shell_path, shell_word};

/// Restarts that are older say nothing of how the mount is now.
const RECENT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn answers(subject: &Subject) -> Vec<Finding> {
    let facts = subject.mount();
    let shown = facts.mount_point.display();
    let word = shell_path(&facts.mount_point);
    let mount = subject.mount_command("mount");
    vec![match &facts.state {
        Err(why) => Finding::failed(why),
        Ok(MountPointState::Ours { alive: true, .. }) => Finding::ok(format!("{shown} answers")),
        Ok(MountPointState::Ours { alive: false, .. }) => {
            match mount::explain_stopped(&facts.mount_point) {
                None => Finding::failed(format!(
                    "the mount at {shown} is dead; the next `mount` cleans it up"
                ))
                .mended_by(mount),
                Some((why, go_on)) => Finding::failed(why).mended_by(go_on),
            }
        }
        Ok(MountPointState::NotMounted) => {
            let others = mount::own_mount_points();
            let elsewhere = match others.first() {
                None => String::new(),
                Some(other) => format!(
                    "; this user has a mount at {0}, which `doctor {0}` checks",
                    shell_path(other)
                ),
            };
            Finding::warning(format!("nothing is mounted at {shown}{elsewhere}")).mended_by(mount)
        }
        Ok(MountPointState::OfAnother { uid }) => {
            let why = mount::belongs_to_another(&facts.mount_point, *uid);
            Finding::failed(why).mended_by(match subject.flags().mount_point {
                // It may be meant to be there.
                Some(_) => subject.command("mount ~/live"),
                None => format!("{} && {mount}", as_root(&format!("umount {word}"))),
            })
        }
        Ok(MountPointState::Foreign { fstype }) => Finding::failed(format!(
            "{shown} is a {fstype} mount, not one of simpletuner-live"
        ))
        .mended_by(format!("{} && {mount}", as_root(&format!("umount {word}")))),
    }]
}

pub(super) fn processes(subject: &Subject) -> Vec<Finding> {
    let Some(status) = &subject.mount().status else {
        return vec![Finding::skipped("there is no mount that answers")];
    };
    let mut findings = Vec::new();
    let mut pids = Vec::new();
    for (name, field) in [("keeper", "keeper_pid"), ("server", "server_pid")] {
        let Some(pid) = status[field].as_u64().and_then(|pid| pid.try_into().ok()) else {
            findings.push(
                Finding::warning(format!(
                    "the mount has no {name}: nobody replaces its other process when that ends"
                ))
                .mended_by(subject.mount_command("upgrade")),
            );
            continue;
        };
        if process::is_stopped(pid) {
            findings.push(
                Finding::failed(format!(
                    "the {name}, process {pid}, is stopped (by SIGSTOP, or by a debugger)"
                ))
                .mended_by(format!("kill -CONT {pid}")),
            );
        }
        pids.push(format!("{name} {pid}"));
    }
    let version = status["version"].as_str().unwrap_or_default();
    if version != env!("CARGO_PKG_VERSION") {
        findings.push(
            Finding::warning(format!(
                "the mount runs version {version}, and this is {}",
                env!("CARGO_PKG_VERSION")
            ))
            .mended_by(subject.mount_command("upgrade")),
        );
    }
    findings.extend(restarts(subject, status));
    findings.extend(failed_write(subject, status));
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{} run", pids.join(" and "))));
    }
    findings
}

/// A write that failed, and the command that writes again, once the reason is gone.
fn failed_write(subject: &Subject, status: &Value) -> Option<Finding> {
    let failed = &status["failed_write"];
    let why = failed["reason"].as_str()?;
    let file = failed["file"].as_str().unwrap_or("?");
    let finding = Finding::failed(format!(
        "the write of {} failed at {}, and none has succeeded since: {}",
        printable(file),
        printable(failed["at"].as_str().unwrap_or("?")),
        printable(why)
    ));
    Some(match file.strip_prefix("secrets/") {
        Some(name) => finding.mended_as(why, subject.command(&format!("set {}", shell_word(name)))),
        None => finding,
    })
}

/// What `status` gives as the reason of a change that somebody asked for.
const ASKED_FOR: [&str; 2] = ["upgrade", "reload"];

/// The servers that ended in the last day without being asked to.
fn restarts(subject: &Subject, status: &Value) -> Option<Finding> {
    let now = SystemTime::now();
    let is_unexpected = |restart: &&Value| {
        let reason = restart["reason"].as_str();
        !reason.is_some_and(|reason| ASKED_FOR.contains(&reason))
    };
    let is_recent = |restart: &&Value| {
        let at = restart["at"].as_str().and_then(parse_rfc3339);
        at.is_some_and(|at| now.duration_since(at).unwrap_or_default() <= RECENT)
    };
    let recent: Vec<&Value> = status["restarts"]
        .as_array()?
        .iter()
        .filter(is_unexpected)
        .filter(is_recent)
        .collect();
    let last = recent.last()?;
    let word = |field: &str| printable(last[field].as_str().unwrap_or("?"));
    Some(
        Finding::warning(format!(
            "the server was replaced {} in the last day; the last one ended at {} ({})",
            counted(recent.len() as u64, "time"),
            word("at"),
            word("reason")
        ))
        .mended_by(format!("{}    # says why", log_command(subject))),
    )
}

/// The command that shows the end of the log.
fn log_command(subject: &Subject) -> String {
    let log = subject.settings().map(|settings| settings.log_file.clone());
    match log.filter(|log| log.is_file()) {
        Some(log) => format!("tail -n 50 {}", shell_path(&log)),
        // A service logs to the journal.
        None if subject.is_root() => format!("journalctl -n 50 -u {UNIT}"),
        None => format!("journalctl --user -n 50 -u {UNIT}"),
    }
}

pub(super) fn providers(subject: &Subject) -> Vec<Finding> {
    let facts = subject.mount();
    if facts.status.is_none() {
        return vec![Finding::skipped("there is no mount that answers")];
    }
    let mut findings = Vec::new();
    let mut fine = Vec::new();
    for report in &facts.providers {
        if report["configured"] != true {
            continue;
        }
        let name = report["name"].as_str().unwrap_or("?");
        let why = printable(
            report["last_error"]
                .as_str()
                .unwrap_or("it does not say why"),
        );
        // What is wrong with the source itself has a check of its own.
        let again = |finding: Finding| match name {
            "file" => finding,
            _ => finding.mended_by(format!(
                "{}    # asks it again",
                subject.mount_command("reload")
            )),
        };
        match (report["available"].as_bool(), report["stale"].as_bool()) {
            (Some(false), Some(true)) => findings.push(again(Finding::warning(format!(
                "{name} fails, and the mount serves its last values: {why}"
            )))),
            (Some(false), _) => {
                findings.push(again(Finding::failed(format!("{name} fails: {why}"))));
            }
            (None, _) => fine.push(format!("{name} was not asked yet")),
            (Some(true), _) => fine.push(format!(
                "{name} has {}",
                counted(
                    report["keys"].as_array().map_or(0, Vec::len) as u64,
                    "secret"
                )
            )),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(fine.join(", ")));
    }
    findings
}

pub(super) fn sockets(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    if !settings.docker {
        return vec![Finding::skipped("docker is not set, so no socket is open")];
    }
    let Some(status) = &subject.mount().status else {
        return vec![Finding::skipped("there is no mount that answers")];
    };
    let socket = &status["docker"];
    let reload = subject.mount_command("reload");
    if let Some(problem) = socket["problem"].as_str() {
        // A file may be where the socket or its folder is to be.
        let in_the_way = settings.docker_socket.as_ref().and_then(|path| {
            let there = path.ancestors().find(|path: &&Path| path.exists())?;
            let kind = std::fs::metadata(there).ok()?.file_type();
            // Another mount may listen there.
            (!kind.is_dir() && !kind.is_socket()).then_some(there)
        });
        let fix = match in_the_way {
            Some(path) => format!("{} && {reload}", set_aside(path)),
            None => reload,
        };
        return vec![
            Finding::failed(format!("container engines are not answered: {problem}"))
                .mended_by(fix),
        ];
    }
    let Some(path) = socket["socket"].as_str() else {
        let why = "docker is set, and the mount has not taken it over";
        return vec![Finding::failed(why).mended_by(reload)];
    };
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    vec![match (is_socket, UnixStream::connect(path)) {
        (true, Ok(_)) => Finding::ok(format!("container engines are answered at {path}")),
        (true, Err(error)) => Finding::failed(format!(
            "nobody answers at {path}: {}",
            crate::error::in_words(&error)
        ))
        .mended_by(reload),
        (false, _) => Finding::failed(format!("the socket {path} is gone")).mended_by(reload),
    }]
}
