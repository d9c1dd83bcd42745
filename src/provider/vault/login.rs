//! The token of a log-in: logging in, renewing it, and how long it lives. Knows no secret.
//!
//! Formats: Vault API documentation, "AppRole auth method", "Login with AppRole", and "Token auth method", "Renew a
//! token (self)". Both respond with `{"auth": {...}}`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::token::requests::{RenewTokenSelfRequest, RevokeTokenSelfRequest};
use zeroize::Zeroizing;

use super::client::Client;
use super::failure;
use super::response::Response;
use crate::clock::Instant;
use crate::provider::backend::{FetchError, to_bytes};
use crate::secret::SecretValue;

/// Where the auth method is mounted, below `auth/`.
const MOUNT: &str = "approle";

/// A token of a log-in, with its time to live.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) token: SecretValue,
    /// When the client sent the request: Vault counts the time to live from a little later.
    issued_at: Instant,
    /// Its time to live from then on; `None`: it never expires.
    ttl: Option<Duration>,
    is_renewable: bool,
}

/// A lease as saved for another process, with the AppRole that it belongs to.
#[derive(Serialize, Deserialize)]
struct SavedLease<'a> {
    role_id: &'a str,
    token: &'a str,
    /// Since the machine started.
    issued_at: Duration,
    ttl: Option<Duration>,
    is_renewable: bool,
}

impl Lease {
    pub(super) fn save(&self, role_id: &SecretValue) -> Zeroizing<Vec<u8>> {
        to_bytes(&SavedLease {
            role_id: role_id.as_str(),
            token: self.token.as_str(),
            issued_at: self.issued_at.since_boot(),
            ttl: self.ttl,
            is_renewable: self.is_renewable,
        })
    }

    /// The saved lease, if it belongs to this role and has not expired.
    pub(super) fn restore(saved: &[u8], role_id: &SecretValue, now: Instant) -> Option<Self> {
        let saved: SavedLease<'_> = postcard::from_bytes(saved).ok()?;
        let lease = Self {
            token: SecretValue::new(saved.token),
            issued_at: Instant::from_boot(saved.issued_at),
            ttl: saved.ttl,
            is_renewable: saved.is_renewable,
        };
        // One that is still to come is of an earlier start of the machine.
        let is_of_now = lease.issued_at <= now && !lease.has_expired(now);
        (saved.role_id == role_id.as_str() && is_of_now).then_some(lease)
    }

    /// Whether a third of its time to live, or less, is left.
    pub(super) fn should_renew(&self, now: Instant) -> bool {
        self.ttl
            .is_some_and(|ttl| now.saturating_duration_since(self.issued_at) >= ttl * 2 / 3)
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.ttl
            .is_some_and(|ttl| now.saturating_duration_since(self.issued_at) >= ttl)
    }

    pub(super) fn can_be_renewed(&self, now: Instant) -> bool {
        self.is_renewable && !self.has_expired(now)
    }
}

#[derive(Deserialize)]
struct Body {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    /// Seconds; 0: it never expires.
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// A text that deserializes directly into locked memory.
struct SecretText(SecretValue);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Tokens have no JSON escapes, so this borrows.
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(Self(SecretValue::new(&text)))
    }
}

/// Logs in with an AppRole.
pub(super) async fn log_in(
    client: &Client,
    role_id: &SecretValue,
    secret_id: &SecretValue,
    now: Instant,
) -> Result<Lease, FetchError> {
    let address = client.address();
    let endpoint = LoginWithApproleRequest::builder()
        .mount(MOUNT)
        .role_id(role_id.as_str())
        .secret_id(secret_id.as_str())
        .build();
    let endpoint = endpoint.map_err(|_| failure::no_request(address))?;
    let response = client.send(endpoint, None).await?;
    let refused = |why: &str| {
        FetchError::lasting(format!(
            "Vault at {address} refused the AppRole log-in: {why}"
        ))
    };
    match response.status.as_u16() {
        200 => parse_lease(&response, now).ok_or_else(|| failure::not_vault(address, &response)),
        _ if !response.is_from_vault() => Err(failure::not_vault(address, &response)),
        400 => Err(refused(
            "check vault_role_id and vault_secret_id (a secret id may have expired or be used up)",
        )),
        403 | 404 => Err(refused(
            "there is no AppRole at auth/approle, or it does not let this machine in; \
             check the auth method, VAULT_NAMESPACE and the role's allowed addresses",
        )),
        _ => Err(failure::unexpected(address, &response)),
    }
}

/// Renews a token; `None` if Vault refuses, so that another log-in is needed.
///
/// # Errors
/// Vault did not respond.
pub(super) async fn renew(
    client: &Client,
    lease: &Lease,
    now: Instant,
) -> Result<Option<Lease>, FetchError> {
    let endpoint = RenewTokenSelfRequest::builder().build();
    let endpoint = endpoint.map_err(|_| failure::no_request(client.address()))?;
    let response = client.send(endpoint, Some(&lease.token)).await?;
    if response.status.as_u16() != 200 {
        return Ok(None);
    }
    Ok(parse_lease(&response, now).and_then(|renewed| {
        // A shorter time to live than before: the token is near its maximum, so the next time it needs a log-in.
        let ttl = renewed.ttl?;
        let is_shorter = lease.ttl.is_some_and(|before| ttl < before);
        Some(Lease {
            is_renewable: renewed.is_renewable && !is_shorter,
            ..renewed
        })
    }))
}

/// Revokes the token, so that it does not live on for its whole time. An error changes nothing: it then expires.
pub(super) async fn revoke(client: &Client, token: &SecretValue) {
    if let Ok(endpoint) = RevokeTokenSelfRequest::builder().build() {
        let _ = client.send(endpoint, Some(token)).await;
    }
}

fn parse_lease(response: &Response, now: Instant) -> Option<Lease> {
    let body: Body = serde_json::from_slice(response.body.as_bytes()).ok()?;
    let auth = body.auth?;
    let SecretText(token) = auth.client_token;
    (!token.is_empty()).then_some(Lease {
        token,
        issued_at: now,
        ttl: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
        is_renewable: auth.renewable,
    })
}
