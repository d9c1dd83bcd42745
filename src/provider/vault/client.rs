//! Sends vaultrs' requests and reads Vault's responses: one connection pool, no redirects, bounded bodies. Knows no
//! secret and no way to log in.
//!
//! vaultrs builds the requests (method, path, body, headers). This client sends them, because vaultrs itself reads a
//! body of any size into memory that is not wiped, drops `Retry-After` and `Location`, and follows redirects, along
//! which reqwest would send the token.

use std::time::Duration;

use reqwest::Request;
use reqwest::header::{HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use rustify::endpoint::Endpoint;
use vaultrs::api::EndpointMiddleware;

use super::VaultOptions;
use super::address::Address;
use super::failure;
use super::response::Response;
use super::trust;
use crate::provider::backend::{FetchError, tls};
use crate::provider::file::MAX_DOCUMENT;
use crate::secret::{SecretBuffer, SecretValue};

/// The header for the token (Vault API documentation, "HTTP API", "Authentication").
const TOKEN: &str = "X-Vault-Token";

/// An HTTP client for one Vault.
pub(super) struct Client {
    http: reqwest::Client,
    address: Address,
    /// Adds the API version to the path, and the headers `X-Vault-Request` and `X-Vault-Namespace`. Holds no token:
    /// [`send`](Client::send) adds it, marked as sensitive, so that no log prints it.
    middleware: EndpointMiddleware,
}

impl Client {
    /// A client without a connection yet. Reads the files of the trusted certificates.
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
            // Without this reqwest reads the system's certificates, which plain HTTP does not need.
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

    /// Sends a request and reads its response whole.
    ///
    /// # Errors
    /// The network, TLS, a redirect, a rate limit, or a failure of the server (5xx).
    pub(super) async fn send(
        &self,
        endpoint: impl Endpoint,
        token: Option<&SecretValue>,
    ) -> Result<Response, FetchError> {
        let request = self.request(endpoint, token)?;
        let failed = |error| failure::no_response(&self.address, &error);
        let mut incoming = self.http.execute(request).await.map_err(failed)?;
        let status = incoming.status();
        if status.is_redirection() {
            let to = incoming.headers().get(LOCATION);
            return Err(failure::redirected(&self.address, to));
        }
        let retry_after = incoming.headers().get(RETRY_AFTER).and_then(seconds);
        let mut body = SecretBuffer::new(&[]);
        while let Some(chunk) = incoming.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(failure::too_large(&self.address));
            }
            body.write_at(body.len(), &chunk);
        }
        let response = Response { status, body };
        match failure::server_failure(&self.address, &response, retry_after) {
            Some(error) => Err(error),
            None => Ok(response),
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
