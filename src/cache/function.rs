//! Cached function results: [`cached!`](crate::cached), and what it expands to. Knows nothing of the functions.

use std::fmt::{Display, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{CacheOptions, CacheRegistry, TtlCache};

/// The default of `max_size`.
const MAX_SIZE: usize = 1000;

/// The caches of all [`cached!`](crate::cached) functions that have been called, as `prefix:name`.
pub fn function_caches() -> &'static CacheRegistry {
    static REGISTRY: OnceLock<CacheRegistry> = OnceLock::new();
    REGISTRY.get_or_init(CacheRegistry::default)
}

/// The types of `ttl`: a [`Duration`], or whole seconds.
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

/// Creates a function's cache, at its first call, and registers it.
#[doc(hidden)]
pub fn new_cache<V: Clone + Send + Sync + 'static>(
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

/// The key of a call: prefix, function name and arguments, joined by `:`. A `:` in any argument but the last is
/// escaped, so that two calls never share a key.
#[doc(hidden)]
pub fn key(prefix: &str, function: &str, arguments: &[&dyn Display]) -> String {
    let mut key = format!("{prefix}:{function}");
    for (index, argument) in arguments.iter().enumerate() {
        key.push(':');
        let start = key.len();
        // Writing to a `String` cannot fail.
        let _ = write!(key, "{argument}");
        if index + 1 < arguments.len() && key[start..].contains([':', '\\']) {
            let escaped = key[start..].replace('\\', "\\\\").replace(':', "\\:");
            key.replace_range(start.., &escaped);
        }
    }
    key
}

/// What a function returned. Whether that is the error of a [`Result`] is decided by autoref specialization: the compiler
/// prefers [`FailureOfResult`] where it applies. The macro sees only the tokens of the type, and these may be an alias such
/// as `io::Result`.
#[doc(hidden)]
pub struct Returned<'a, T>(pub &'a T);

#[doc(hidden)]
pub trait FailureOfResult {
    fn is_failure(&self) -> bool;
}

impl<T, E> FailureOfResult for Returned<'_, Result<T, E>> {
    fn is_failure(&self) -> bool {
        self.0.is_err()
    }
}

#[doc(hidden)]
pub trait FailureOfAny {
    fn is_failure(&self) -> bool;
}

impl<T> FailureOfAny for &Returned<'_, T> {
    fn is_failure(&self) -> bool {
        false
    }
}

/// Caches the results of a function, plain or `async`, as SimpleTuner's `@cached(ttl, key_prefix)` does.
///
/// ```
/// use simpletuner_live::cached;
///
/// cached! {
///     ttl = 60, key_prefix = "mymodule";
///     /// A user's name; slow to look up.
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
/// // An error goes to all waiting callers, and is not cached.
/// assert!(get_user(0).is_err());
/// assert_eq!(get_user::cache().len(), 1);
///
/// get_user::cache().invalidate_prefix("mymodule:get_user:1");
/// assert!(get_user::cache().is_empty());
/// ```
///
/// - `ttl`: whole seconds, or a [`Duration`]. `max_size = N` after `key_prefix` sets the largest number of results
///   (default: 1,000).
/// - The key is `prefix:function:argument:argument`, each argument as `Display` shows it; a `:` or `\` in any but the
///   last has a `\` before it.
/// - `NAME::cache()` is the function's [`TtlCache`]: `clear`, `invalidate_prefix`, `stats`. [`function_caches`] has all
///   of them.
/// - Concurrent callers with the same key wait for one computation ([`TtlCache::get_or_set`]); an asynchronous
///   function works with any runtime. A function must not call itself with the same arguments.
/// - The result must be `Clone + Send + Sync + 'static`. An `Err` is not cached; a `None` is.
/// - The function has no `self` and no type parameters.
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
            use $crate::cache::function::{Returned, FailureOfAny, FailureOfResult};
            fn compute($($argument: $type),*) -> $returned $body
            let key = $crate::cache::function::key($prefix, stringify!($name), &[$(&$argument),*]);
            let result = $name::cache().get_or_set(&key, move || {
                let result = compute($($argument),*);
                if (&Returned(&result)).is_failure() { Err(result) } else { Ok(result) }
            });
            match result {
                Ok(result) | Err(result) => result,
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
            use $crate::cache::function::{Returned, FailureOfAny, FailureOfResult};
            async fn compute($($argument: $type),*) -> $returned $body
            let key = $crate::cache::function::key($prefix, stringify!($name), &[$(&$argument),*]);
            let result = $name::cache().get_or_set_async(&key, move || async move {
                let result = compute($($argument),*).await;
                if (&Returned(&result)).is_failure() { Err(result) } else { Ok(result) }
            });
            match result.await {
                Ok(result) | Err(result) => result,
            }
        }
    };
    // A type, because a module could not name types that are local to a function's body.
    (@cache $vis:vis $name:ident, $returned:ty, $ttl:expr, $prefix:expr, [$($max_size:expr)?]) => {
        #[doc = concat!("The cache behind the function `", stringify!($name), "`.")]
        #[allow(non_camel_case_types)]
        $vis enum $name {}
        impl $name {
            /// The cached results.
            #[allow(dead_code)]
            pub fn cache() -> &'static $crate::cache::TtlCache<$returned> {
                static CACHE: ::std::sync::LazyLock<$crate::cache::TtlCache<$returned>> =
                    ::std::sync::LazyLock::new(|| {
                        let max_size = [$($max_size)?].first().copied();
                        $crate::cache::function::new_cache($prefix, stringify!($name), $ttl, max_size)
                    });
                &CACHE
            }
        }
    };
}

#[cfg(test)]
mod tests;
