//! Secrets that lie elsewhere, all of a backend in one document: what is held of it, when it is fetched anew, and what
//! is served while it cannot be. Knows no protocol; each backend's own room does.

mod document;
mod provider;
mod runtime;
mod saved;
mod state;
pub(crate) mod tls;
mod view;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

pub use document::BackendDocument;
pub use provider::{BackendOptions, BackendProvider};
pub(super) use runtime::after;
pub(super) use saved::WallTime;
pub(crate) use saved::to_bytes;

/// Where a document comes from: one call over the network.
pub trait Backend: Send + Sync + 'static {
    /// The provider's name: `aws`, `vault`.
    fn name(&self) -> &'static str;

    /// Where it takes its values from, for people: `simpletuner/production (us-west-2)`.
    fn source(&self) -> String;

    /// Fetches the whole document, once: who calls bounds the time it takes, and tries again.
    fn fetch(&self) -> Fetching<'_>;

    /// What of the backend's own must outlive this process (a token that cannot be got again).
    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    /// Takes up what [`save`](Self::save) gave in another process.
    fn restore(&self, _saved: &[u8]) {}

    /// Calls `changed` when [`save`](Self::save) would give something new. Only the first call counts.
    fn on_save(&self, _changed: Box<dyn Fn() + Send + Sync>) {}
}

/// A fetch under way.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send + 'a>>;

/// What a backend answered.
#[derive(Debug)]
pub enum Fetched {
    /// The document.
    Document {
        /// What is in it.
        document: BackendDocument,
        /// When the backend says it last changed.
        changed_at: Option<SystemTime>,
    },
    /// There is no such document, which is "no such key" for every key. Says what is missing, and what to do.
    Missing(String),
}

/// Why a backend gave no answer. Holds no value of any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// What went wrong, which setting it is about, and what to do.
    pub reason: String,
    /// Whether the same call may do better in a moment (a network fault, 5xx, 429), and if the backend says so, how
    /// long to wait at least.
    pub retry: Retry,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again: something must be mended first.
    No,
    /// It may do better in a moment.
    Soon,
    /// Not before this time has passed.
    After(Duration),
}

impl FetchError {
    /// A failure that lasts until somebody mends it.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::No,
        }
    }

    /// A failure that may be over in a moment.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::Soon,
        }
    }
}
