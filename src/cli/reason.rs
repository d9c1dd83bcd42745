//! Why an operation through the mount failed, as the server reports it: the errno alone does not say which provider failed.

use std::path::Path;

use serde_json::Value;

use crate::secret::SecretName;

/// With a key's name appended, an attribute of the folder `secrets`: why this user's last operation on the key failed.
const ATTRIBUTE: &str = "user.simpletuner.error.";
/// The kernel's limit for an extended attribute (XATTR_SIZE_MAX).
const MAX_REASON: usize = 64 * 1024;

/// Why this user's last operation on the key failed; `None` if the server does not say.
pub(super) fn of_key(mount: &Path, name: &SecretName) -> Option<String> {
    let mut buffer = vec![0; MAX_REASON];
    let attribute = format!("{ATTRIBUTE}{name}");
    let length = rustix::fs::getxattr(mount.join("secrets"), &*attribute, &mut buffer).ok()?;
    let reason = String::from_utf8_lossy(buffer.get(..length)?);
    let reason = reason.trim().replace(char::is_control, " ");
    Some(reason).filter(|reason| !reason.is_empty())
}

/// The errors of all providers that fail, with their names; `None` if none fails.
pub(super) fn of_providers(reports: &[Value]) -> Option<String> {
    let failing = failing(reports);
    let errors = failing.map(|(name, reason)| format!("the {name} provider says: {reason}"));
    let errors: Vec<String> = errors.collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The providers whose secrets may be missing from a list, and why.
pub(super) fn unlisted(reports: &[Value]) -> Vec<(&str, &str)> {
    let unanswered = reports.iter().filter_map(|report| {
        let has_not_answered = report["configured"] == true && report["available"].is_null();
        Some((report["name"].as_str()?, "it has not answered yet")).filter(|_| has_not_answered)
    });
    failing(reports).chain(unanswered).collect()
}

/// The providers that are unavailable now, and why.
pub(super) fn failing(reports: &[Value]) -> impl Iterator<Item = (&str, &str)> {
    let fails = |report: &&Value| report["available"] == false && report["configured"] != false;
    reports.iter().filter(fails).filter_map(|report| {
        let reason = report["last_error"].as_str()?;
        Some((report["name"].as_str()?, reason))
    })
}
