//! The mount: whether it answers, its two processes, what its providers say, its sockets.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Finding, Subject};
use crate::mount::{self, MountPointState};
use crate::process;
use crate::provider::parse_rfc3339;
use crate::settings::Settings;
use crate::text::{counted, printable, shell_path};

/// Restarts that are older say nothing of how the mount is now.
const RECENT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn answers(subject: &Subject) -> Vec<Finding> {
    let facts = subject.mount();
    let shown = facts.mount_point.display();
    let word = shell_path(&facts.mount_point);
    let mount = subject.command("mount");
    vec![match &facts.state {
        Err(why) => Finding::failed(why),
        Ok(MountPointState::Ours { alive: true, .. }) => Finding::ok(format!("{shown} answers")),
        Ok(MountPointState::Ours { alive: false, .. }) => {
            let stopped = mount::stopped_processes(&facts.mount_point);
            let pids: Vec<String> = stopped.iter().map(u32::to_string).collect();
            match pids.join(" ") {
                none if none.is_empty() => Finding::failed(format!(
                    "the mount at {shown} is dead; the next `mount` cleans it up"
                ))
                .mended_by(mount),
                pids => Finding::failed(format!(
                    "the mount at {shown} does not answer: its process {pids} is stopped (by SIGSTOP, or by a debugger)"
                ))
                .mended_by(format!("kill -CONT {pids}")),
            }
        }
        Ok(MountPointState::NotMounted) => {
            let others = mount::own_mount_points();
            let elsewhere = match others.first() {
                None => String::new(),
                Some(other) => format!("; this user has a mount at {}", other.display()),
            };
            Finding::warning(format!("nothing is mounted at {shown}{elsewhere}")).mended_by(mount)
        }
        Ok(MountPointState::OfAnother { uid }) => {
            let why = mount::belongs_to_another(&facts.mount_point, *uid);
            Finding::failed(why).mended_by(subject.command("mount ~/live"))
        }
        Ok(MountPointState::Foreign { fstype }) => Finding::failed(format!(
            "{shown} is a {fstype} mount, not one of simpletuner-live"
        ))
        .mended_by(format!("sudo umount {word} && {mount}")),
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
                .mended_by(subject.command("upgrade")),
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
            .mended_by(subject.command("upgrade")),
        );
    }
    findings.extend(restarts(status));
    let failed = &status["failed_write"];
    if let Some(why) = failed["reason"].as_str() {
        let word = |field: &str| printable(failed[field].as_str().unwrap_or("?"));
        findings.push(Finding::failed(format!(
            "the write of {} failed at {}, and none has succeeded since: {}",
            word("file"),
            word("at"),
            printable(why)
        )));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{} run", pids.join(" and "))));
    }
    findings
}

/// What `status` gives as the reason of a change that somebody asked for.
const ASKED_FOR: [&str; 2] = ["upgrade", "reload"];

/// The servers that ended in the last day without being asked to.
fn restarts(status: &Value) -> Option<Finding> {
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
        .mended_by("tail -n 50 ~/.simpletuner/live.log    # says why"),
    )
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
        match (report["available"].as_bool(), report["stale"].as_bool()) {
            (Some(false), Some(true)) => findings.push(Finding::warning(format!(
                "{name} fails, and the mount serves its last values: {why}"
            ))),
            (Some(false), _) => findings.push(Finding::failed(format!("{name} fails: {why}"))),
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
    if let Some(problem) = socket["problem"].as_str() {
        return vec![
            Finding::failed(format!("container engines are not answered: {problem}"))
                .mended_by(subject.command("reload")),
        ];
    }
    let Some(path) = socket["socket"].as_str() else {
        let why = "docker is set, and the mount has not taken it over";
        return vec![Finding::failed(why).mended_by(subject.command("reload"))];
    };
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    vec![match (is_socket, UnixStream::connect(path)) {
        (true, Ok(_)) => Finding::ok(format!("container engines are answered at {path}")),
        (true, Err(error)) => Finding::failed(format!(
            "nobody answers at {path}: {}",
            crate::error::in_words(&error)
        ))
        .mended_by(subject.command("reload")),
        (false, _) => Finding::failed(format!("the socket {path} is gone"))
            .mended_by(subject.command("reload")),
    }]
}
