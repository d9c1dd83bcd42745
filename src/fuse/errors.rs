//! The one exit for errors: the errno goes to the kernel, the reason into the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::live::OpError;

/// The errnos that may reach the kernel. Others mean something to the FUSE protocol (ENOSYS switches a call off for the
/// whole mount), and become EIO.
const LET_OUT: &[i32] = &[
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
    // The kernel looks the name up once more.
    libc::ESTALE,
];
/// A failure that repeats is logged once in this time, with its count.
const REPEAT: Duration = Duration::from_secs(60);
/// The most different failures that are counted separately.
const MAX_KINDS: usize = 256;
/// The most reasons that are kept for callers that ask why.
const MAX_LAST: usize = 128;

struct Said {
    at: Instant,
    again: u64,
}

/// What was logged lately.
#[derive(Default)]
pub(super) struct Failures {
    said: Mutex<HashMap<String, Said>>,
    /// Why the last operations failed, the newest last.
    last: Mutex<VecDeque<String>>,
}

impl Failures {
    /// The errno for the kernel; the reason goes into the log.
    pub(super) fn errno(&self, operation: &str, error: OpError) -> Errno {
        let (errno, reason, is_expected) = match error {
            OpError::Errno(errno) => (errno, None, true),
            OpError::Error(error) => (error.errno(), Some(error.to_string()), error.is_not_found()),
            // Only operations that can be parked are blocked.
            OpError::Blocked(on) => (libc::EIO, Some(format!("blocked on {on:?}")), false),
        };
        if let Some(reason) = &reason {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() >= MAX_LAST {
                last.pop_front();
            }
            last.push_back(reason.clone());
        }
        let let_out = match LET_OUT.contains(&errno) {
            true => errno,
            false => libc::EIO,
        };
        match reason {
            Some(reason) if is_expected => tracing::debug!("{operation}: {reason}"),
            Some(reason) => self.log(operation, let_out, &reason),
            None if let_out != errno => self.log(operation, let_out, &format!("errno {errno}")),
            None => {}
        }
        Errno::from_i32(let_out)
    }

    /// Why the last operation failed whose reason names this key.
    pub(super) fn last_of(&self, key: &str) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let names = |reason: &&String| {
            let mut words = reason.split(|c| !is_of_name(c));
            words.any(|word| word == key || word.trim_end_matches('.') == key)
        };
        last.iter().rev().find(names).cloned()
    }

    fn log(&self, operation: &str, errno: i32, reason: &str) {
        let line = format!("{operation}: {reason} ({})", name_of(errno));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(before) = said.get_mut(&line) {
            before.again += 1;
            if now.duration_since(before.at) < REPEAT {
                return;
            }
            let again = std::mem::take(&mut before.again);
            before.at = now;
            drop(said);
            tracing::warn!("{line}, {again} times more");
            return;
        }
        if said.len() >= MAX_KINDS {
            said.retain(|_, said| now.duration_since(said.at) < REPEAT);
            if said.len() >= MAX_KINDS {
                said.clear();
            }
        }
        said.insert(line.clone(), Said { at: now, again: 0 });
        drop(said);
        tracing::warn!("{line}");
    }
}

fn name_of(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // "No such file or directory (os error 2)"
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn what_means_something_to_the_protocol_stays_here() {
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
    fn who_asks_why_an_operation_on_a_key_failed_gets_the_last_reason() {
        let failures = Failures::default();
        let reason = |name: &str, provider: &str| {
            let error = Error::ProviderFailed {
                name: name.into(),
                provider: provider.into(),
                reason: "it is sealed".into(),
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
    }

    #[test]
    fn what_repeats_is_counted() {
        let failures = Failures::default();
        for _ in 0..1000 {
            failures.log("open", libc::EIO, "it hangs");
        }
        let said = failures.said.lock().unwrap();
        assert_eq!(said.len(), 1);
        assert_eq!(said.values().next().unwrap().again, 999);
    }
}
