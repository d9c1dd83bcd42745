//! The backends: each asks its own server what a fetch needs. Also the authorities of TLS, and the least policies.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::files::unset_variable;
use super::fuse::install;
use super::{Finding, Policy, Subject, Verdict};
use crate::error::Result;
use crate::provider::backend::tls::system_authorities;
use crate::provider::{Asking, BACKENDS};
use crate::settings::{Flags, Settings};
use crate::text::{counted, shell_path};

pub(super) fn aws(subject: &Subject, settings: &Settings, limit: Duration) -> Vec<Finding> {
    of("aws", subject, settings, limit)
}

pub(super) fn vault(subject: &Subject, settings: &Settings, limit: Duration) -> Vec<Finding> {
    of("vault", subject, settings, limit)
}

pub(super) fn command(subject: &Subject, settings: &Settings, limit: Duration) -> Vec<Finding> {
    of("command", subject, settings, limit)
}

fn of(name: &str, subject: &Subject, settings: &Settings, limit: Duration) -> Vec<Finding> {
    let Some(backend) = BACKENDS.iter().find(|backend| backend.name == name) else {
        return Vec::new();
    };
    let asking = Asking {
        may_log_in: !subject.mount().answers(),
        timeout: limit,
    };
    let mut findings = backend.check(settings, asking);
    // A backend knows neither this program's path nor the settings file that was given.
    let policy = subject.command("doctor --policy");
    for fix in findings
        .iter_mut()
        .flatten()
        .flat_map(|finding| &mut finding.fix)
    {
        *fix = fix.replace("simpletuner-live doctor --policy", &policy);
    }
    let switch = backend.settings.switch;
    let edit = format!("${{EDITOR:-vi}} {}", shell_path(&settings.config_file));
    let wrong = findings.iter_mut().flatten();
    for finding in wrong.filter(|finding| finding.status >= Verdict::Warning) {
        let said = &finding.message;
        let is_of_setting = name == "command" || said.contains(switch) && said.contains(" must ");
        if is_of_setting && finding.fix.is_none() {
            finding.fix = Some(unset_variable(said).unwrap_or_else(|| edit.clone()));
        }
    }
    let is_answered = |report: &Value| {
        report["name"] == name && report["available"] == true && report["stale"] != true
    };
    if let Some(findings) = findings {
        // The mount has the variables that it was started with.
        return match subject.mount().providers.iter().any(is_answered) {
            true => findings.into_iter().map(as_warning).collect(),
            false => findings,
        };
    }
    vec![Finding::skipped(match subject.problem() {
        Some(_) => {
            format!("the settings cannot be read, so it is not known whether {switch} is set")
        }
        None => format!("{switch} is not set"),
    })]
}

/// What fails for this command, and not for the mount.
fn as_warning(finding: Finding) -> Finding {
    match finding.status {
        Verdict::Failed => Finding {
            status: Verdict::Warning,
            message: format!(
                "{}; the mount itself is answered, with the variables that it was started with",
                finding.message
            ),
            ..finding
        },
        _ => finding,
    }
}

pub(super) fn tls(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else {
            continue;
        };
        if !Path::new(&path).exists() {
            findings.push(
                Finding::failed(format!(
                    "{variable} names {}, which does not exist",
                    Path::new(&path).display()
                ))
                .mended_by(format!("unset {variable}")),
            );
        }
    }
    let needs_them = !settings.backends.is_empty();
    match system_authorities() {
        0 if needs_them => findings.push(
            Finding::failed(
                "this machine has no certificates of authorities, so no server can be verified",
            )
            .mended_by(install("ca-certificates")),
        ),
        0 => findings.push(Finding::skipped(
            "this machine has no certificates of authorities; without a backend, none are needed",
        )),
        count => findings.push(Finding::ok(format!(
            "this machine trusts {}",
            counted(count as u64, "authority")
        ))),
    }
    findings
}

/// The least policy for each backend that the settings name.
///
/// # Errors
/// The settings cannot be read.
pub fn policies(flags: &Flags) -> Result<Vec<Policy>> {
    let settings = Settings::load(flags, BACKENDS)?;
    let policies = BACKENDS.iter();
    Ok(policies
        .filter_map(|backend| backend.least_policy(&settings))
        .collect())
}
