//! Secrets in a remote backend, all in one document: when it is fetched, how long it is cached, and what is served
//! while the backend fails. Knows no protocol: the modules of the backends do.

mod document;
mod fetcher;
pub(crate) mod http;
mod provider;
pub(crate) mod proxy;
mod record;
mod runtime;
mod state;
pub(crate) mod tls;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

pub use document::BackendDocument;
pub use fetcher::BackendOptions;
pub use provider::BackendProvider;
pub(super) use record::WallTime;
pub(crate) use record::to_bytes;
pub(super) use runtime::{Timer, after, runtime};
pub(super) use state::FAILING_BACKEND_TIMEOUT;

/// The source of a document.
pub trait Backend: Send + Sync + 'static {
    /// The provider's name: `aws`, `vault`.
    fn name(&self) -> &str;

    /// The source of its values, for people: `simpletuner/production (us-west-2)`.
    fn source(&self) -> String;

    /// Fetches the whole document, once. The caller bounds the time and retries. One thread runs the fetches of all backends: what
    /// blocks it (files, for example) belongs in `tokio::task::spawn_blocking`.
    fn fetch(&self) -> Fetching<'_>;

    /// The backend's own state that the next process needs (a token that no second log-in would give).
    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    /// Restores the state that [`save`](Self::save) returned in another process.
    fn restore(&self, _saved: &[u8]) {}

    /// Gives back what it holds at its server, such as the token of a log-in. Called once, at the end; the caller bounds
    /// the time.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    /// Registers a callback for when [`save`](Self::save) would return something new. Only the first one is registered.
    fn on_unsaved(&self, _changed: Box<dyn Fn() + Send + Sync>) {}
}

/// A running fetch.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send + 'a>>;

/// A backend's answer.
#[derive(Debug)]
pub enum Fetched {
    /// The document.
    Document {
        /// Its secrets.
        document: BackendDocument,
        /// When the backend says it last changed.
        changed_at: Option<SystemTime>,
    },
    /// The document does not exist, so no key exists. Says what is missing, and what to do.
    Missing(String),
    /// The backend lacks something without which it counts as not configured, such as any credentials. Says what.
    NotConfigured(String),
}

/// Why a backend gave no answer. Contains no secret value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// What failed, which setting it concerns, and what to do.
    pub reason: String,
    /// Whether the same call may succeed soon (a network fault, 5xx, 429).
    pub retry: Retry,
}

/// Whether to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again until the user fixes the cause.
    No,
    /// It may succeed soon.
    Soon,
    /// Not before this time has passed: the backend said so.
    After(Duration),
}

impl FetchError {
    /// A failure that lasts until the user fixes its cause.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::No,
        }
    }

    /// A failure that may pass by itself.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::Soon,
        }
    }
}
