//! Why an operation through the mount failed, in the daemon's own words. An errno says too little, and to guess names the
//! wrong provider.

use std::path::Path;

use serde_json::Value;

use crate::secret::SecretName;

/// The folder `secrets` answers this, with the key behind it: why the last operation of the caller's user on the key
/// failed.
const ATTRIBUTE: &str = "user.simpletuner.error.";
/// The largest value an extended attribute can have (XATTR_SIZE_MAX).
const MAX_REASON: usize = 64 * 1024;

/// Why the last operation of this user on the key failed; `None`: the daemon does not say.
pub(super) fn of(mount: &Path, name: &SecretName) -> Option<String> {
    let mut buffer = vec![0; MAX_REASON];
    let attribute = format!("{ATTRIBUTE}{name}");
    let length = rustix::fs::getxattr(mount.join("secrets"), &*attribute, &mut buffer).ok()?;
    let reason = String::from_utf8_lossy(buffer.get(..length)?);
    let reason = reason.trim().replace(char::is_control, " ");
    Some(reason).filter(|reason| !reason.is_empty())
}

/// What the providers that fail say of themselves, each with its name; `None`: none does.
pub(super) fn of_providers(reports: &[Value]) -> Option<String> {
    let failing = failing(reports);
    let said = failing.map(|(name, reason)| format!("the {name} provider says: {reason}"));
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The providers whose names may be missing from a list, and why.
pub(super) fn unlisted(reports: &[Value]) -> Vec<(&str, &str)> {
    let unasked = reports.iter().filter_map(|report| {
        let is_unasked = report["configured"] == true
            && report["available"] == true
            && report["last_success"].is_null();
        Some((report["name"].as_str()?, "it has not answered yet")).filter(|_| is_unasked)
    });
    failing(reports).chain(unasked).collect()
}

/// The providers that cannot be asked just now, and why.
pub(super) fn failing(reports: &[Value]) -> impl Iterator<Item = (&str, &str)> {
    let fails = |report: &&Value| report["available"] != true;
    reports.iter().filter(fails).filter_map(|report| {
        let reason = report["last_error"].as_str()?;
        Some((report["name"].as_str()?, reason))
    })
}
