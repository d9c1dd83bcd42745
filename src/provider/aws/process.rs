//! Runs the `credential_process` of the active profile with a time limit. The SDK would never kill it. Knows neither roles nor
//! SSO.

use std::process::Command;
use std::time::{Duration, SystemTime};

use aws_config::profile::ProfileSet;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use zeroize::Zeroizing;

use crate::child::{self, RunError, RunHandle};
use crate::error::in_words;
use crate::provider::backend::BackendDocument;
use crate::provider::parse_rfc3339;
use crate::sync::{self, LARGE_STACK};
use crate::text::printable;

/// What a profile has that the SDK prefers to `credential_process`, or combines with it.
const OTHERS: [&str; 8] = [
    "role_arn",
    "credential_source",
    "web_identity_token_file",
    "sso_session",
    "sso_account_id",
    "sso_region",
    "sso_start_url",
    "login_session",
];
/// The variables that the SDK prefers to a profile.
const VARIABLES: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SECRET_ACCESS_KEY",
];

/// The program that `credential_process` names.
#[derive(Debug)]
pub(super) struct CredentialProcess {
    command: String,
    timeout: Duration,
}

impl CredentialProcess {
    /// The program from which the SDK would get the credentials by itself; `None`: it gets them elsewhere.
    pub(super) fn of(profiles: &ProfileSet, timeout: Duration) -> Option<Self> {
        let has_variable = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let has_other = |name| profiles.get(name).is_some();
        if VARIABLES.into_iter().any(has_variable) || OTHERS.into_iter().any(has_other) {
            return None;
        }
        let command = profiles.get("credential_process")?.to_owned();
        Some(Self { command, timeout })
    }

    async fn credentials(&self) -> provider::Result {
        let (command, timeout) = (self.command.clone(), self.timeout);
        let (send, receive) = tokio::sync::oneshot::channel();
        let run = move || drop(send.send(run(&command, timeout)));
        let failed = |why: String| {
            CredentialsError::provider_error(format!(
                "the external process (credential_process of the profile) {why}"
            ))
        };
        sync::spawn("command", LARGE_STACK, run)
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        let lost = |_| Err("ended unexpectedly".to_owned());
        receive.await.unwrap_or_else(lost).map_err(failed)
    }
}

impl ProvideCredentials for CredentialProcess {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// As AWS's own tools run it: in a shell, with all variables.
fn run(command: &str, timeout: Duration) -> Result<Credentials, String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    let ended = child::run(&mut shell, timeout, &RunHandle::default());
    let ended = ended.map_err(|stopped| match stopped {
        RunError::NotStarted(error) => format!("cannot be started: {}", in_words(&error)),
        RunError::TooLarge => "printed more than 1 MiB, and was killed".to_owned(),
        RunError::TimedOut | RunError::Closed => {
            format!("was killed after {} s", timeout.as_secs_f64())
        }
    })?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(ended.errors.as_bytes());
        let said = printable(said.trim());
        return Err(format!("failed ({}), and said: {said}", ended.status));
    }
    parse(ended.output.as_bytes()).map_err(|why| format!("printed no credentials: {why}"))
}

fn parse(json: &[u8]) -> Result<Credentials, String> {
    let document = BackendDocument::parse(json)?;
    // The SDK does not look at the case of the names.
    let get = |wanted: &str| {
        let mut names = document.names();
        let name = names.find(|name| name.as_str().eq_ignore_ascii_case(wanted))?;
        Some(document.get(name)?.as_str())
    };
    let needed = |wanted| get(wanted).ok_or_else(|| format!("it has no {wanted}"));
    if needed("Version")? != "1" {
        return Err("its Version is not 1".to_owned());
    }
    let expires_at = |text: &str| -> Result<SystemTime, String> {
        parse_rfc3339(text).ok_or_else(|| "its Expiration is not a date".to_owned())
    };
    let mut key = Zeroizing::new(needed("SecretAccessKey")?.to_owned());
    Ok(Credentials::new(
        needed("AccessKeyId")?,
        std::mem::take(&mut *key),
        get("SessionToken").map(ToOwned::to_owned),
        get("Expiration").map(expires_at).transpose()?,
        "credential_process",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_the_sdk_reads_them() {
        let parsed = parse(
            br#"{"version": 1, "AccessKeyId": "id", "SecretAccessKey": "key", "SessionToken": "token",
                "Expiration": "2035-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(parsed.access_key_id(), "id");
        assert_eq!(parsed.secret_access_key(), "key");
        assert_eq!(parsed.session_token(), Some("token"));
        assert_eq!(parsed.expiry(), parse_rfc3339("2035-01-01T00:00:00Z"));
        for (json, expected) in [
            (
                r#"{"Version": 2, "AccessKeyId": "i", "SecretAccessKey": "hunter2"}"#,
                "Version is not 1",
            ),
            (
                r#"{"Version": 1, "SecretAccessKey": "hunter2"}"#,
                "no AccessKeyId",
            ),
            (
                r#"{"Version": 1, "AccessKeyId": "i"}"#,
                "no SecretAccessKey",
            ),
            (
                r#"{"Version": 1, "AccessKeyId": "i", "SecretAccessKey": "hunter2", "Expiration": "soon"}"#,
                "not a date",
            ),
            ("hunter2", "not JSON"),
        ] {
            let said = parse(json.as_bytes()).unwrap_err();
            assert!(
                said.contains(expected) && !said.contains("hunter2"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let command = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let said = run(&command, Duration::from_secs(2)).unwrap_err();
        assert!(said.contains("was killed after 2 s"), "{said}");
        let pid = std::fs::read_to_string(pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let begun = std::time::Instant::now();
        while crate::process::is_alive(pid) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it is not killed"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
