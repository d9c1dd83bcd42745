//! The prices in SimpleTuner's database: `hardware_info` in the configuration of the provider `replicate`. Invalid
//! entries are ignored with a warning, and are kept when a price is saved.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{ConfiguredPrices, Price, PriceLoader, PriceTable, check_price, default_prices};
use crate::error::{Error, Result};
use crate::simpletuner_db::{ProviderConfigs, TryGet};
use crate::sync::Mutex;

/// The provider whose configuration contains the prices.
const PROVIDER: &str = "replicate";
const FIELD: &str = "hardware_info";

/// Loads the prices from the database. With `wait_for_lock`, it waits while another program has locked the database.
/// Otherwise, and if the database cannot be read, it returns the last prices as stale.
pub fn database_loader(configs: Arc<ProviderConfigs>, wait_for_lock: bool) -> PriceLoader {
    let last = Mutex::new(LastLoaded::default());
    Box::new(move || {
        let config = match wait_for_lock {
            false => configs.try_get(PROVIDER),
            true => match configs.get(PROVIDER) {
                Ok(config) => TryGet::Found(config),
                Err(error) => TryGet::Failed(error),
            },
        };
        let mut last = last.lock();
        match config {
            TryGet::Found(config) => {
                let (table, warnings) = prices_in(config.object());
                last.warn_once(warnings);
                last.table = table.clone();
                ConfiguredPrices::Current(table)
            }
            TryGet::Missing => {
                *last = LastLoaded::default();
                ConfiguredPrices::Current(None)
            }
            TryGet::Failed(error) => {
                last.warn_once(vec![format!("the last known prices are used: {error}")]);
                ConfiguredPrices::Stale(last.table.clone())
            }
            TryGet::Locked => ConfiguredPrices::Stale(last.table.clone()),
        }
    })
}

#[derive(Default)]
struct LastLoaded {
    table: Option<PriceTable>,
    warnings: Vec<String>,
}

impl LastLoaded {
    /// Logs the warnings that the last load did not have.
    fn warn_once(&mut self, warnings: Vec<String>) {
        for warning in &warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warnings = warnings;
    }
}

/// The prices in a configuration, if there are any, and warnings about invalid entries.
fn prices_in(config: &Map<String, Value>) -> (Option<PriceTable>, Vec<String>) {
    let (mut table, mut warnings) = (PriceTable::new(), Vec::new());
    match config.get(FIELD) {
        None | Some(Value::Null) => {}
        Some(Value::Object(entries)) => {
            for (id, entry) in entries {
                match price_of(id, entry) {
                    Ok(price) => drop(table.insert(id.clone(), price)),
                    Err(reason) => warnings.push(format!(
                        "{FIELD} of {PROVIDER}: {:?} is left out: {reason}",
                        id.chars().take(80).collect::<String>()
                    )),
                }
            }
        }
        Some(_) => warnings.push(format!(
            "{FIELD} of {PROVIDER} is not an object; the default prices are used"
        )),
    }
    ((!table.is_empty()).then_some(table), warnings)
}

/// Only these two fields must be valid: SimpleTuner may store others beside them.
fn price_of(id: &str, entry: &Value) -> Result<Price, String> {
    let name = entry["name"].as_str().ok_or("`name` must be a string")?;
    let cost = entry["cost_per_second"].as_f64();
    let price = Price {
        name: name.to_owned(),
        // Turns -0.0 into 0.0.
        cost_per_second: cost.ok_or("`cost_per_second` must be a number")? + 0.0,
    };
    check_price(id, &price).map_err(|error| error.to_string())?;
    Ok(price)
}

/// Stores a price in the configuration. If it has no prices yet, stores the defaults as well, because they would no
/// longer apply.
///
/// # Errors
/// [`Error::Malformed`] for an invalid id or price, or if `hardware_info` is not an object; [`Error::Database`].
/// Nothing changes then.
pub fn save_price(configs: &ProviderConfigs, id: &str, price: &Price) -> Result<()> {
    check_price(id, price)?;
    let is_invalid = |config: &Map<String, Value>| {
        config
            .get(FIELD)
            .is_some_and(|info| !info.is_object() && !info.is_null())
    };
    let invalid = || Error::Malformed {
        what: format!("{FIELD} of {PROVIDER}"),
        reason: "it is not an object; fix it in config/replicate.json first".into(),
    };
    if is_invalid(configs.get(PROVIDER)?.object()) {
        return Err(invalid());
    }
    let mut became_invalid = false;
    configs.update(PROVIDER, |config| {
        became_invalid = is_invalid(config);
        if became_invalid {
            return;
        }
        let info = config.entry(FIELD).or_insert(Value::Null);
        if info.as_object().is_none_or(Map::is_empty) {
            *info = json!(default_prices());
        }
        let entry = &mut info[id];
        if !entry.is_object() {
            *entry = json!({});
        }
        entry["name"] = json!(price.name);
        entry["cost_per_second"] = json!(price.cost_per_second);
    })?;
    if became_invalid {
        return Err(invalid());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> (tempfile::TempDir, Arc<ProviderConfigs>) {
        let folder = tempfile::tempdir().unwrap();
        let configs = ProviderConfigs::at(folder.path().join("cloud/jobs.db"));
        (folder, Arc::new(configs))
    }

    fn save(configs: &ProviderConfigs, config: Value) {
        configs.save(PROVIDER, config.as_object().unwrap()).unwrap();
    }

    fn table(configs: &Arc<ProviderConfigs>) -> Option<PriceTable> {
        match database_loader(configs.clone(), false)() {
            ConfiguredPrices::Current(table) => table,
            ConfiguredPrices::Stale(_) => panic!("it is stale"),
        }
    }

    #[test]
    fn the_prices_are_hardware_info_of_replicate_unless_it_is_empty_or_not_an_object() {
        let (_folder, configs) = configs();
        assert_eq!(table(&configs), None);
        for without in [
            json!({}),
            json!({"hardware_info": {}}),
            json!({"hardware_info": null}),
            json!({"hardware_info": [1]}),
        ] {
            save(&configs, without);
            assert_eq!(table(&configs), None);
        }
        save(
            &configs,
            json!({"hardware_info": {"gpu": {"name": "G", "cost_per_second": 2, "memory": 48}}}),
        );
        let price = &table(&configs).unwrap()["gpu"];
        assert_eq!((price.name.as_str(), price.cost_per_second), ("G", 2.0));
    }

    #[test]
    fn an_invalid_entry_is_left_out_and_the_others_stay() {
        let good = json!({"name": "G", "cost_per_second": 1.5});
        let config = json!({"hardware_info": {
            "good": good,
            "negative": {"name": "N", "cost_per_second": -1},
            "text": {"name": "N", "cost_per_second": "1"},
            "nameless": {"name": "", "cost_per_second": 1},
            "number": 7,
            "all": good,
            "a/b": good,
        }});
        let (table, warnings) = prices_in(config.as_object().unwrap());
        assert_eq!(table.unwrap().into_keys().collect::<Vec<_>>(), ["good"]);
        assert_eq!(warnings.len(), 6, "{warnings:?}");
    }

    #[test]
    fn a_saved_price_is_added_to_the_configured_ones_or_to_the_defaults() {
        let (_folder, configs) = configs();
        let price = |cost_per_second| Price {
            name: "N".into(),
            cost_per_second,
        };
        save_price(&configs, "gpu", &price(1.0)).unwrap();
        assert_eq!(table(&configs).unwrap().len(), 3);
        save(
            &configs,
            json!({"webhook_url": "u", "hardware_info": {"bad": 7, "gpu": {"name": "G", "memory": 48}}}),
        );
        save_price(&configs, "gpu", &price(2.5)).unwrap();
        let config = configs.get(PROVIDER).unwrap();
        assert_eq!(
            json!(config.object()),
            json!({"webhook_url": "u", "hardware_info": {"bad": 7, "gpu": {"name": "N", "memory": 48, "cost_per_second": 2.5}}})
        );
        save(&configs, json!({"hardware_info": "text"}));
        for (id, price) in [
            ("gpu", price(1.0)),
            ("a/b", price(1.0)),
            ("gpu", price(-1.0)),
        ] {
            assert_eq!(
                save_price(&configs, id, &price).unwrap_err().errno(),
                libc::EINVAL
            );
        }
        assert_eq!(
            json!(configs.get(PROVIDER).unwrap().object()),
            json!({"hardware_info": "text"})
        );
    }

    #[test]
    fn a_database_that_cannot_be_read_leaves_the_last_prices() {
        let (folder, configs) = configs();
        save_price(
            &configs,
            "gpu",
            &Price {
                name: "G".into(),
                cost_per_second: 3.0,
            },
        )
        .unwrap();
        let configured = database_loader(configs.clone(), false);
        assert!(matches!(configured(), ConfiguredPrices::Current(Some(table)) if table.len() == 3));
        let database = folder.path().join("cloud/jobs.db");
        for left in ["jobs.db-wal", "jobs.db-shm"] {
            let _ = std::fs::remove_file(database.with_file_name(left));
        }
        std::fs::write(&database, "this is no database, whatever it is called").unwrap();
        configs.invalidate(None);
        assert!(matches!(configured(), ConfiguredPrices::Stale(Some(table)) if table.len() == 3));
        assert!(matches!(
            database_loader(configs, true)(),
            ConfiguredPrices::Stale(None)
        ));
    }
}
