//! The SDK's HTTP over the backends' own client, so that proxies, certificates and bounds are those of every backend.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Proxy, Request, Url};
use rustls::ClientConfig;

use crate::provider::backend::http::{self, BodyError};
use crate::provider::backend::proxy::Proxies;
use crate::sync::Mutex;

/// A connection's timeouts; the SDK has a connector for each pair of them.
type Timeouts = (Option<Duration>, Option<Duration>);

/// The HTTP clients for all requests of the SDK: to the service, and for credentials.
#[derive(Clone)]
pub(super) struct Http(Arc<Shared>);

struct Shared {
    tls: ClientConfig,
    proxies: Proxies,
    connect_timeout: Duration,
    made: Mutex<Vec<(Timeouts, SharedHttpConnector)>>,
    last_proxy: Mutex<Option<String>>,
    /// How many seconds this machine's clock is behind AWS's, by its last response.
    seconds_behind: Mutex<Option<i64>>,
}

impl Http {
    pub(super) fn new(tls: ClientConfig, connect_timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            tls,
            proxies: Proxies::from_env(),
            connect_timeout,
            made: Mutex::default(),
            last_proxy: Mutex::default(),
            seconds_behind: Mutex::default(),
        }))
    }

    /// The proxy that the last request went through.
    pub(super) fn last_proxy(&self) -> Option<String> {
        self.0.last_proxy.lock().clone()
    }

    /// How many seconds this machine's clock is behind AWS's, as far as a response has said.
    pub(super) fn seconds_behind(&self) -> Option<i64> {
        *self.0.seconds_behind.lock()
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl HttpClient for Http {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut made = self.0.made.lock();
        if let Some((_, connector)) = made.iter().find(|(made, _)| *made == timeouts) {
            return connector.clone();
        }
        let connector = SharedHttpConnector::new(Connector {
            client: self.0.client(timeouts),
            http: self.clone(),
        });
        made.push((timeouts, connector.clone()));
        connector
    }
}

impl Shared {
    fn client(&self, (connect, read): Timeouts) -> Result<reqwest::Client, String> {
        let proxies = self.proxies.clone();
        let proxy = move |url: &Url| proxies.find(url)?.url().ok();
        let mut builder = http::client(connect.unwrap_or(self.connect_timeout))
            .tls_backend_preconfigured(self.tls.clone())
            .proxy(Proxy::custom(proxy));
        if let Some(read) = read {
            builder = builder.read_timeout(read);
        }
        let built = builder.build();
        built.map_err(|error| format!("the client cannot be built: {error}"))
    }
}

struct Connector {
    client: Result<reqwest::Client, String>,
    http: Http,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, http) = (self.client.clone(), self.http.clone());
        HttpConnectorFuture::new(async move {
            let unusable = |why: String| ConnectorError::user(why.into());
            let client = client.map_err(unusable)?;
            let request =
                converted(&request).ok_or_else(|| unusable("the request is not HTTP".into()))?;
            let proxy = http.0.proxies.find(request.url());
            // The client would go past a proxy whose address is wrong.
            proxy
                .map(|proxy| proxy.url())
                .transpose()
                .map_err(unusable)?;
            *http.0.last_proxy.lock() = proxy.map(ToString::to_string);
            let (answer, seconds_behind) = answer(client, request).await.map_err(failed)?;
            *http.0.seconds_behind.lock() = seconds_behind;
            Ok(answer)
        })
    }
}

fn converted(request: &HttpRequest) -> Option<Request> {
    let method = Method::from_bytes(request.method().as_bytes()).ok()?;
    let mut converted = Request::new(method, Url::parse(request.uri()).ok()?);
    for (name, value) in request.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        converted.headers_mut().append(name, value);
    }
    *converted.body_mut() = Some(request.body().bytes()?.to_vec().into());
    Some(converted)
}

/// The response, and what it says of this machine's clock.
async fn answer(
    client: reqwest::Client,
    request: Request,
) -> Result<(HttpResponse, Option<i64>), BodyError> {
    let response = client.execute(request).await?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = http::read_body(response).await?;
    let mut answer = HttpResponse::new(
        StatusCode::from(status),
        SdkBody::from(body.as_bytes().to_vec()),
    );
    for (name, value) in &headers {
        // A header that is not text is none of AWS's.
        if let Ok(value) = value.to_str() {
            let (name, value) = (name.as_str().to_owned(), value.to_owned());
            let _ = answer.headers_mut().try_append(name, value);
        }
    }
    Ok((answer, http::seconds_behind(&headers)))
}

fn failed(error: BodyError) -> ConnectorError {
    match error {
        BodyError::TooLarge => ConnectorError::user(error.into()),
        BodyError::Http(error) => {
            let error = error.without_url();
            match () {
                () if error.is_timeout() => ConnectorError::timeout(error.into()),
                () if error.is_connect() || error.is_request() => ConnectorError::io(error.into()),
                () => ConnectorError::other(error.into(), None),
            }
        }
    }
}
