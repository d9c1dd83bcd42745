//! Error messages for Vault: what failed, which setting it concerns, what to do. They never quote the server.

use std::io;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use rustls::{AlertDescription, CertificateError};

use super::address::{Address, SecretPath};
use super::response::Response;
use crate::provider::backend::http::{causes_of, why_not_connected};
use crate::provider::backend::{FetchError, Retry};

/// Vault did not respond, or not completely.
pub(super) fn no_response(address: &Address, error: &reqwest::Error) -> FetchError {
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
    let is_refused = causes().any(|cause| {
        let system = cause.downcast_ref::<io::Error>();
        system.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    let advice = match error.is_timeout() {
        true => "is vault_url (or VAULT_ADDR) right, and is there no firewall in between?",
        false if is_refused => "is it running there, and is vault_url (or VAULT_ADDR) right?",
        false => "is vault_url (or VAULT_ADDR) right?",
    };
    let why = why_not_connected(error);
    FetchError::passing(format!(
        "cannot connect to Vault at {address}: {why}; {advice}"
    ))
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
            "it requires a client certificate that it accepts; set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"
        }
        _ => return format!("TLS with Vault at {address} failed: {error}"),
    };
    format!("TLS with Vault at {address} failed: {why}")
}

fn wrong_certificate(error: &CertificateError) -> String {
    match error {
        // rustls gives `BadSignature` if it trusts another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its issuer is not trusted; set VAULT_CACERT to the PEM file of its issuer".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it, or correct this machine's clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; correct this machine's clock".to_owned()
        }
        CertificateError::NotValidForName => {
            "it is for another name; set vault_url (or VAULT_ADDR), or VAULT_TLS_SERVER_NAME, to a name in it".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            // As rustls shows them: `DnsName("vault.example.com")`.
            let names = presented.join(", ");
            format!(
                "it is for another name; set vault_url (or VAULT_ADDR), or VAULT_TLS_SERVER_NAME, \
                 to one of its names: {names}"
            )
        }
        CertificateError::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
            "it is an authority's own, as of a self-signed server; set VAULT_CACERT to its PEM file".to_owned()
        }
        CertificateError::Revoked => "it is revoked".to_owned(),
        other => other.to_string(),
    }
}

/// The client cannot be built, although the files of its certificates are good.
pub(super) fn no_tls(why: &str) -> FetchError {
    FetchError::lasting(format!("TLS for Vault cannot be set up: {why}"))
}

/// Building the request failed, although address and token were validated.
pub(super) fn no_request(address: &Address) -> FetchError {
    FetchError::lasting(format!(
        "no request to Vault at {address} can be built from vault_url, vault_path and the token"
    ))
}

/// Vault redirects elsewhere; the client does not send the token there.
pub(super) fn redirected(address: &Address, to: Option<&HeaderValue>) -> FetchError {
    let base = Url::parse(&address.origin).ok();
    let to = to
        .and_then(|to| base?.join(to.to_str().ok()?).ok())
        .map(|to| to.origin().ascii_serialization());
    let to = to.as_deref().unwrap_or("an address that cannot be read");
    FetchError::lasting(format!(
        "Vault at {address} redirects to {to}; redirects are not followed, because they would take the token along; \
         set vault_url (or VAULT_ADDR) to the active node itself"
    ))
}

/// The response is larger than the largest document.
pub(super) fn too_large(address: &Address) -> FetchError {
    FetchError::lasting(format!(
        "the response of Vault at {address} is too large: over 1 MiB"
    ))
}

/// The failure of the server that a status stands for; `None` if the status is about the request (2xx, 4xx).
/// (Vault API documentation, "HTTP status codes", and "/sys/health" for 472 and 473.)
pub(super) fn server_failure(
    address: &Address,
    response: &Response,
    retry_after: Option<Duration>,
) -> Option<FetchError> {
    let reason = match response.status.as_u16() {
        412 => format!("Vault at {address} has not caught up with its cluster yet (412)"),
        429 => format!("Vault at {address} limits its requests (429); a longer ttl sends fewer"),
        472 => format!(
            "Vault at {address} is a disaster recovery secondary (472); set vault_url (or VAULT_ADDR) to the active cluster"
        ),
        473 => format!(
            "Vault at {address} is a standby (473); set vault_url (or VAULT_ADDR) to the active node"
        ),
        503 if response.has_error("is sealed") => {
            format!("Vault at {address} is sealed; unseal it")
        }
        503 => format!(
            "Vault at {address} is not available (503): sealed, not initialized, or down for maintenance"
        ),
        status @ 500.. => format!("Vault at {address} failed ({status}); its log says why"),
        _ => return None,
    };
    let retry = retry_after.map_or(Retry::Soon, Retry::After);
    Some(FetchError { reason, retry })
}

/// A status that no request of ours should get.
pub(super) fn unexpected(address: &Address, response: &Response) -> FetchError {
    if !response.is_from_vault() {
        return not_vault(address, response);
    }
    let status = response.status.as_u16();
    FetchError::lasting(format!(
        "Vault at {address} refused the request ({status}); its audit log says why"
    ))
}

/// The path has the `data/` of version 2's API in it, which is no part of a secret's path.
pub(super) fn data_in_path(path: &SecretPath, address: &Address) -> FetchError {
    let SecretPath { mount_point, path } = path;
    let advice = if let Some(rest) = path.strip_prefix("data/") {
        format!("set vault_path to {rest}")
    } else if let Some(rest) = mount_point.strip_suffix("/data") {
        format!("set vault_mount_point to {rest}")
    } else {
        "leave it out of vault_mount_point and vault_path".to_owned()
    };
    FetchError::lasting(format!(
        "{mount_point}/{path} in Vault at {address} is the data/ of the API of version 2, and not a secret's own path; {advice}"
    ))
}

/// Another server than Vault is at the address.
pub(super) fn not_vault(address: &Address, response: &Response) -> FetchError {
    let status = response.status.as_u16();
    let tls = perhaps_tls(address);
    FetchError::lasting(format!(
        "what answers at {address} ({status}) does not seem to be Vault, but a gateway or another server: its response is not like Vault's; \
         is vault_url (or VAULT_ADDR) right?{tls}"
    ))
}

/// A hint for an address without TLS whose server does not speak HTTP.
fn perhaps_tls(address: &Address) -> &'static str {
    match address.is_https {
        true => "",
        false => " (If it speaks TLS, vault_url must begin with https://)",
    }
}
