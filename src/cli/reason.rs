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
    let errors = failing.map(|(name, reason)| format!("the {name} provider fails: {reason}"));
    let errors: Vec<String> = errors.collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The providers that are unavailable now, and why.
pub(super) fn failing(reports: &[Value]) -> impl Iterator<Item = (&str, &str)> {
    let fails = |report: &&Value| report["available"] == false && report["configured"] != false;
    reports.iter().filter(fails).filter_map(|report| {
        let reason = report["last_error"].as_str()?;
        Some((report["name"].as_str()?, reason))
    })
}

/// An extended attribute of at most a kilobyte.
pub(super) fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut buffer = [0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut buffer).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    Some(text.to_string())
}
