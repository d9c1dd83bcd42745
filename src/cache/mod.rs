//! Caches with a time to live for each entry, and the registry that reaches them by name. Knows nothing of secrets, prices
//! or files: what is cached, and under which key, is its users' business.
//!
//! ```
//! use simpletuner_live::cache::{CacheOptions, TtlCache};
//! use std::time::Duration;
//!
//! let cache = TtlCache::new(CacheOptions {
//!     default_ttl: Duration::from_secs(300),
//!     max_size: 100,
//!     cleanup_interval: None,
//! });
//! cache.set("user:123:role", "admin".to_owned());
//! let level = cache.get_or_set("user:123:level", || Ok::<_, String>("9".to_owned()))?;
//! assert_eq!(level, "9");
//! assert_eq!(cache.invalidate_prefix("user:123:"), 2);
//! assert_eq!(cache.get("user:123:role"), None);
//! # Ok::<_, String>(())
//! ```

mod cleaner;
mod clock;
mod compute;
mod flight;
pub mod function;
mod named;
mod ttl;

pub use function::function_caches;
pub use named::{CacheRegistry, HARDWARE, NamedCache, PROVIDER_CONFIG, SECRETS, USER_PERMISSION};
pub use ttl::TtlCache;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a cache is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// How long an entry lives when its own time is not given; [`Duration::MAX`] is for ever, zero is not at all.
    pub default_ttl: Duration,
    /// How many entries it holds at most; 0 holds none.
    pub max_size: usize,
    /// How often a thread of the cache removes expired entries. Without one they go when they are asked for, or when
    /// their place is needed.
    pub cleanup_interval: Option<Duration>,
}

/// A cache's figures; the counters run from its making and no `clear` resets them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheStats {
    /// Entries held, expired ones too.
    pub size: usize,
    /// Entries held at most.
    pub max_size: usize,
    /// Entries held that have expired and are not served any more.
    pub expired_count: usize,
    /// The default time to live, in seconds.
    pub default_ttl: f64,
    /// Look-ups that found a live entry.
    pub hits: u64,
    /// Look-ups that found none, or an expired one.
    pub misses: u64,
    /// Live entries that gave way because the cache was full.
    pub evictions: u64,
    /// Hits per look-up, 0 to 1; 0 before the first.
    pub hit_rate: f64,
}
