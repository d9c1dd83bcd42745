//! What a check finds, in words and with the command that mends it, and how a backend answers a check. Holds no value of a secret.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::runtime;
use crate::text::as_root;

/// How good what was checked is. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was not checked, because it does not matter here, or cannot be known.
    Skipped,
    /// It is as it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How good it is.
    pub status: Verdict,
    /// What was found, in a sentence.
    pub message: String,
    /// The command that mends it, where one can.
    pub fix: Option<String>,
}

impl Finding {
    fn new(status: Verdict, message: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            status,
            message: message.into(),
            fix,
        }
    }

    /// It is as it should be.
    pub fn ok(message: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, message, None)
    }

    /// It was not checked.
    pub fn skipped(message: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, message, None)
    }

    /// It works, and somebody should look at it.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, message, None)
    }

    /// It does not work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, message, None)
    }

    /// With the command that `why` ends with, if it names one; else with this one, which shows more.
    #[must_use]
    pub fn mended_as(self, why: &str, otherwise: impl Into<String>) -> Self {
        match why.split_once("fix it with: ") {
            Some((_, command)) => {
                let is_root = rustix::process::geteuid().is_root();
                let as_root = command.strip_prefix("sudo ").filter(|_| is_root);
                self.mended_by(as_root.unwrap_or(command))
            }
            None => self.mended_by(otherwise),
        }
    }

    /// With the command that mends it.
    #[must_use]
    pub fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }
}

/// A backend that is being asked.
pub(super) type Diagnosing = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// How a backend may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// Whether the question may use something up: a log-in that is allowed only once, or a program that asks its user. A mount that
    /// runs has done so itself.
    pub may_log_in: bool,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// What the operator of a backend has to allow, and nothing more.
pub struct Policy {
    /// The backend.
    pub backend: &'static str,
    /// The policy, in the backend's own language.
    pub text: String,
    /// What the text cannot say.
    pub note: Option<String>,
}

/// What a backend answers, within its time; `title`: its name for people.
pub(super) fn wait_for_answer(title: &str, asking: Asking, diagnosing: Diagnosing) -> Vec<Finding> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::failed(error.to_string())],
    };
    let (sender, receiver) = channel();
    runtime.spawn(async move {
        let findings = tokio::time::timeout(asking.timeout, diagnosing).await;
        let _ = sender.send(findings.ok());
    });
    let findings = receiver.recv_timeout(asking.timeout + Duration::from_secs(1));
    findings.ok().flatten().unwrap_or_else(|| {
        let seconds = asking.timeout.as_secs();
        vec![Finding::failed(format!(
            "{title} did not answer within {seconds} s; check the network"
        ))]
    })
}

/// So far may this machine's clock be from a server's: AWS refuses what is five minutes off.
const MAX_SKEW: i64 = 300;
/// What is said of.
const NOTED_SKEW: i64 = 30;

/// What a server's `Date` says of this machine's clock, which is `seconds` behind it; nothing if they agree.
pub(super) fn clock_against(server: &str, seconds: Option<i64>) -> Option<Finding> {
    let seconds = seconds?;
    let direction = if seconds > 0 { "behind" } else { "ahead of" };
    let message = format!(
        "this machine's clock is {} s {direction} that of {server}",
        seconds.unsigned_abs()
    );
    let skew = seconds.abs();
    if skew <= NOTED_SKEW {
        return None;
    }
    let finding = match skew <= MAX_SKEW {
        true => Finding::warning(message),
        false => Finding::failed(message),
    };
    Some(finding.mended_by(set_clock()))
}

/// The command that sets this machine's clock by the network's.
pub fn set_clock() -> String {
    as_root("timedatectl set-ntp true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_noted_and_one_that_no_signature_bears_fails() {
        assert_eq!(clock_against("Vault", None), None);
        assert_eq!(clock_against("Vault", Some(-30)), None);
        let noted = clock_against("Vault", Some(31)).unwrap();
        assert_eq!(noted.status, Verdict::Warning);
        assert_eq!(
            noted.message,
            "this machine's clock is 31 s behind that of Vault"
        );
        let failed = clock_against("AWS", Some(-301)).unwrap();
        assert_eq!(failed.status, Verdict::Failed);
        assert!(failed.message.contains("301 s ahead of"));
    }
}
