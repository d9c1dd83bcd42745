//! Function results in a cache: [`cached!`](crate::cached), and what it expands to. Knows nothing of what is computed.

use std::fmt::{Display, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{CacheOptions, CacheRegistry, TtlCache};

/// How many results a function's cache holds, where its `max_size` is not given.
const MAX_SIZE: usize = 1000;

/// The caches of all [`cached!`](crate::cached) functions that were called so far, as `prefix:name`.
pub fn function_caches() -> &'static CacheRegistry {
    static REGISTRY: OnceLock<CacheRegistry> = OnceLock::new();
    REGISTRY.get_or_init(CacheRegistry::default)
}

/// What a `ttl` can be given as: a [`Duration`], or whole seconds.
pub trait IntoTtl {
    /// The same as a duration.
    fn into_ttl(self) -> Duration;
}

impl IntoTtl for Duration {
    fn into_ttl(self) -> Duration {
        self
    }
}

impl IntoTtl for u64 {
    fn into_ttl(self) -> Duration {
        Duration::from_secs(self)
    }
}

/// A function's cache, made at its first call.
#[doc(hidden)]
pub fn make<V: Clone + Send + Sync + 'static>(
    prefix: &str,
    function: &str,
    ttl: impl IntoTtl,
    max_size: Option<usize>,
) -> TtlCache<V> {
    let cache = TtlCache::new(CacheOptions {
        default_ttl: ttl.into_ttl(),
        max_size: max_size.unwrap_or(MAX_SIZE),
        cleanup_interval: None,
    });
    function_caches().register(format!("{prefix}:{function}"), Arc::new(cache.clone()));
    cache
}

/// The key of a call: prefix, function name and arguments, joined by `:` (formats.md, "Caches and prices"). A `:` in an
/// argument that another follows is escaped, because two calls must not share a key.
#[doc(hidden)]
pub fn key(prefix: &str, function: &str, arguments: &[&dyn Display]) -> String {
    let mut key = format!("{prefix}:{function}");
    for (place, argument) in arguments.iter().enumerate() {
        key.push(':');
        let start = key.len();
        // A `String` takes all that is written to it.
        let _ = write!(key, "{argument}");
        if place + 1 < arguments.len() && key[start..].contains([':', '\\']) {
            let escaped = key[start..].replace('\\', "\\\\").replace(':', "\\:");
            key.replace_range(start.., &escaped);
        }
    }
    key
}

/// Whether what a function gave is the error of a [`Result`]. Of two traits the compiler takes the one for results where
/// it fits: the macro knows the type's tokens only, and an alias such as `io::Result` shows nothing in them.
#[doc(hidden)]
pub struct Given<'a, T>(pub &'a T);

#[doc(hidden)]
pub trait OfResult {
    fn is_failure(&self) -> bool;
}

impl<T, E> OfResult for Given<'_, Result<T, E>> {
    fn is_failure(&self) -> bool {
        self.0.is_err()
    }
}

#[doc(hidden)]
pub trait OfAnything {
    fn is_failure(&self) -> bool;
}

impl<T> OfAnything for &Given<'_, T> {
    fn is_failure(&self) -> bool {
        false
    }
}

/// Gives a function, plain or `async`, a cache for its results: SimpleTuner's `@cached(ttl, key_prefix)`.
///
/// ```
/// use simpletuner_live::cached;
///
/// cached! {
///     ttl = 60, key_prefix = "mymodule";
///     /// What is known of a user; slow to find out.
///     pub fn get_user(id: u32) -> Result<String, String> {
///         match id {
///             0 => Err("nobody has the number 0".to_owned()),
///             id => Ok(format!("user {id}")),
///         }
///     }
/// }
///
/// assert_eq!(get_user(123), Ok("user 123".to_owned()));
/// let held = get_user::cache().get("mymodule:get_user:123");
/// assert_eq!(held, Some(Ok("user 123".to_owned())));
///
/// // An error goes to all who wait for it, and is not kept.
/// assert!(get_user(0).is_err());
/// assert_eq!(get_user::cache().len(), 1);
///
/// get_user::cache().invalidate_prefix("mymodule:get_user:1");
/// assert!(get_user::cache().is_empty());
/// ```
///
/// - `ttl`: whole seconds, or a [`Duration`]. `max_size = N` behind `key_prefix` sets how many results are held (1,000
///   unless it is set).
/// - The key is `prefix:function:argument:argument`, each argument as `Display` shows it; a `:` or `\` in any but the last
///   has a `\` before it.
/// - `NAME::cache()` is the [`TtlCache`] behind the function, which holds whole results: `clear`, `invalidate_prefix`,
///   `stats`. All such caches together are [`function_caches`].
/// - Callers that ask for the same key at once wait for one computation ([`TtlCache::get_or_set`]); an asynchronous
///   function works with any runtime. A function must not call itself with the same arguments.
/// - What it returns must be `Clone + Send + Sync + 'static`. An `Err` is not cached; a `None` is.
/// - It is for functions without `self` and without type parameters.
///
/// ```
/// # use simpletuner_live::cached;
/// use std::time::Duration;
///
/// cached! {
///     ttl = Duration::from_millis(500), key_prefix = "prices", max_size = 10;
///     async fn price_of(model: &str, hours: u8) -> f64 {
///         model.len() as f64 * f64::from(hours)
///     }
/// }
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// assert_eq!(price_of("l40s", 2).await, 8.0);
/// assert_eq!(price_of::cache().get("prices:price_of:l40s:2"), Some(8.0));
/// # });
/// ```
#[macro_export]
macro_rules! cached {
    (
        ttl = $ttl:expr, key_prefix = $prefix:expr $(, max_size = $max_size:expr)? $(,)?;
        $(#[$meta:meta])*
        $vis:vis fn $name:ident ( $($argument:ident : $type:ty),* $(,)? ) -> $returned:ty $body:block
    ) => {
        $crate::cached! { @cache $vis $name, $returned, $ttl, $prefix, [$($max_size)?] }
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) -> $returned {
            #[allow(unused_imports)]
            use $crate::cache::function::{Given, OfAnything, OfResult};
            fn compute($($argument: $type),*) -> $returned $body
            let key = $crate::cache::function::key($prefix, stringify!($name), &[$(&$argument),*]);
            let given = $name::cache().get_or_set(&key, move || {
                let given = compute($($argument),*);
                if (&Given(&given)).is_failure() { Err(given) } else { Ok(given) }
            });
            match given {
                Ok(given) | Err(given) => given,
            }
        }
    };
    (
        ttl = $ttl:expr, key_prefix = $prefix:expr $(, max_size = $max_size:expr)? $(,)?;
        $(#[$meta:meta])*
        $vis:vis async fn $name:ident ( $($argument:ident : $type:ty),* $(,)? ) -> $returned:ty $body:block
    ) => {
        $crate::cached! { @cache $vis $name, $returned, $ttl, $prefix, [$($max_size)?] }
        $(#[$meta])*
        $vis async fn $name($($argument: $type),*) -> $returned {
            #[allow(unused_imports)]
            use $crate::cache::function::{Given, OfAnything, OfResult};
            async fn compute($($argument: $type),*) -> $returned $body
            let key = $crate::cache::function::key($prefix, stringify!($name), &[$(&$argument),*]);
            let given = $name::cache().get_or_set_async(&key, move || async move {
                let given = compute($($argument),*).await;
                if (&Given(&given)).is_failure() { Err(given) } else { Ok(given) }
            });
            match given.await {
                Ok(given) | Err(given) => given,
            }
        }
    };
    // A type beside the function, because a module could not name types that are local to a function's body.
    (@cache $vis:vis $name:ident, $returned:ty, $ttl:expr, $prefix:expr, [$($max_size:expr)?]) => {
        #[doc = concat!("The cache behind the function `", stringify!($name), "`.")]
        #[allow(non_camel_case_types)]
        $vis enum $name {}
        impl $name {
            /// The results that are held.
            #[allow(dead_code)]
            pub fn cache() -> &'static $crate::cache::TtlCache<$returned> {
                static CACHE: ::std::sync::LazyLock<$crate::cache::TtlCache<$returned>> =
                    ::std::sync::LazyLock::new(|| {
                        let max_size = [$($max_size)?].first().copied();
                        $crate::cache::function::make($prefix, stringify!($name), $ttl, max_size)
                    });
                &CACHE
            }
        }
    };
}

#[cfg(test)]
mod tests;
