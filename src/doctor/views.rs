//! The definitions of views: whether they are right, whether each pattern has a secret, and whether their users exist.

use std::path::Path;

use serde_json::Value;

use super::access::{Owned, set_aside};
use super::{Finding, Subject};
use crate::manager::SecretsManager;
use crate::mount::MountPointState;
use crate::settings::Settings;
use crate::text::{as_root, counted, shell_path, shell_word};
use crate::views::{Missing, Pattern, ViewDefinition, read_definitions};

pub(super) fn definitions(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    let file = &settings.views_file;
    let views = match read_definitions(file) {
        Ok(views) => views,
        Err(why) => {
            let why = format!("{}: {why}", file.display());
            let fix = Owned::file(file).mending();
            let fix = fix.unwrap_or_else(|| format!("${{EDITOR:-vi}} {}", shell_path(file)));
            return vec![Finding::failed(why.clone()).mended_as(&why, fix)];
        }
    };
    if views.is_empty() {
        return vec![Finding::skipped("there are no views")];
    }
    let names = names(subject, settings);
    let mut findings = Vec::new();
    for (name, definition) in &views {
        if let Some(names) = &names {
            findings.extend(patterns(subject, name, definition, names));
        }
        findings.extend(definition.missing().into_iter().map(|missing| {
            let (kind, who) = match &missing {
                Missing::User(user) => ("user", user),
                Missing::Group(group) => ("group", group),
            };
            let fix = match missing {
                Missing::User(_) => {
                    as_root(&format!("useradd --system {}", shell_word(who)))
                }
                Missing::Group(_) => {
                    as_root(&format!("groupadd --system {}", shell_word(who)))
                }
            };
            Finding::failed(format!(
                "the view {name} is for the {kind} {who}, who does not exist here, so only this user can read it"
            ))
            .mended_by(fix)
        }));
    }
    findings.extend(of_mount(subject));
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "{}; each pattern has a secret, and each user exists",
            counted(views.len() as u64, "view")
        )));
    }
    findings
}

/// The names of all secrets: those of the mount, or those that are known without asking a backend.
fn names(subject: &Subject, settings: &Settings) -> Option<Vec<String>> {
    if let Some(names) = &subject.mount().names {
        return Some(names.clone());
    }
    let manager = SecretsManager::from_settings(settings).ok()?;
    let names = manager.names().into_iter();
    let names = names.map(|(name, _)| name.as_str().to_owned()).collect();
    // A backend that nobody has asked may have what a pattern is for.
    settings.backends.is_empty().then_some(names)
}

fn patterns(
    subject: &Subject,
    view: &str,
    definition: &ViewDefinition,
    names: &[String],
) -> Vec<Finding> {
    let is_missing = |pattern: &&Pattern| !names.iter().any(|name| pattern.matches(name));
    let of_patterns = definition.secrets.iter().filter(is_missing);
    let of_patterns = of_patterns.map(|pattern| pattern.as_str());
    let files = definition.files.values().map(|secret| secret.as_str());
    let of_files = files.filter(|secret| !names.iter().any(|name| name == secret));
    let missing = of_patterns.chain(of_files);
    missing
        .map(|pattern| {
            let said = format!("the view {view} has no secret for {pattern}");
            // The part before a wildcard stays what it is.
            let name = pattern.replace(['*', '?'], "X");
            let fix = subject.command(&format!("set {}", shell_word(&name)));
            Finding::warning(said).mended_by(fix)
        })
        .collect()
}

/// The command after which the mount's next attempt to mount the views succeeds: it makes one every few seconds.
fn mending_of_mount(subject: &Subject, views: &Value, problem: &str) -> String {
    let Some(dir) = views["dir"].as_str().map(Path::new) else {
        return subject.command("view ls");
    };
    match (
        crate::mount::mount_point_state(dir),
        Owned::folder(dir).mending(),
    ) {
        (Ok(MountPointState::Foreign { .. } | MountPointState::OfAnother { .. }), _) => {
            as_root(&format!("umount {}", shell_path(dir)))
        }
        (_, Some(fix)) => fix,
        _ if problem.contains("is not empty") => set_aside(dir),
        _ => subject.command("view ls"),
    }
}

/// What the mount says of the views.
fn of_mount(subject: &Subject) -> Vec<Finding> {
    let Some(status) = &subject.mount().status else {
        return Vec::new();
    };
    let views = &status["views"];
    let mut findings = Vec::new();
    if let Some(problem) = views["problem"].as_str() {
        findings.push(
            Finding::failed(format!("the views are not as they are defined: {problem}"))
                .mended_by(mending_of_mount(subject, views, problem)),
        );
    }
    let is_mounted = views["mount_point"].is_string();
    if is_mounted && views["allow_other"] == false {
        findings.push(
            Finding::warning(
                "the views were mounted without user_allow_other, so only this user can read them",
            )
            .mended_by(format!(
                "{} && {}",
                subject.mount_command("umount"),
                subject.mount_command("mount")
            )),
        );
    }
    findings
}
