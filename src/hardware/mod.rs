//! Prices of hardware by id: the defaults, the configured prices that replace them, and overrides. Does not know the
//! files that set them.

mod configured;
mod json;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cache::{CacheRegistry, CacheStats, HARDWARE, NamedCache, TtlCache};
use crate::error::{Error, Result};
use crate::simpletuner_db::ProviderConfigs;
use crate::sync::{Mutex, MutexGuard};

pub use configured::{database_loader, save_price};
pub use json::{parse_price, parse_table, price_to_json, table_to_json};
pub use shared::{clear_hardware_info_cache, global, hardware_info, set_hardware_info};

/// What one kind of hardware costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// The name of the hardware, for people.
    pub name: String,
    /// In US dollars; finite and not below 0.
    pub cost_per_second: f64,
}

/// Prices by id.
pub type PriceTable = BTreeMap<String, Price>;

/// SimpleTuner's prices if none are configured.
pub fn default_prices() -> PriceTable {
    let price = |id: &str, name: &str, cost_per_second| {
        let name = name.into();
        let price = Price {
            name,
            cost_per_second,
        };
        (id.to_owned(), price)
    };
    PriceTable::from([
        price("gpu-l40s", "L40S (48GB)", 0.000975),
        price("gpu-a100-large", "A100 (80GB)", 0.0014),
    ])
}

const CONFIGURED: &str = "hardware:configured";
/// Single prices that override configured ones.
const PRICE_OVERRIDES: &str = "hardware:set";
/// A table that overrides the configured one.
const TABLE_OVERRIDE: &str = "hardware:whole";

/// An id with `.json` is a file name.
const MAX_ID: usize = 250;

/// How long a stale answer is cached.
const STALE_TTL: Duration = Duration::from_secs(1);

/// Loads the configured prices.
pub type PriceLoader = Box<dyn Fn() -> ConfiguredPrices + Send + Sync>;

/// The configured prices. `None` or an empty table: none are configured.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfiguredPrices {
    /// They are current.
    Current(Option<PriceTable>),
    /// They cannot be loaded now; these are the last ones.
    Stale(Option<PriceTable>),
}

/// The current prices. All state is in the cache: configured prices for the cache's time to live, overrides for ever.
/// So clearing or invalidating the cache restores the configured prices.
pub struct Hardware {
    cache: TtlCache<Arc<PriceTable>>,
    loader: PriceLoader,
    /// Held from reading an override to replacing it, so that concurrent changes are not lost.
    changing: Mutex<()>,
}

impl Hardware {
    /// Prices in this cache. `loader` loads them when the cache does not have them; if it has none, the defaults
    /// apply.
    pub fn new(cache: TtlCache<Arc<PriceTable>>, loader: PriceLoader) -> Self {
        Self {
            cache,
            loader,
            changing: Mutex::new(()),
        }
    }

    /// Prices in a new cache, registered as `hardware`.
    pub fn in_registry(registry: &CacheRegistry, loader: PriceLoader) -> Self {
        let cache = TtlCache::new(HARDWARE);
        registry.register("hardware", Arc::new(HardwareCache(cache.clone())));
        Self::new(cache, loader)
    }

    /// Prices in a new cache, from these configurations. Readers wait if another program has locked the database.
    pub fn with_configs(configs: Arc<ProviderConfigs>) -> Self {
        Self::new(TtlCache::new(HARDWARE), database_loader(configs, true))
    }

    /// All current prices.
    pub fn table(&self) -> Arc<PriceTable> {
        if let Some(table) = self.cached(TABLE_OVERRIDE) {
            return table;
        }
        let configured = self.configured();
        let Some(set) = self.cached(PRICE_OVERRIDES) else {
            return configured;
        };
        let mut table = PriceTable::clone(&configured);
        table.extend(set.iter().map(|(id, price)| (id.clone(), price.clone())));
        Arc::new(table)
    }

    fn cached(&self, key: &str) -> Option<Arc<PriceTable>> {
        // First without counting: a table that was never set would count as a miss at each look-up.
        self.cache.ttl_left(key).and_then(|_| self.cache.get(key))
    }

    /// The current price of an id.
    pub fn get(&self, id: &str) -> Option<Price> {
        self.table().get(id).cloned()
    }

    /// Overrides one price.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an invalid id or price; nothing changes then.
    pub fn set(&self, id: &str, price: Price) -> Result<()> {
        check_price(id, &price)?;
        let changing = self.changing.lock();
        self.change(changing, |table| drop(table.insert(id.into(), price)));
        Ok(())
    }

    /// Overrides the whole table; ids that are not in it have no price.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an invalid id or price; nothing changes then.
    pub fn replace(&self, table: PriceTable) -> Result<()> {
        table
            .iter()
            .try_for_each(|(id, price)| check_price(id, price))?;
        let _changing = self.changing.lock();
        self.store_override(TABLE_OVERRIDE, table);
        self.cache.delete(PRICE_OVERRIDES);
        Ok(())
    }

    /// Restores the configured price of an id; an id that is not configured has none then. Returns whether the id had a
    /// current or a configured price.
    ///
    /// # Errors
    /// None today.
    pub fn reset(&self, id: &str) -> Result<bool> {
        let changing = self.changing.lock();
        let configured = self.configured().get(id).cloned();
        let existed = configured.is_some() || self.table().contains_key(id);
        if existed {
            self.change(changing, |table| match configured {
                Some(price) => drop(table.insert(id.into(), price)),
                None => drop(table.remove(id)),
            });
        }
        Ok(existed)
    }

    /// Restores all configured prices.
    pub fn reset_all(&self) {
        let _changing = self.changing.lock();
        self.cache.delete(PRICE_OVERRIDES);
        self.cache.delete(TABLE_OVERRIDE);
    }

    /// The overrides, for [`restore`](Self::restore); `None` if there are none.
    pub(crate) fn save(&self) -> Option<String> {
        let saved = |key: &str| Some((key.to_owned(), json!(*self.cached(key)?)));
        let set: Map<String, Value> = [TABLE_OVERRIDE, PRICE_OVERRIDES]
            .into_iter()
            .filter_map(saved)
            .collect();
        (!set.is_empty()).then(|| json!(set).to_string())
    }

    /// Restores saved overrides.
    pub(crate) fn restore(&self, saved: &str) -> serde_json::Result<()> {
        let mut set: BTreeMap<String, PriceTable> = serde_json::from_str(saved)?;
        let _changing = self.changing.lock();
        for key in [TABLE_OVERRIDE, PRICE_OVERRIDES] {
            if let Some(table) = set.remove(key) {
                self.store_override(key, table);
            }
        }
        Ok(())
    }

    /// Removes the configured prices from the cache.
    pub fn invalidate_configured(&self) {
        self.cache.delete(CONFIGURED);
    }

    /// The cache, keys `hardware:...`.
    pub fn cache(&self) -> &TtlCache<Arc<PriceTable>> {
        &self.cache
    }

    /// Changes the override of the table if there is one, else those of single prices.
    fn change(&self, _changing: MutexGuard<'_, ()>, change: impl FnOnce(&mut PriceTable)) {
        let (key, cached) = match self.cached(TABLE_OVERRIDE) {
            Some(table) => (TABLE_OVERRIDE, Some(table)),
            None => (PRICE_OVERRIDES, self.cached(PRICE_OVERRIDES)),
        };
        let mut table = cached.as_deref().cloned().unwrap_or_default();
        change(&mut table);
        self.store_override(key, table);
    }

    /// Stores an override. One that equals the configured prices is dropped, so that it follows when those change.
    fn store_override(&self, key: &str, mut table: PriceTable) {
        let configured = self.configured();
        let is_redundant = match key {
            TABLE_OVERRIDE => table == *configured,
            _ => {
                table.retain(|id, price| configured.get(id) != Some(price));
                table.is_empty()
            }
        };
        if is_redundant {
            self.cache.delete(key);
        } else {
            self.cache.set_with_ttl(key, Arc::new(table), Duration::MAX);
        }
    }

    fn configured(&self) -> Arc<PriceTable> {
        let or_default = |table: Option<PriceTable>| {
            let table = table.filter(|table| !table.is_empty());
            Arc::new(table.unwrap_or_else(default_prices))
        };
        // A stale answer is an error here, so that it is not cached for the full time to live.
        let compute = || match (self.loader)() {
            ConfiguredPrices::Current(table) => Ok(or_default(table)),
            ConfiguredPrices::Stale(table) => Err(or_default(table)),
        };
        match self.cache.get_or_set(CONFIGURED, compute) {
            Ok(table) => table,
            Err(table) => {
                self.cache
                    .set_with_ttl(CONFIGURED, table.clone(), STALE_TTL);
                table
            }
        }
    }
}

/// The cache in the registry: invalidating the configuration of the prices also removes the prices.
struct HardwareCache(TtlCache<Arc<PriceTable>>);

impl NamedCache for HardwareCache {
    fn stats(&self) -> CacheStats {
        self.0.stats()
    }

    fn clear(&self) -> usize {
        self.0.clear()
    }

    fn invalidate_prefix(&self, prefix: &str) -> usize {
        let with_config =
            "provider:replicate:config".starts_with(prefix) && self.0.delete(CONFIGURED);
        self.0.invalidate_prefix(prefix) + usize::from(with_config)
    }
}

fn malformed(what: &str, reason: impl Into<String>) -> Error {
    Error::Malformed {
        what: what.into(),
        reason: reason.into(),
    }
}

/// Checks an id and its price.
///
/// # Errors
/// [`Error::Malformed`] says which rule is broken.
pub fn check_price(id: &str, price: &Price) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let has_valid_start = id.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !has_valid_start || !id.bytes().all(allowed) || id.len() > MAX_ID {
        return Err(malformed(
            "a hardware id",
            "it must begin with a letter, a digit or '_', contain only those, '.' and '-', and have at most 250 characters",
        ));
    }
    if id == "all" {
        return Err(malformed("a hardware id", "`all` means the whole table"));
    }
    let what = format!("the price of {id}");
    if price.name.trim().is_empty() {
        return Err(malformed(&what, "`name` must not be empty"));
    }
    if !(price.cost_per_second.is_finite() && price.cost_per_second >= 0.0) {
        return Err(malformed(
            &what,
            "`cost_per_second` must be a finite number, at least 0",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
