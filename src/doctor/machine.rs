//! The machine: its kernel, what the kernel lets this user do, its clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

use super::{Finding, Subject};
use crate::provider::set_clock;
use crate::text::{as_root, counted};

/// The kernel that sends again what a killed server had taken.
const RESEND: (u32, u32) = (6, 9);
/// The kernel that answers hot reads of a view by itself.
const EPOCH: (u32, u32) = (6, 16);
/// What the daemon needs to lock its values in memory: a kilobyte or two for each secret, and its buffers.
const LOCKED: u64 = 8 * 1024 * 1024;
/// With fewer open files, many readers at once may have to wait.
const FILES: u64 = 1024;

/// `6.18.5+deb13` as 6 and 18.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn kernel(subject: &Subject) -> Vec<Finding> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let version = version(&release).unwrap_or_default();
    let status = subject.mount().status.as_ref();
    // What the mount has agreed on with the kernel counts more than a number.
    let said = |field: &str| status.and_then(|status| status["kernel"][field].as_bool());
    let fuse = status.and_then(|status| status["kernel"]["fuse"].as_str());
    let fuse = fuse.map_or(String::new(), |fuse| format!(", FUSE {fuse}"));
    vec![of_kernel(
        &format!("Linux {release}{fuse}"),
        said("resend").unwrap_or(version >= RESEND),
        said("epoch").unwrap_or(version >= EPOCH),
    )]
}

fn of_kernel(name: &str, resend: bool, epoch: bool) -> Finding {
    match (resend, epoch) {
        (true, true) => Finding::ok(format!(
            "{name}: what a killed server had taken is sent again, and the kernel keeps names"
        )),
        (true, false) => Finding::ok(format!(
            "{name}: what a killed server had taken is sent again; from 6.16 on, reads are faster"
        )),
        (false, _) => Finding::warning(format!(
            "{name} does not send again what a killed server had taken: those calls end with EIO, and `upgrade` needs \
             --force; Linux 6.9 or newer does"
        )),
    }
}

pub(super) fn memory(subject: &Subject) -> Vec<Finding> {
    let limit = getrlimit(Resource::Memlock).current;
    vec![match limit {
        None => Finding::ok("there is no limit: values never reach the swap"),
        Some(_) if subject.is_root() => Finding::ok("root has no limit: values never reach the swap"),
        Some(limit) if limit >= LOCKED => Finding::ok(format!("{} KiB may be locked", limit / 1024)),
        Some(limit) => Finding::warning(format!(
            "only {} KiB may be locked in memory, so values may reach the swap; the limit counts from the next login on",
            limit / 1024
        ))
        .mended_by(format!(
            "echo \"$(id -un) - memlock {}\" | {}",
            4 * LOCKED / 1024,
            as_root("tee /etc/security/limits.d/simpletuner-live.conf")
        )),
    }]
}

pub(super) fn descriptors(_: &Subject) -> Vec<Finding> {
    let limit = getrlimit(Resource::Nofile);
    let more = format!(
        "echo \"$(id -un) - nofile 65536\" | {}",
        as_root("tee /etc/security/limits.d/simpletuner-live-files.conf")
    );
    // The daemon raises its own limit as far as it may.
    let usable = limit.maximum.unwrap_or(u64::MAX);
    vec![match (crate::files::reserve::check_limit(), usable) {
        (Err(error), usable) => {
            let finding = Finding::failed(error.to_string());
            match usable < crate::files::reserve::MIN_LIMIT {
                true => finding.mended_by(more),
                // For this shell, which may raise its own limit.
                false => finding.mended_by("ulimit -Sn \"$(ulimit -Hn)\""),
            }
        }
        (Ok(()), usable) if usable < FILES => Finding::warning(format!(
            "a process may open {} at most, so many readers at once may have to wait; the limit counts from the next login on",
            counted(usable, "file")
        ))
        .mended_by(more),
        (Ok(()), u64::MAX) => Finding::ok("a process may open any number of files"),
        (Ok(()), usable) => Finding::ok(format!("a process may open {}", counted(usable, "file"))),
    }]
}

pub(super) fn clock(_: &Subject) -> Vec<Finding> {
    vec![of_clock(SystemTime::now())]
}

/// When this version was written: no clock is right that is before that.
const WRITTEN: Duration = Duration::from_secs(1_764_547_200);
/// Far enough behind that.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn of_clock(now: SystemTime) -> Finding {
    let now_is = crate::provider::rfc3339(now);
    let is_sane = now
        .duration_since(UNIX_EPOCH)
        .is_ok_and(|now| now >= WRITTEN && now < WRITTEN + CENTURY);
    match is_sane {
        true => Finding::ok(format!("it is {now_is}")),
        false => Finding::failed(format!(
            "this machine's clock says {now_is}, which cannot be: TLS, AWS and the audit trails need the time"
        ))
        .mended_by(set_clock()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Verdict;

    #[test]
    fn a_year_that_cannot_be_fails() {
        let at = |seconds| of_clock(UNIX_EPOCH + Duration::from_secs(seconds)).status;
        assert_eq!(at(0), Verdict::Failed);
        assert_eq!(at(1_700_000_000), Verdict::Failed);
        assert_eq!(at(1_796_000_000), Verdict::Ok);
        assert_eq!(at(9_000_000_000), Verdict::Failed);
        assert!(of_clock(UNIX_EPOCH).fix.is_some());
    }

    #[test]
    fn a_kernel_that_sends_nothing_again_is_noted() {
        assert_eq!(version("6.18.5+deb13-amd64"), Some((6, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("x"), None);
        let old = of_kernel("Linux 5.15", false, false);
        assert_eq!(old.status, Verdict::Warning);
        assert!(old.message.contains("Linux 6.9 or newer"));
        assert_eq!(of_kernel("Linux 6.12", true, false).status, Verdict::Ok);
    }
}
