//! What went wrong on the way to Vault or in it, in words for people: what failed, the setting it is about, what to do.
//! Quotes nothing that a server said.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use rustls::{AlertDescription, CertificateError};
use serde::Deserialize;

use super::address::Address;
use super::client::Answer;
use crate::provider::backend::{FetchError, Retry};

/// There was no answer, or not all of it.
pub(super) fn no_answer(address: &Address, error: &reqwest::Error) -> FetchError {
    let causes = || causes_of(error);
    if let Some(tls) = causes().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return FetchError::lasting(wrong_tls(address, tls));
    }
    if !error.is_connect() {
        return FetchError::passing(match error.is_timeout() {
            true => format!("Vault at {address} took too long to answer"),
            false => {
                let tls = perhaps_tls(address);
                format!(
                    "the connection to Vault at {address} broke before the answer was whole{tls}"
                )
            }
        });
    }
    let system = causes().find_map(|cause| cause.downcast_ref::<io::Error>());
    let why = if error.is_timeout() {
        "it took too long; is vault_url (or VAULT_ADDR) right, and no firewall between?".to_owned()
    } else if causes().any(|cause| cause.to_string().starts_with("dns error")) {
        "its name is not known; is vault_url (or VAULT_ADDR) right?".to_owned()
    } else if system.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        "connection refused; is it running there, and vault_url (or VAULT_ADDR) right?".to_owned()
    } else if let Some(error) = system {
        format!("{}; is vault_url (or VAULT_ADDR) right?", error.kind())
    } else {
        "the connection broke; is vault_url (or VAULT_ADDR) right?".to_owned()
    };
    FetchError::passing(format!("cannot connect to Vault at {address}: {why}"))
}

/// The error and all that caused it. What an [`io::Error`] wraps is not its `source`.
fn causes_of<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn Error + 'static));
        wrapped.or_else(|| error.source())
    })
}

fn wrong_tls(address: &Address, error: &rustls::Error) -> String {
    let why = match error {
        rustls::Error::InvalidCertificate(wrong) => {
            return format!(
                "the certificate of Vault at {address} is not accepted: {}",
                wrong_certificate(wrong)
            );
        }
        rustls::Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; if it is Vault, vault_url must begin with http://"
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => {
            "it wants a certificate of ours that it accepts; set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"
        }
        _ => return format!("TLS with Vault at {address} failed: {error}"),
    };
    format!("TLS with Vault at {address} failed: {why}")
}

fn wrong_certificate(error: &CertificateError) -> String {
    match error {
        // The latter where an authority of the same name is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody who is trusted has issued it; set VAULT_CACERT to the PEM file of its issuer"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it, or set this machine's clock right".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; set this machine's clock right".to_owned()
        }
        CertificateError::NotValidForName => {
            "it is for another name; set vault_url (or VAULT_ADDR) to a name that it is for"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            // As rustls shows them: `DnsName("vault.example.com")`.
            let names = presented.join(", ");
            format!(
                "it is for another name; set vault_url (or VAULT_ADDR) to one that it is for: {names}"
            )
        }
        CertificateError::Revoked => "it is revoked".to_owned(),
        other => other.to_string(),
    }
}

/// The client could not be made at all, whose own files were found to be good.
pub(super) fn cannot_build(error: &reqwest::Error) -> FetchError {
    let why = causes_of(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    FetchError::lasting(match why {
        Some(rustls::Error::General(_)) => {
            "this machine has no certificates to check Vault's by; install the package ca-certificates, \
             or set VAULT_CACERT to the PEM file of its issuer"
                .to_owned()
        }
        Some(error) => format!("TLS for Vault cannot be set up: {error}"),
        None => "the client for Vault cannot be set up".to_owned(),
    })
}

/// No request could be made of the address and the token, though both were checked.
pub(super) fn no_request(address: &Address) -> FetchError {
    FetchError::lasting(format!(
        "no request to Vault at {address} can be made of vault_url, vault_path and the token"
    ))
}

/// The answer sends us elsewhere, where the token does not follow.
pub(super) fn redirected(address: &Address, to: Option<&HeaderValue>) -> FetchError {
    let base = Url::parse(&address.origin).ok();
    let to = to
        .and_then(|to| base?.join(to.to_str().ok()?).ok())
        .map(|to| to.origin().ascii_serialization());
    let to = to.as_deref().unwrap_or("an address that cannot be read");
    FetchError::lasting(format!(
        "Vault at {address} redirects to {to}, which is not followed with a token; \
         set vault_url (or VAULT_ADDR) to the active node itself"
    ))
}

/// More than any document may have.
pub(super) fn too_large(address: &Address) -> FetchError {
    FetchError::lasting(format!(
        "the answer of Vault at {address} is too large: over 16 MiB"
    ))
}

/// What an answer's status says of the server itself; `None` where the status is about what was asked (2xx, 4xx).
/// (Vault API documentation, "HTTP status codes", and "/sys/health" for 472 and 473.)
pub(super) fn of_server(
    address: &Address,
    answer: &Answer,
    retry_after: Option<Duration>,
) -> Option<FetchError> {
    let reason = match answer.status.as_u16() {
        412 => format!("Vault at {address} has not caught up with its cluster yet (412)"),
        429 => format!(
            "Vault at {address} limits its requests (429); a greater ttl asks it less often"
        ),
        472 => format!(
            "Vault at {address} is a disaster recovery secondary (472); set vault_url (or VAULT_ADDR) to the active cluster"
        ),
        473 => format!(
            "Vault at {address} is a standby (473); set vault_url (or VAULT_ADDR) to the active node"
        ),
        503 if answer.says("is sealed") => format!("Vault at {address} is sealed; unseal it"),
        503 => format!(
            "Vault at {address} is not available (503): sealed, not initialized, or down for maintenance"
        ),
        status @ 500.. => format!("Vault at {address} failed ({status}); its log says why"),
        _ => return None,
    };
    let retry = retry_after.map_or(Retry::Soon, Retry::After);
    Some(FetchError { reason, retry })
}

/// A status that the request should not have met.
pub(super) fn unexpected(address: &Address, answer: &Answer) -> FetchError {
    if !answer.is_of_vault() {
        return not_vault(address, answer);
    }
    let status = answer.status.as_u16();
    FetchError::lasting(format!(
        "Vault at {address} refused the request ({status}); its audit log says why"
    ))
}

/// Something else answers at the address.
pub(super) fn not_vault(address: &Address, answer: &Answer) -> FetchError {
    let status = answer.status.as_u16();
    let tls = perhaps_tls(address);
    FetchError::lasting(format!(
        "what answers at {address} ({status}) does not seem to be Vault: its answer is not JSON as Vault's is; \
         is vault_url (or VAULT_ADDR) right?{tls}"
    ))
}

/// What may be wrong where what answers an address without TLS does not speak HTTP.
fn perhaps_tls(address: &Address) -> &'static str {
    match address.is_https {
        true => "",
        false => " (If it speaks TLS, vault_url must begin with https://)",
    }
}

/// `{"errors": [...]}`, the body of whatever is refused.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

impl Answer {
    /// Whether one of Vault's own errors has these words.
    pub(super) fn says(&self, words: &str) -> bool {
        let body: Result<Errors, _> = serde_json::from_slice(self.body.as_bytes());
        body.is_ok_and(|body| body.errors.iter().any(|error| error.contains(words)))
    }

    /// Whether the body is one that Vault could have sent: a JSON object, or nothing.
    pub(super) fn is_of_vault(&self) -> bool {
        let body = self.body.as_bytes().trim_ascii();
        let is_object = || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        body.is_empty() || (body.starts_with(b"{") && is_object())
    }
}
