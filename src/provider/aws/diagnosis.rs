//! What `doctor` asks of AWS, one thing after the other: the region, who the caller is, the secret. Also the least policy. Keeps
//! nothing.

use aws_sdk_sts::error::SdkError;
use serde_json::json;

use super::failure::{self, Refusal};
use super::{AwsBackend, AwsOptions, Made};
use crate::provider::backend::{FetchError, Fetched};
use crate::provider::diagnosis::clock_against;
use crate::provider::{Finding, Policy, set_clock};
use crate::text::{counted, printable, shell_word};

/// What may read the secret.
const READ: &str = "secretsmanager:GetSecretValue";
/// How many characters AWS adds to the name of a secret in its ARN.
const SUFFIX: usize = 6;

pub(super) async fn diagnose(options: AwsOptions) -> Vec<Finding> {
    let name = options.secret_name.clone();
    let backend = AwsBackend::new(options);
    let made = match backend.make().await {
        Ok(made) => made,
        Err(error) => return vec![Finding::failed(error.reason)],
    };
    let region = made.client.config().region().map(ToString::to_string);
    let Some(region) = region.filter(|region| !region.trim().is_empty()) else {
        let why =
            "no AWS region is set; set aws_region in live.yaml, or a region in the AWS profile";
        return vec![
            Finding::failed(why).mended_by("aws configure set region us-west-2    # or yours"),
        ];
    };
    let mut findings = vec![Finding::ok(format!("the region is {}", printable(&region)))];
    let caller = match identity(&made).await {
        Ok(arn) => {
            findings.push(Finding::ok(format!("the caller is {}", printable(&arn))));
            Some(arn)
        }
        Err(Identity::Unknown(finding)) => {
            findings.push(finding);
            None
        }
        Err(Identity::BadCredentials(error)) => {
            findings.push(failed(error, &name, &region, None));
            findings.extend(clock_against("AWS", made.http.seconds_behind()));
            return findings;
        }
    };
    let secret = match made_fetch(&backend, &made).await {
        Ok(Fetched::Document { document, .. }) => Finding::ok(format!(
            "the secret {name} has {}",
            counted(document.names().count() as u64, "secret")
        )),
        Ok(Fetched::Missing(why) | Fetched::NotConfigured(why)) => {
            failed(FetchError::lasting(why), &name, &region, None)
        }
        Err(error) => failed(error, &name, &region, caller.as_deref()),
    };
    findings.push(secret);
    findings.extend(clock_against("AWS", made.http.seconds_behind()));
    findings
}

async fn made_fetch(backend: &AwsBackend, made: &Made) -> Result<Fetched, FetchError> {
    match backend.fetch_by(made).await {
        Refusal::Credentials(error) => Err(error),
        Refusal::Other(answer) => answer,
    }
}

/// Why it is not known who the caller is.
enum Identity {
    /// The secret may be readable all the same.
    Unknown(Finding),
    /// Nothing can be read with them.
    BadCredentials(FetchError),
}

/// The ARN of the caller, which needs no permission (AWS STS, `GetCallerIdentity`).
async fn identity(made: &Made) -> Result<String, Identity> {
    const WHAT: &str = "who the caller is (sts:GetCallerIdentity)";
    let client = aws_sdk_sts::Client::new(&made.config);
    let unknown = |why: String| Identity::Unknown(Finding::warning(why));
    match client.get_caller_identity().send().await {
        Ok(identity) => identity
            .arn()
            .map(ToOwned::to_owned)
            .ok_or_else(|| unknown("AWS does not say who the caller is".to_owned())),
        Err(SdkError::ServiceError(error)) => {
            let status = error.raw().status().as_u16();
            match failure::refused(WHAT, error.err(), status, None) {
                Refusal::Credentials(error) => Err(Identity::BadCredentials(error)),
                Refusal::Other(_) => Err(unknown(format!(
                    "AWS does not say who the caller is (STS answers {status})"
                ))),
            }
        }
        Err(error) => {
            let error = failure::no_response(WHAT, &error);
            match error.reason.starts_with("no AWS credentials") {
                true => Err(Identity::BadCredentials(error)),
                false => Err(unknown(error.reason)),
            }
        }
    }
}

/// With the command of AWS's own that mends it, if there is one.
fn failed(error: FetchError, name: &str, region: &str, caller: Option<&str>) -> Finding {
    let said = error.reason;
    let (word, at) = (shell_word(name), format!("--region {}", shell_word(region)));
    let fix = match () {
        () if said.contains("clock") => Some(set_clock()),
        () if said.contains("marked for deletion") => Some(format!(
            "aws secretsmanager restore-secret {at} --secret-id {word}"
        )),
        () if said.contains("does not exist; create it") => Some(format!(
            "aws secretsmanager create-secret {at} --name {word} --secret-string '{{}}'"
        )),
        () if said.contains("aws sso login") => Some("aws sso login".to_owned()),
        () if said.contains("AWS credentials") || said.contains("accept the credentials") => {
            Some("aws configure".to_owned())
        }
        () if said.contains(READ) => caller.and_then(|arn| allow(arn, &at)),
        () => None,
    };
    let finding = Finding::failed(said);
    match fix {
        Some(fix) => finding.mended_by(fix),
        None => finding,
    }
}

/// The command that gives this caller the least policy.
fn allow(arn: &str, at: &str) -> Option<String> {
    let mut parts = arn.rsplit_once(':')?.1.split('/');
    let (verb, flag) = match parts.next()? {
        "user" => ("put-user-policy", "--user-name"),
        "assumed-role" => ("put-role-policy", "--role-name"),
        _ => return None,
    };
    // The path of a user comes before its name, and the session of a role after it.
    let name = match verb {
        "put-user-policy" => parts.next_back()?,
        _ => parts.next()?,
    };
    Some(format!(
        "aws iam {verb} {at} {flag} {} --policy-name simpletuner-live --policy-document \"$(simpletuner-live doctor --policy aws)\"",
        shell_word(name)
    ))
}

/// The least policy: one action on one secret.
pub(super) fn policy(options: &AwsOptions) -> Policy {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": READ,
            "Resource": resource(&options.secret_name, options.region.as_deref()),
        }],
    });
    Policy {
        backend: "aws",
        text: format!("{policy:#}\n"),
        note: Some(
            "a secret with a KMS key of its own needs kms:Decrypt on that key, too".to_owned(),
        ),
    }
}

/// The secret's ARN, without what only AWS knows: the account, and the characters that it adds to the name.
fn resource(name: &str, region: Option<&str>) -> String {
    let any = "?".repeat(SUFFIX);
    if name.starts_with("arn:") {
        let suffix = name.rsplit_once('-').map_or("", |(_, suffix)| suffix);
        let is_whole =
            suffix.len() == SUFFIX && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        return match is_whole {
            true => name.to_owned(),
            false => format!("{name}-{any}"),
        };
    }
    let region = region.unwrap_or("*");
    let partition = match () {
        () if region.starts_with("cn-") => "aws-cn",
        () if region.starts_with("us-gov-") => "aws-us-gov",
        () => "aws",
    };
    format!("arn:{partition}:secretsmanager:{region}:*:secret:{name}-{any}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_one_secret() {
        for (name, region, arn) in [
            (
                "team/app",
                Some("us-west-2"),
                "arn:aws:secretsmanager:us-west-2:*:secret:team/app-??????",
            ),
            (
                "app",
                Some("cn-north-1"),
                "arn:aws-cn:secretsmanager:cn-north-1:*:secret:app-??????",
            ),
            ("app", None, "arn:aws:secretsmanager:*:*:secret:app-??????"),
            (
                "arn:aws:secretsmanager:us-west-2:1:secret:app-AbC123",
                None,
                "arn:aws:secretsmanager:us-west-2:1:secret:app-AbC123",
            ),
            (
                "arn:aws:secretsmanager:us-west-2:1:secret:my-app",
                None,
                "arn:aws:secretsmanager:us-west-2:1:secret:my-app-??????",
            ),
        ] {
            assert_eq!(resource(name, region), arn);
        }
    }

    #[test]
    fn the_command_that_allows_names_the_user_or_the_role() {
        let command = allow("arn:aws:iam::123:user/team/trainer", "--region r").unwrap();
        assert!(command.starts_with("aws iam put-user-policy --region r --user-name trainer "));
        let command = allow("arn:aws:sts::123:assumed-role/gpu/i-0123", "--region r").unwrap();
        assert!(command.starts_with("aws iam put-role-policy --region r --role-name gpu "));
        assert_eq!(allow("arn:aws:iam::123:root", ""), None);
    }
}
