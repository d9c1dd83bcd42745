//! Prices of hardware, by its id: the defaults, what is configured instead of them, and what was set over that. Does not
//! know the files that set them.

mod configured;
mod shared;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::cache::{CacheRegistry, CacheStats, HARDWARE, NamedCache, TtlCache};
use crate::error::{Error, Result};
use crate::state::ProviderConfigs;

pub use configured::{configured_in, save_price};
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
const SET: &str = "hardware:set";

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

/// The prices in force. All it holds is in its cache: the configured ones for the cache's time to live, a table that was
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
        self.what_was_set().unwrap_or_else(|| self.configured())
    }

    /// The table that was set, where one was.
    pub fn what_was_set(&self) -> Option<Arc<PriceTable>> {
        // Loaded first, lest a table that was never set count as a miss at each look-up.
        self.cache.ttl_left(SET).and_then(|_| self.cache.get(SET))
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
        let mut table = PriceTable::clone(&self.table());
        table.insert(id.into(), price);
        self.store(table, changing);
        Ok(())
    }

    /// Sets the whole table; an id that is not in it has no price any more.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an id or a price that is none; nothing has changed then.
    pub fn replace(&self, table: PriceTable) -> Result<()> {
        table.iter().try_for_each(|(id, price)| check(id, price))?;
        self.store(table, self.lock());
        Ok(())
    }

    /// Puts one price back to what is configured, so that an id which is not configured goes away; whether there was
    /// such an id, in force or configured.
    ///
    /// # Errors
    /// None today; what is configured is kept elsewhere.
    pub fn reset(&self, id: &str) -> Result<bool> {
        let changing = self.lock();
        let mut table = PriceTable::clone(&self.table());
        let was = match self.configured().get(id) {
            Some(price) => {
                table.insert(id.into(), price.clone());
                true
            }
            None => table.remove(id).is_some(),
        };
        if was {
            self.store(table, changing);
        }
        Ok(was)
    }

    /// Puts all prices back to what is configured.
    pub fn reset_all(&self) {
        let _changing = self.lock();
        self.cache.delete(SET);
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

    fn store(&self, table: PriceTable, _changing: MutexGuard<'_, ()>) {
        // A table that says what is configured is not held, so that it follows when that changes.
        if table == *self.configured() {
            self.cache.delete(SET);
        } else {
            self.cache.set_with_ttl(SET, Arc::new(table), Duration::MAX);
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

/// serde's own words quote what was written, and a secret that was written to the wrong file is one still.
fn no_object(what: &str, error: &serde_json::Error) -> Error {
    let problem = if error.is_data() {
        "not the object that is wanted"
    } else {
        "no valid JSON"
    };
    let (line, column) = (error.line(), error.column());
    malformed(what, format!("{problem} at line {line} column {column}"))
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

/// The price that a JSON object `{"name": "L40S (48GB)", "cost_per_second": 0.000975}` holds.
///
/// # Errors
/// [`Error::Malformed`] says where and why.
pub fn parse_price(bytes: &[u8]) -> Result<Price> {
    let what = "the price";
    let fields = serde_json::from_slice(bytes).map_err(|e| no_object(what, &e))?;
    let price = price_of(fields, what)?;
    check("price", &price)?;
    Ok(price)
}

/// The prices that a JSON object of price objects by id holds.
///
/// # Errors
/// [`Error::Malformed`] says where and why.
pub fn parse_table(bytes: &[u8]) -> Result<PriceTable> {
    let what = "the price table";
    let Pairs(entries) =
        serde_json::from_slice::<Pairs<Pairs<Value>>>(bytes).map_err(|e| no_object(what, &e))?;
    let mut table = PriceTable::new();
    for (id, fields) in entries {
        let price = price_of(fields, &format!("the price of {id:?}"))?;
        check(&id, &price)?;
        if table.contains_key(&id) {
            return Err(malformed(what, format!("{id} is there twice")));
        }
        table.insert(id, price);
    }
    Ok(table)
}

fn price_of(Pairs(fields): Pairs<Value>, what: &str) -> Result<Price> {
    let (mut name, mut cost_per_second) = (None, None);
    for (field, value) in fields {
        let twice = match (field.as_str(), value) {
            ("name", Value::String(text)) => name.replace(text).is_some(),
            ("cost_per_second", Value::Number(number)) => {
                cost_per_second.replace(number.as_f64()).is_some()
            }
            ("name", _) => return Err(malformed(what, "`name` must be a text")),
            ("cost_per_second", _) => {
                return Err(malformed(what, "`cost_per_second` must be a number"));
            }
            _ => {
                let reason = "it has a field other than `name` and `cost_per_second`";
                return Err(malformed(what, reason));
            }
        };
        if twice {
            return Err(malformed(what, format!("`{field}` is there twice")));
        }
    }
    match (name, cost_per_second.flatten()) {
        (Some(name), Some(cost_per_second)) => Ok(Price {
            name,
            // Makes -0.0 the 0 that it is.
            cost_per_second: cost_per_second + 0.0,
        }),
        (None, _) => Err(malformed(what, "`name` is missing")),
        (_, None) => Err(malformed(what, "`cost_per_second` is missing")),
    }
}

/// A price as one line of JSON.
pub fn to_json(price: &Price) -> String {
    let mut json = object(price);
    json.push('\n');
    json
}

/// The table as JSON, one line for each id.
pub fn table_to_json(table: &PriceTable) -> String {
    let mut json = String::from("{");
    for (i, (id, price)) in table.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(json, "{comma}\n  {}: {}", Value::from(&**id), object(price));
    }
    json.push_str(if table.is_empty() { "}\n" } else { "\n}\n" });
    json
}

fn object(price: &Price) -> String {
    let name = Value::from(&*price.name);
    let cost_per_second = Value::from(price.cost_per_second);
    format!(r#"{{"name": {name}, "cost_per_second": {cost_per_second}}}"#)
}

/// A JSON object as it is written: serde's own maps forget that a key was there twice, and its structs take lists too.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests;
