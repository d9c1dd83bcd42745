//! Sends vaultrs' requests and gives Vault's answers: one connection pool, no redirects, bounded bodies. Knows no secret
//! and no way to log in.
//!
//! vaultrs makes the requests (method, path, body, headers). They are sent from here and not by vaultrs itself: it reads
//! a body whatever its size into memory that is not wiped, drops `Retry-After` and `Location`, and follows redirects,
//! on which reqwest would pass the token on.

use std::time::Duration;

use reqwest::header::{HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Request, StatusCode};
use rustify::endpoint::Endpoint;
use vaultrs::api::EndpointMiddleware;

use super::VaultOptions;
use super::address::Address;
use super::failure;
use super::trust;
use crate::provider::backend::{FetchError, tls};
use crate::provider::file::MAX_DOCUMENT;
use crate::secret::{SecretBuffer, SecretValue};

/// The header that bears the token (Vault API documentation, "HTTP API", "Authentication").
const TOKEN: &str = "X-Vault-Token";

/// A way to one Vault.
pub(super) struct Client {
    http: reqwest::Client,
    address: Address,
    /// Adds the version to the path, and `X-Vault-Request` and `X-Vault-Namespace`. It has no token: ours is marked as
    /// sensitive, so that nobody prints it.
    middleware: EndpointMiddleware,
}

/// What Vault answered: a status that says what there is or what is refused. All else is a [`FetchError`] already.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// In locked memory; what the connection's own buffers held of it is not wiped.
    pub(super) body: SecretBuffer,
}

impl Client {
    /// A client that has made no connection yet. Reads the certificates that it is to trust.
    pub(super) fn new(options: &VaultOptions, address: &Address) -> Result<Self, FetchError> {
        tls::install_crypto();
        let builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(Policy::none())
            .connect_timeout(options.connect_timeout)
            .user_agent(concat!("simpletuner-live/", env!("CARGO_PKG_VERSION")));
        let builder = if address.is_https {
            trust::apply(builder, &options.tls)?
        } else {
            // Else the system's certificates would be read for nothing.
            builder.tls_certs_only([])
        };
        Ok(Self {
            http: builder
                .build()
                .map_err(|error| failure::cannot_build(&error))?,
            address: address.clone(),
            middleware: EndpointMiddleware {
                token: String::new(),
                version: address.version(),
                wrap: None,
                namespace: options.namespace.clone(),
            },
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a request and reads its answer whole.
    ///
    /// # Errors
    /// Whatever kept Vault from an answer of its own: the network, TLS, a redirect, a limit on requests, a failure (5xx).
    pub(super) async fn send(
        &self,
        endpoint: impl Endpoint,
        token: Option<&SecretValue>,
    ) -> Result<Answer, FetchError> {
        let request = self.request(endpoint, token)?;
        let failed = |error| failure::no_answer(&self.address, &error);
        let mut response = self.http.execute(request).await.map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION);
            return Err(failure::redirected(&self.address, to));
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        let mut body = SecretBuffer::new(&[]);
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(failure::too_large(&self.address));
            }
            body.write_at(body.len(), &chunk);
        }
        let answer = Answer { status, body };
        match failure::of_server(&self.address, &answer, retry_after) {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    fn request(
        &self,
        endpoint: impl Endpoint,
        token: Option<&SecretValue>,
    ) -> Result<Request, FetchError> {
        let request = endpoint
            .with_middleware(&self.middleware)
            .request(&self.address.origin);
        let request = request.ok().and_then(|request| request.try_into().ok());
        let mut request: Request = request.ok_or_else(|| failure::no_request(&self.address))?;
        if let Some(token) = token {
            let value = HeaderValue::from_bytes(token.as_bytes());
            let mut value = value.map_err(|_| failure::no_request(&self.address))?;
            value.set_sensitive(true);
            request.headers_mut().insert(TOKEN, value);
        }
        Ok(request)
    }
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); Vault sends no dates.
fn seconds(header: &HeaderValue) -> Option<Duration> {
    let text = header.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
