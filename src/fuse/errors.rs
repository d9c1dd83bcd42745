//! Turns the tree's errors into errnos for the kernel, and logs their reasons.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::error::in_words;
use crate::live::OpError;
use crate::metrics::MountCounters;
use crate::sync::Mutex;

/// The errnos that may reach the kernel. Others become EIO, because some have a meaning in the FUSE protocol: ENOSYS switches
/// an operation off for the whole mount.
const ALLOWED: &[i32] = &[
    libc::EPERM,
    libc::ENOENT,
    libc::EINTR,
    libc::EIO,
    libc::EBADF,
    libc::ENOMEM,
    libc::EACCES,
    libc::EBUSY,
    libc::EEXIST,
    libc::EXDEV,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::EINVAL,
    libc::EMFILE,
    libc::ENFILE,
    libc::EFBIG,
    libc::ENOSPC,
    libc::EROFS,
    libc::ERANGE,
    libc::ENOLCK,
    libc::ENODATA,
    libc::EILSEQ,
    libc::EOPNOTSUPP,
    libc::ENOTCONN,
    libc::EDQUOT,
    libc::ETIMEDOUT,
    libc::EKEYREJECTED,
    // Makes the kernel look the name up again.
    libc::ESTALE,
];
/// A failure that repeats is logged once per interval, with its count.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// The most different failures that are counted separately.
const MAX_KINDS: usize = 256;
/// The most reasons that are kept for the attribute `user.simpletuner.error.KEY`.
const MAX_REASONS: usize = 128;

struct Logged {
    at: Instant,
    /// How often it happened since.
    repeats: u64,
}

/// The recent failures.
#[derive(Default)]
pub(super) struct Failures {
    logged: Mutex<HashMap<String, Logged>>,
    /// Why the last operations failed, each with the key or document that it was about, the newest last.
    reasons: Mutex<VecDeque<(String, String)>>,
    counters: Arc<MountCounters>,
}

impl Failures {
    pub(super) fn new(counters: Arc<MountCounters>) -> Self {
        Self {
            counters,
            ..Self::default()
        }
    }

    /// Counts an errno for the kernel, and returns it.
    pub(super) fn count(&self, errno: Errno) -> Errno {
        // ESTALE reaches no program: the kernel looks the name up once more. ENOSYS has it do the operation by itself.
        if ![libc::ESTALE, libc::ENOSYS].contains(&errno.code()) {
            self.counters.errors.increment(errno.code());
        }
        errno
    }

    /// The errno for the kernel; logs the reason.
    pub(super) fn errno(&self, operation: &str, error: OpError) -> Errno {
        let (errno, reason, is_expected) = match error {
            OpError::Errno(errno) => (errno, None, true),
            OpError::Error(error) => {
                let reason = error.to_string();
                if let Some(name) = error.name() {
                    self.keep_reason(name, &reason);
                }
                (error.errno(), Some(reason), error.is_not_found())
            }
            // Unreachable by design: operations that can block are parked instead.
            OpError::Blocked(on) => (libc::EIO, Some(format!("blocked on {on:?}")), false),
        };
        let allowed = match ALLOWED.contains(&errno) {
            true => errno,
            false => libc::EIO,
        };
        match reason {
            Some(reason) if is_expected => tracing::debug!("{operation}: {reason}"),
            Some(reason) => self.log(operation, allowed, &reason),
            None if allowed != errno => self.log(operation, allowed, &format!("errno {errno}")),
            None => {}
        }
        self.count(Errno::from_i32(allowed))
    }

    fn keep_reason(&self, name: &str, reason: &str) {
        let mut reasons = self.reasons.lock();
        if reasons.len() >= MAX_REASONS {
            reasons.pop_front();
        }
        reasons.push_back((name.to_owned(), reason.to_owned()));
    }

    /// The reason of the last failure of this key, or document.
    pub(super) fn last_of(&self, key: &str) -> Option<String> {
        let reasons = self.reasons.lock();
        let last = reasons.iter().rev().find(|(name, _)| name == key);
        last.map(|(_, reason)| reason.clone())
    }

    fn log(&self, operation: &str, errno: i32, reason: &str) {
        let words = name_of(errno);
        let line = match reason.ends_with(&words) {
            true => format!("{operation}: {reason}"),
            false => format!("{operation}: {reason} ({words})"),
        };
        let mut logged = self.logged.lock();
        let now = Instant::now();
        if let Some(before) = logged.get_mut(&line) {
            before.repeats += 1;
            if now.duration_since(before.at) < REPEAT_INTERVAL {
                return;
            }
            let repeats = std::mem::take(&mut before.repeats);
            before.at = now;
            drop(logged);
            tracing::warn!("{line}, {repeats} more times");
            return;
        }
        if logged.len() >= MAX_KINDS {
            logged.retain(|_, entry| now.duration_since(entry.at) < REPEAT_INTERVAL);
            if logged.len() >= MAX_KINDS {
                logged.clear();
            }
        }
        logged.insert(
            line.clone(),
            Logged {
                at: now,
                repeats: 0,
            },
        );
        drop(logged);
        tracing::warn!("{line}");
    }
}

fn name_of(errno: i32) -> String {
    in_words(&std::io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn an_errno_with_a_meaning_in_the_protocol_becomes_eio() {
        let failures = Failures::default();
        let errno = |errno| failures.errno("close", OpError::Errno(errno)).code();
        assert_eq!(errno(libc::ENOSYS), libc::EIO);
        assert_eq!(errno(libc::EAGAIN), libc::EIO);
        assert_eq!(errno(libc::ENOSPC), libc::ENOSPC);
        let unsupported = std::io::Error::from_raw_os_error(libc::ENOSYS);
        let error = OpError::Error(Error::io("flock", unsupported));
        assert_eq!(failures.errno("close", error).code(), libc::EIO);
    }

    #[test]
    fn the_last_reason_why_an_operation_on_a_key_failed_is_kept() {
        let failures = Failures::default();
        let reason = |name: &str, provider: &str| {
            let error = Error::ProviderFailed {
                name: name.into(),
                provider: provider.into(),
                reason: "A region is missing".into(),
                others: Vec::new(),
            };
            failures.errno("open", OpError::Error(error));
        };
        reason("HF_TOKEN", "aws");
        reason("HF_TOKEN", "vault");
        reason("TOKEN", "aws");
        for n in 0..100 {
            reason(&format!("OTHER{n}"), "aws");
        }
        assert!(failures.last_of("HF_TOKEN").unwrap().contains("vault"));
        assert!(failures.last_of("TOKEN").unwrap().contains("aws"));
        assert_eq!(failures.last_of("HF"), None);
        // A word of another key's reason.
        assert_eq!(failures.last_of("A"), None);
    }

    #[test]
    fn a_failure_that_repeats_is_logged_once_and_counted() {
        let failures = Failures::default();
        for _ in 0..1000 {
            failures.log("open", libc::EIO, "it hangs");
        }
        let logged = failures.logged.lock();
        assert_eq!(logged.len(), 1);
        assert_eq!(logged.values().next().unwrap().repeats, 999);
        assert!(logged.contains_key("open: it hangs (Input/output error)"));
        drop(logged);
        failures.log("close", libc::ENOSPC, "the store: No space left on device");
        let logged = failures.logged.lock();
        assert!(logged.contains_key("close: the store: No space left on device"));
    }
}
