//! The HTTP client of the backends: their proxies, no redirects, and bounded responses. Knows no backend.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Response};

use super::tls;
use crate::error::in_words;
use crate::secret::SecretBuffer;

/// The largest response, in bytes. A document of 64 KiB, the most that AWS holds, is far below.
pub(crate) const MAX_RESPONSE: usize = 1024 * 1024;

/// Why a response was not read whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the response is too large: over 1 MiB")]
    TooLarge,
    #[error("{0}")]
    Http(#[from] reqwest::Error),
}

/// A client without a proxy, which follows no redirect: reqwest would send the credentials along.
pub(crate) fn client(connect_timeout: Duration) -> ClientBuilder {
    tls::install_crypto();
    reqwest::Client::builder()
        .tls_backend_rustls()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(connect_timeout)
}

/// The body, in locked memory. The connection's own buffers are not wiped.
pub(crate) async fn read_body(mut response: Response) -> Result<SecretBuffer, BodyError> {
    let mut body = SecretBuffer::new(&[]);
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE {
            return Err(BodyError::TooLarge);
        }
        body.write_at(body.len(), &chunk);
    }
    Ok(body)
}

/// How long `Retry-After` says to wait: seconds, or until a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(header: &str) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(header).ok()?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}

/// How many seconds this machine's clock is behind the server that sent these headers (`Date`; RFC 9110, 6.6.1).
pub(in crate::provider) fn seconds_behind(headers: &HeaderMap) -> Option<i64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date).ok()?;
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Some(match theirs.duration_since(SystemTime::now()) {
        Ok(behind) => seconds(behind),
        Err(ahead) => -seconds(ahead.duration()),
    })
}

/// Why a server could not be connected to.
pub(in crate::provider) fn why_not_connected(error: &reqwest::Error) -> String {
    let system = causes_of(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    if error.is_timeout() {
        "it took too long".to_owned()
    } else if causes_of(error).any(|cause| cause.to_string().starts_with("dns error")) {
        "its name cannot be resolved".to_owned()
    } else {
        match system {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused".to_owned()
            }
            Some(error) => in_words(error),
            None => "the connection broke".to_owned(),
        }
    }
}

/// The error and its causes. An [`io::Error`] does not give the error that it wraps as its `source`.
pub(in crate::provider) fn causes_of<'a>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        let later = SystemTime::now() + Duration::from_secs(100);
        let wait = retry_after(&httpdate::fmt_http_date(later)).unwrap();
        assert!((98..=100).contains(&wait.as_secs()), "{wait:?}");
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(past), Some(Duration::ZERO));
        for wrong in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(wrong), None, "{wrong}");
        }
    }
}
