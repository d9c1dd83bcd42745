//! The token of a log-in: how it is come by, how long it is good, and how it is kept alive. Knows no secret.
//!
//! Formats: Vault API documentation, "AppRole auth method", "Login with AppRole", and "Token auth method", "Renew a token
//! (self)". Both answer `{"auth": {...}}`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::token::requests::RenewTokenSelfRequest;
use zeroize::Zeroizing;

use super::client::{Answer, Client};
use super::failure;
use crate::provider::backend::{FetchError, WallTime, to_bytes};
use crate::secret::SecretValue;

/// Where the auth method is mounted, below `auth/`.
const MOUNT: &str = "approle";

/// A token that we logged in for.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) token: SecretValue,
    /// When it was asked for, so that its end is never put too late.
    since: Instant,
    /// How long it is good from then on; `None`: for ever.
    life: Option<Duration>,
    is_renewable: bool,
}

/// A lease as it outlives a process, with the AppRole that it is for.
#[derive(Serialize, Deserialize)]
struct SavedLease<'a> {
    role_id: &'a str,
    token: &'a str,
    since: WallTime,
    life: Option<Duration>,
    is_renewable: bool,
}

impl Lease {
    pub(super) fn save(&self, role_id: &SecretValue, now: Instant) -> Zeroizing<Vec<u8>> {
        let age = now.saturating_duration_since(self.since);
        let since = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        to_bytes(&SavedLease {
            role_id: role_id.as_str(),
            token: self.token.as_str(),
            since: since.into(),
            life: self.life,
            is_renewable: self.is_renewable,
        })
    }

    /// The lease that was saved, if it is this role's and has not ended.
    pub(super) fn restore(saved: &[u8], role_id: &SecretValue, now: Instant) -> Option<Self> {
        let saved: SavedLease<'_> = postcard::from_bytes(saved).ok()?;
        let lease = Self {
            token: SecretValue::new(saved.token),
            // Where a clock was set, nobody knows how old it is; Vault does.
            since: now.checked_sub(saved.since.age().unwrap_or_default())?,
            life: saved.life,
            is_renewable: saved.is_renewable,
        };
        (saved.role_id == role_id.as_str() && !lease.has_ended(now)).then_some(lease)
    }

    /// Whether a third of its life, or less, is left.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.life
            .is_some_and(|life| now.saturating_duration_since(self.since) >= life * 2 / 3)
    }

    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.life
            .is_some_and(|life| now.saturating_duration_since(self.since) >= life)
    }

    pub(super) fn can_be_renewed(&self, now: Instant) -> bool {
        self.is_renewable && !self.has_ended(now)
    }
}

#[derive(Deserialize)]
struct Body {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    /// Seconds; 0 is for ever.
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// A text that goes into locked memory at once.
struct SecretText(SecretValue);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Tokens need no escapes, so this copies nothing.
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(Self(SecretValue::new(&text)))
    }
}

/// Logs in by an AppRole.
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
    let answer = client.send(endpoint, None).await?;
    let refused = |why: &str| {
        FetchError::lasting(format!(
            "Vault at {address} refused the log-in by AppRole: {why}"
        ))
    };
    match answer.status.as_u16() {
        200 => lease_of(&answer, now).ok_or_else(|| failure::not_vault(address, &answer)),
        _ if !answer.is_of_vault() => Err(failure::not_vault(address, &answer)),
        400 => Err(refused(
            "check vault_role_id and vault_secret_id (a secret id may have expired or be used up)",
        )),
        403 | 404 => Err(refused(
            "there is no AppRole at auth/approle, or it does not let this machine in; \
             check the auth method, VAULT_NAMESPACE and the role's allowed addresses",
        )),
        _ => Err(failure::unexpected(address, &answer)),
    }
}

/// Renews a token of ours; `None` where Vault does not, so that another log-in is needed.
///
/// # Errors
/// Vault did not answer.
pub(super) async fn renew(
    client: &Client,
    lease: &Lease,
    now: Instant,
) -> Result<Option<Lease>, FetchError> {
    let endpoint = RenewTokenSelfRequest::builder().build();
    let endpoint = endpoint.map_err(|_| failure::no_request(client.address()))?;
    let answer = client.send(endpoint, Some(&lease.token)).await?;
    if answer.status.as_u16() != 200 {
        return Ok(None);
    }
    Ok(lease_of(&answer, now).and_then(|renewed| {
        // A life of nothing, or one that has become shorter: the token's longest life is nearly over.
        let life = renewed.life?;
        let is_shorter = lease.life.is_some_and(|before| life < before);
        Some(Lease {
            is_renewable: renewed.is_renewable && !is_shorter,
            ..renewed
        })
    }))
}

fn lease_of(answer: &Answer, now: Instant) -> Option<Lease> {
    let body: Body = serde_json::from_slice(answer.body.as_bytes()).ok()?;
    let auth = body.auth?;
    let SecretText(token) = auth.client_token;
    (!token.is_empty()).then_some(Lease {
        token,
        since: now,
        life: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
        is_renewable: auth.renewable,
    })
}
