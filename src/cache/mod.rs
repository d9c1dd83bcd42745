//! Caches with a time to live for each entry, and a registry of caches by name. Knows nothing of secrets, prices or
//! files: the users of a cache choose its keys and values.
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
pub mod function;
mod named;
mod singleflight;
mod state;
mod ttl;

pub use function::function_caches;
pub use named::{CacheRegistry, HARDWARE, NamedCache, PROVIDER_CONFIG, SECRETS, USER_PERMISSION};
pub use ttl::TtlCache;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The options of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// How long an entry lives unless its own time is given. [`Duration::MAX`]: for ever; zero: not at all.
    pub default_ttl: Duration,
    /// The largest number of entries; 0: none.
    pub max_size: usize,
    /// How often the cleaner thread removes expired entries. Without it they are removed when they are looked up, or
    /// when the cache is full.
    pub cleanup_interval: Option<Duration>,
}

/// The statistics of a cache. The counters start with the cache; `clear` does not reset them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheStats {
    /// Entries, expired ones included.
    pub size: usize,
    /// The largest number of entries.
    pub max_size: usize,
    /// Expired entries that are not removed yet.
    pub expired_count: usize,
    /// The default time to live, in seconds.
    pub default_ttl: f64,
    /// Look-ups that found a live entry.
    pub hits: u64,
    /// Look-ups that found no entry or an expired one.
    pub misses: u64,
    /// Live entries evicted because the cache was full.
    pub evictions: u64,
    /// Hits per look-up, 0 to 1; 0 before the first look-up.
    pub hit_rate: f64,
}
