//! A response of Vault, read whole. Knows neither the request nor what the errors mean.

use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use crate::secret::SecretBuffer;

/// A response whose status is about the request: what was found, or what was refused.
pub(super) struct Response {
    pub(super) status: StatusCode,
    /// In locked memory. The connection's own buffers are not wiped.
    pub(super) body: SecretBuffer,
}

/// `{"errors": [...]}`, the body of a refusal.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// What a 404 of Vault has: a list of errors, which may be empty, or the fields of any answer.
#[derive(Deserialize)]
struct NotFound {
    errors: Option<Vec<String>>,
    #[serde(default, deserialize_with = "is_there")]
    data: bool,
    #[serde(default, deserialize_with = "is_there")]
    request_id: bool,
    warnings: Option<Vec<String>>,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// What a 404 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFoundBy {
    /// Vault: there is no such path.
    Vault,
    /// Vault: it may be there, but this is not the way to ask for it (version 2 of the engine, asked as version 1).
    VaultForAnotherWay,
    /// Something in front of Vault.
    Other,
}

impl Response {
    /// Whether one of Vault's own error messages contains these words.
    pub(super) fn has_error(&self, words: &str) -> bool {
        let body: Result<Errors, _> = serde_json::from_slice(self.body.as_bytes());
        body.is_ok_and(|body| body.errors.iter().any(|error| error.contains(words)))
    }

    /// Whether Vault could have sent this body: a JSON object.
    pub(super) fn is_from_vault(&self) -> bool {
        let body = self.body.as_bytes().trim_ascii();
        body.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(body).is_ok()
    }

    /// Who says that there is nothing. A gateway that has lost its route to Vault answers 404 as well.
    pub(super) fn not_found_by(&self) -> NotFoundBy {
        let body: Result<NotFound, _> = serde_json::from_slice(self.body.as_bytes());
        match body {
            Ok(NotFound {
                errors: Some(_), ..
            }) => NotFoundBy::Vault,
            Ok(NotFound {
                data: true,
                request_id,
                warnings,
                ..
            }) if request_id || warnings.is_some() => NotFoundBy::VaultForAnotherWay,
            _ => NotFoundBy::Other,
        }
    }
}
