//! Sends vaultrs' requests and reads Vault's responses: one connection pool, no redirects, bounded bodies. Knows no
//! secret and no way to log in.
//!
//! vaultrs builds the requests (method, path, body, headers). This client sends them, because vaultrs itself reads a
//! body of any size into memory that is not wiped, drops `Retry-After` and `Location`, and follows redirects, along
//! which reqwest would send the token.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HOST, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Request, Url};
use rustify::endpoint::Endpoint;
use rustls::pki_types::ServerName;
use vaultrs::api::EndpointMiddleware;

use super::VaultOptions;
use super::address::Address;
use super::failure;
use super::response::Response;
use super::trust;
use crate::provider::backend::FetchError;
use crate::provider::backend::http::{self, BodyError};
use crate::provider::backend::proxy::Proxies;
use crate::provider::backend::tls;
use crate::secret::SecretValue;
use crate::sync::Mutex;

/// The header for the token (Vault API documentation, "HTTP API", "Authentication").
const TOKEN: &str = "X-Vault-Token";

/// An HTTP client for one Vault.
pub(super) struct Client {
    http: reqwest::Client,
    address: Address,
    /// The proxy that requests go through, for people.
    proxy: Option<String>,
    /// The name by which the server is asked for over TLS, instead of the address's.
    server_name: Option<String>,
    /// Adds the API version to the path, and the headers `X-Vault-Request` and `X-Vault-Namespace`. Holds no token:
    /// [`send`](Client::send) adds it, marked as sensitive, so that no log prints it.
    middleware: EndpointMiddleware,
    /// How many seconds this machine's clock is behind Vault's, by its last response.
    seconds_behind: Mutex<Option<i64>>,
}

impl Client {
    /// A client without a connection yet. Reads the files of the trusted certificates.
    pub(super) fn new(options: &VaultOptions, address: &Address) -> Result<Self, FetchError> {
        let mut builder = http::client(options.connect_timeout)
            .user_agent(concat!("simpletuner-live/", env!("CARGO_PKG_VERSION")));
        let url = Url::parse(&address.origin).map_err(|_| failure::no_request(address))?;
        let proxies = match &options.proxy {
            Some(proxy) => Proxies::only(proxy.as_str(), "VAULT_PROXY_ADDR"),
            None => Proxies::from_env(),
        };
        let proxy = proxies.find(&url).filter(|_| address.socket.is_none());
        if let Some(proxy) = proxy {
            let to = proxy.url().map_err(FetchError::lasting)?;
            let to = reqwest::Proxy::all(to).map_err(|_| failure::no_request(address))?;
            builder = builder.proxy(to);
            if !address.is_https {
                tracing::warn!(
                    "Vault at {address} is asked without TLS through {proxy}, which can read the token"
                );
            }
        }
        let mut server_name = None;
        if address.is_https {
            let trust = trust::read(&options.tls)?;
            if let (Some(ServerName::DnsName(name)), None) = (&trust.server_name, proxy) {
                server_name = Some(name.as_ref().to_owned());
                builder = builder.dns_resolver(Arc::new(ResolveTo(host_of(&url))));
            }
            builder = builder.tls_backend_preconfigured(
                tls::config(trust).map_err(|why| failure::no_tls(&why))?,
            );
        } else {
            // Without this reqwest reads the system's certificates, which plain HTTP does not need.
            builder = builder.tls_certs_only([]);
        }
        if let Some(socket) = &address.socket {
            builder = builder.unix_socket(socket.clone());
        }
        Ok(Self {
            http: builder
                .build()
                .map_err(|error| failure::no_tls(&error.to_string()))?,
            address: address.clone(),
            proxy: proxy.map(ToString::to_string),
            seconds_behind: Mutex::default(),
            server_name,
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

    /// How many seconds this machine's clock is behind Vault's, as far as a response has said.
    pub(super) fn seconds_behind(&self) -> Option<i64> {
        *self.seconds_behind.lock()
    }

    /// The failure, with the proxy that the request went through.
    pub(super) fn by_proxy(&self, mut error: FetchError) -> FetchError {
        if let Some(proxy) = &self.proxy {
            error.reason = format!("{} (asked through {proxy})", error.reason);
        }
        error
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
        let incoming = self.http.execute(request).await.map_err(failed)?;
        let status = incoming.status();
        *self.seconds_behind.lock() = http::seconds_behind(incoming.headers());
        if status.is_redirection() {
            let to = incoming.headers().get(LOCATION);
            return Err(failure::redirected(&self.address, to));
        }
        let wait = incoming.headers().get(RETRY_AFTER);
        let wait = wait.and_then(|header| http::retry_after(header.to_str().ok()?));
        let body = match http::read_body(incoming).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => return Err(failure::too_large(&self.address)),
            Err(BodyError::Http(error)) => return Err(failed(error)),
        };
        let response = Response { status, body };
        match failure::server_failure(&self.address, &response, wait) {
            Some(error) => Err(error),
            None => Ok(response),
        }
    }

    fn request(
        &self,
        endpoint: impl Endpoint,
        token: Option<&SecretValue>,
    ) -> Result<Request, FetchError> {
        let no_request = || failure::no_request(&self.address);
        let request = endpoint
            .with_middleware(&self.middleware)
            .request(&self.address.origin);
        let request = request.ok().and_then(|request| request.try_into().ok());
        let mut request: Request = request.ok_or_else(no_request)?;
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let value = HeaderValue::from_bytes(token.as_bytes());
            let mut value = value.map_err(|_| no_request())?;
            value.set_sensitive(true);
            request.headers_mut().insert(TOKEN, value);
        }
        if let Some(name) = &self.server_name {
            let host = request.url().authority().to_owned();
            let host = HeaderValue::from_str(&host).map_err(|_| no_request())?;
            request.headers_mut().insert(HOST, host);
            let url = request.url_mut();
            url.set_host(Some(name)).map_err(|_| no_request())?;
        }
        Ok(request)
    }
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    host.trim_matches(['[', ']']).to_owned()
}

/// Resolves every name to the addresses of this host, so that TLS names another server than the one that is connected to
/// (`VAULT_TLS_SERVER_NAME`).
struct ResolveTo(String);

impl Resolve for ResolveTo {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
