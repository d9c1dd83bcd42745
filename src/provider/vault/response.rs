//! A response of Vault, read whole. Knows neither the request nor what the errors mean.

use reqwest::StatusCode;
use serde::Deserialize;

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

impl Response {
    /// Whether one of Vault's own error messages contains these words.
    pub(super) fn has_error(&self, words: &str) -> bool {
        let body: Result<Errors, _> = serde_json::from_slice(self.body.as_bytes());
        body.is_ok_and(|body| body.errors.iter().any(|error| error.contains(words)))
    }

    /// Whether Vault could have sent this body: a JSON object, or nothing.
    pub(super) fn is_from_vault(&self) -> bool {
        let body = self.body.as_bytes().trim_ascii();
        let is_object = || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        body.is_empty() || (body.starts_with(b"{") && is_object())
    }
}
