//! What an error of AWS, or of the way to it, means, and what to do about it. Makes no call.

use std::error::Error as StdError;
use std::fmt::Debug;

use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};

use crate::provider::backend::http::{BodyError, causes_of, retry_after, why_not_connected};
use crate::provider::backend::{FetchError, Fetched, Retry};

/// What an error response means.
pub(super) enum Refusal {
    /// The credentials are bad: others may be there by now.
    Credentials(FetchError),
    Other(Result<Fetched, FetchError>),
}

/// What an error response means for this secret (its name for people).
pub(super) fn refused(
    secret: &str,
    error: &impl ProvideErrorMetadata,
    status: u16,
    wait: Option<&str>,
) -> Refusal {
    let code = error.code().unwrap_or("no error code");
    let message = error.message().unwrap_or_default();
    let said = match message {
        "" => code.to_owned(),
        message => format!("{code}: {message}"),
    };
    let lasting = |why: &str| FetchError::lasting(format!("{secret}{why} ({said})"));
    let missing = |why: &str| Ok(Fetched::Missing(format!("{secret} {why} ({said})")));
    Refusal::Other(match code {
        "ResourceNotFoundException" => {
            missing("does not exist; create it, or correct its name or aws_region")
        }
        "InvalidRequestException" if message.contains("delet") => {
            missing("is marked for deletion; restore it, or name another")
        }
        _ if is_about_the_clock(code, message) => Err(lasting(
            ": this machine's clock differs from AWS's; correct the clock",
        )),
        "DecryptionFailure" => Err(lasting(
            " cannot be decrypted; allow the caller kms:Decrypt on its key",
        )),
        "AccessDeniedException" if message.contains("KMS") || message.contains("kms:") => {
            Err(lasting(
                ": its key is denied; allow the caller kms:Decrypt on the KMS key of the secret",
            ))
        }
        _ if code.starts_with("KMS") || (message.contains("KMS") && status == 400) => Err(lasting(
            ": its KMS key cannot be used; enable the key, or give the secret another",
        )),
        "AccessDeniedException" => Err(lasting(
            ": access is denied; allow the caller secretsmanager:GetSecretValue on it",
        )),
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "IncompleteSignature"
        | "MissingAuthenticationToken" => {
            return Refusal::Credentials(FetchError::lasting(format!(
                "AWS does not accept the credentials; renew them, or set AWS_PROFILE or AWS_ACCESS_KEY_ID ({said})"
            )));
        }
        // A proxy in front of AWS may use its own error code.
        _ if status == 403 => {
            return Refusal::Credentials(lasting(
                ": access is denied (403); check the credentials, and allow the caller \
                 secretsmanager:GetSecretValue on it",
            ));
        }
        "no error code" if status < 500 && status != 429 => Err(FetchError::lasting(format!(
            "{secret}: what answers ({status}) does not seem to be AWS; is AWS_ENDPOINT_URL right?"
        ))),
        _ => Err(FetchError {
            reason: format!("{secret}: AWS answers {status} ({said})"),
            retry: match wait.and_then(retry_after) {
                Some(wait) => Retry::After(wait),
                None if status >= 500 || status == 429 || code.contains("Throttling") => {
                    Retry::Soon
                }
                None => Retry::No,
            },
        }),
    })
}

/// AWS refuses a signature whose time is too far from its own, by several codes.
fn is_about_the_clock(code: &str, message: &str) -> bool {
    let in_message = ["Signature expired", "Signature not yet current"];
    matches!(
        code,
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture"
    ) || in_message.iter().any(|words| message.contains(words))
}

/// Whether the credentials took too long.
pub(super) fn credentials_took_too_long<E, R>(error: &SdkError<E, R>) -> bool
where
    E: StdError + 'static,
    R: Debug + 'static,
{
    !matches!(error, SdkError::TimeoutError(_))
        && error_chain(error).contains("identity resolver timed out")
}

/// Why there was no response, or only a part of one.
pub(super) fn no_response<E, R>(secret: &str, error: &SdkError<E, R>) -> FetchError
where
    E: StdError + 'static,
    R: Debug + 'static,
{
    let chain = error_chain(error);
    let http = causes_of(error).find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    let too_large = causes_of(error)
        .any(|cause| matches!(cause.downcast_ref::<BodyError>(), Some(BodyError::TooLarge)));
    if too_large {
        return FetchError::lasting(format!(
            "{secret}: the response is too large, over 1 MiB; is AWS_ENDPOINT_URL right?"
        ));
    }
    let tls = causes_of(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            return FetchError::passing(format!(
                "{secret}: what answers does not speak TLS; is AWS_ENDPOINT_URL right?"
            ));
        }
        Some(tls) if chain.contains("certificate") => {
            return FetchError::lasting(format!(
                "{secret}: the server's certificate is not accepted ({tls}); if it is the right one, name its authority in \
                 AWS_CA_BUNDLE (or ca_bundle in the profile), or add it to the system's certificates or SSL_CERT_FILE"
            ));
        }
        _ => {}
    }
    if http.is_some_and(|error| error.is_body() || error.is_decode()) {
        return FetchError::passing(format!("{secret}: the response cannot be read ({chain})"));
    }
    match error {
        SdkError::ResponseError(_) => {
            FetchError::passing(format!("{secret}: the response cannot be read ({chain})"))
        }
        SdkError::TimeoutError(_) => FetchError::passing(format!("{secret}: AWS does not respond")),
        SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => {
            let why = match http.filter(|error| error.is_connect()) {
                Some(error) => why_not_connected(error),
                None => "the connection broke".to_owned(),
            };
            FetchError::passing(format!(
                "{secret}: AWS cannot be reached: {why}; check AWS_ENDPOINT_URL, aws_region and the network"
            ))
        }
        _ if chain.contains("`region`") => FetchError::lasting(format!(
            "{secret}: the AWS region is not a valid name; correct aws_region (or AWS_REGION)"
        )),
        _ if chain.contains("credential") || chain.contains("identity") => {
            FetchError::lasting(no_credentials(&chain))
        }
        _ => FetchError::passing(format!("{secret}: the call failed ({chain})")),
    }
}

/// Where the credentials did not come from, and what to do.
fn no_credentials(chain: &str) -> String {
    let lower = chain.to_ascii_lowercase();
    let advice = if lower.contains("sso") {
        "log in again with: aws sso login"
    } else if lower.contains("external process") {
        "see the program that credential_process names in the profile"
    } else if lower.contains("assume") || lower.contains("web identity") {
        "check role_arn, and that its trust policy lets the caller assume it"
    } else {
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    };
    // Where the SDK has looked says nothing, if nothing is set anywhere.
    match chain.contains("no credentials found in chain") {
        true => format!("no AWS credentials are found; {advice}"),
        false => format!("no AWS credentials are found ({chain}); {advice}"),
    }
}

/// What the SDK and its client say of themselves, and nothing of the cause.
fn is_internal(said: &str) -> bool {
    let words = [
        "dispatch failure",
        "io error",
        "other",
        "error sending request",
    ];
    words.contains(&said) || said.starts_with("client error (")
}

/// The messages of an error and its causes, each once. Uses only `Display`: `Debug` may show the body of a response.
pub(super) fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes_of(error) {
        let said = cause.to_string();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = said.split(" (os error ").next().unwrap_or(&said).to_owned();
        if !is_internal(&said) && !words.contains(&said) {
            words.push(said);
        }
    }
    words.join(": ")
}
