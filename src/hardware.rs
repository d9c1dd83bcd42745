//! Prices of hardware, by its id: the defaults, what is configured instead of them, and what was set over that. Does not
//! know the files that set them.

mod configured;
mod json;
mod shared;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cache::{CacheRegistry, CacheStats, HARDWARE, NamedCache, TtlCache};
use crate::error::{Error, Result};
use crate::simpletuner_db::ProviderConfigs;

pub use configured::{configured_in, save_price};
pub use json::{parse_price, parse_table, table_to_json, to_json};
pub use shared::{clear_hardware_info_cache, global, hardware_info, set_hardware_info};

/// What one kind of hardware costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// What people call it.
    pub name: String,
    /// In US dollars; finite and not below 0.
    pub cost_per_second: f64,
}

/// Prices by id.
pub type PriceTable = BTreeMap<String, Price>;

/// The prices that SimpleTuner has where none are configured.
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
/// Prices that were set one by one, over the configured ones.
const SET: &str = "hardware:set";
/// A table that was set instead of the configured one.
const WHOLE: &str = "hardware:whole";

/// With `.json` behind it, an id is the name of a file.
const MAX_ID: usize = 250;

/// For how long an answer is held that was given for want of a better one.
const FOR_NOW: Duration = Duration::from_secs(1);

/// Where the configured prices are asked for.
pub type Configured = Box<dyn Fn() -> Loaded + Send + Sync>;

/// What was said of the configured prices; no table, or an empty one, is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// This is configured.
    Table(Option<PriceTable>),
    /// It cannot be told just now; this was, when it could be told last.
    ForNow(Option<PriceTable>),
}

/// The prices in force. All it holds is in its cache: the configured ones for the cache's time to live, those that were
/// set for ever; so whoever clears or invalidates the cache puts the prices back to what is configured.
pub struct Hardware {
    cache: TtlCache<Arc<PriceTable>>,
    configured: Configured,
    /// Held from reading the table to setting the next one, so that of two changes at the same time none is lost.
    changing: Mutex<()>,
}

impl Hardware {
    /// Prices over a cache of their own. `configured` is asked when the cache does not hold its answer; without a table,
    /// or with an empty one, the defaults are in force.
    pub fn new(cache: TtlCache<Arc<PriceTable>>, configured: Configured) -> Self {
        Self {
            cache,
            configured,
            changing: Mutex::new(()),
        }
    }

    /// Prices over a cache of their own that is added to the registry as `hardware`.
    pub fn in_registry(registry: &CacheRegistry, configured: Configured) -> Self {
        let cache = TtlCache::new(HARDWARE);
        registry.register("hardware", Arc::new(HardwareCache(cache.clone())));
        Self::new(cache, configured)
    }

    /// Prices over a cache of their own and these configurations; whoever asks waits for another program's lock on them.
    pub fn over(configs: Arc<ProviderConfigs>) -> Self {
        Self::new(TtlCache::new(HARDWARE), configured_in(configs, true))
    }

    /// All prices in force.
    pub fn table(&self) -> Arc<PriceTable> {
        if let Some(whole) = self.held(WHOLE) {
            return whole;
        }
        let configured = self.configured();
        let Some(set) = self.held(SET) else {
            return configured;
        };
        let mut table = PriceTable::clone(&configured);
        table.extend(set.iter().map(|(id, price)| (id.clone(), price.clone())));
        Arc::new(table)
    }

    fn held(&self, key: &str) -> Option<Arc<PriceTable>> {
        // Asked first, lest a table that was never set count as a miss at each look-up.
        self.cache.ttl_left(key).and_then(|_| self.cache.get(key))
    }

    /// The price in force of one id.
    pub fn get(&self, id: &str) -> Option<Price> {
        self.table().get(id).cloned()
    }

    /// Sets one price.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an id or a price that is none; nothing has changed then.
    pub fn set(&self, id: &str, price: Price) -> Result<()> {
        check(id, &price)?;
        let changing = self.lock();
        self.change(changing, |table| drop(table.insert(id.into(), price)));
        Ok(())
    }

    /// Sets the whole table; an id that is not in it has no price any more.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an id or a price that is none; nothing has changed then.
    pub fn replace(&self, table: PriceTable) -> Result<()> {
        table.iter().try_for_each(|(id, price)| check(id, price))?;
        let _changing = self.lock();
        self.hold(WHOLE, table);
        self.cache.delete(SET);
        Ok(())
    }

    /// Puts one price back to what is configured, so that an id which is not configured goes away; whether there was
    /// such an id, in force or configured.
    ///
    /// # Errors
    /// None today; what is configured is kept elsewhere.
    pub fn reset(&self, id: &str) -> Result<bool> {
        let changing = self.lock();
        let configured = self.configured().get(id).cloned();
        let was = configured.is_some() || self.table().contains_key(id);
        if was {
            self.change(changing, |table| match configured {
                Some(price) => drop(table.insert(id.into(), price)),
                None => drop(table.remove(id)),
            });
        }
        Ok(was)
    }

    /// Puts all prices back to what is configured.
    pub fn reset_all(&self) {
        let _changing = self.lock();
        self.cache.delete(SET);
        self.cache.delete(WHOLE);
    }

    /// What was set, as a text that [`restore`](Self::restore) takes; `None`: nothing was.
    pub(crate) fn to_note(&self) -> Option<String> {
        let noted = |key: &str| Some((key.to_owned(), json!(*self.held(key)?)));
        let set: Map<String, Value> = [WHOLE, SET].into_iter().filter_map(noted).collect();
        (!set.is_empty()).then(|| json!(set).to_string())
    }

    /// Sets what was set when the text was made.
    pub(crate) fn restore(&self, note: &str) -> serde_json::Result<()> {
        let mut set: BTreeMap<String, PriceTable> = serde_json::from_str(note)?;
        let _changing = self.lock();
        for key in [WHOLE, SET] {
            if let Some(table) = set.remove(key) {
                self.hold(key, table);
            }
        }
        Ok(())
    }

    /// Has the configured prices asked for anew.
    pub fn forget_configured(&self) {
        self.cache.delete(CONFIGURED);
    }

    /// The cache that all of it is in, keys `hardware:...`.
    pub fn cache(&self) -> &TtlCache<Arc<PriceTable>> {
        &self.cache
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes what is set: the whole table, where one is, else single prices.
    fn change(&self, _changing: MutexGuard<'_, ()>, change: impl FnOnce(&mut PriceTable)) {
        let (key, held) = match self.held(WHOLE) {
            Some(whole) => (WHOLE, Some(whole)),
            None => (SET, self.held(SET)),
        };
        let mut table = held.as_deref().cloned().unwrap_or_default();
        change(&mut table);
        self.hold(key, table);
    }

    /// What says the same as the configuration is not held, so that it follows when that changes.
    fn hold(&self, key: &str, mut table: PriceTable) {
        let configured = self.configured();
        let follows = match key {
            WHOLE => table == *configured,
            _ => {
                table.retain(|id, price| configured.get(id) != Some(price));
                table.is_empty()
            }
        };
        if follows {
            self.cache.delete(key);
        } else {
            self.cache.set_with_ttl(key, Arc::new(table), Duration::MAX);
        }
    }

    fn configured(&self) -> Arc<PriceTable> {
        let in_force = |table: Option<PriceTable>| {
            let table = table.filter(|table| !table.is_empty());
            Arc::new(table.unwrap_or_else(default_prices))
        };
        // What is given for now is no result that is kept as long as one.
        let compute = || match (self.configured)() {
            Loaded::Table(table) => Ok(in_force(table)),
            Loaded::ForNow(table) => Err(in_force(table)),
        };
        match self.cache.get_or_set(CONFIGURED, compute) {
            Ok(table) => table,
            Err(table) => {
                self.cache.set_with_ttl(CONFIGURED, table.clone(), FOR_NOW);
                table
            }
        }
    }
}

/// The cache as others reach it: what drops the configuration that the prices are in drops them, too.
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

/// Whether this is a price that such an id can have.
///
/// # Errors
/// [`Error::Malformed`] says which rule is broken.
pub fn check(id: &str, price: &Price) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !begins_well || !id.bytes().all(allowed) || id.len() > MAX_ID {
        return Err(malformed(
            "a hardware id",
            "it must begin with a letter, a digit or '_', hold only those, '.' and '-', and have at most 250 characters",
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
            "`cost_per_second` must be a finite number that is not below 0",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
