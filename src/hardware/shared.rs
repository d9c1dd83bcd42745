//! The prices of the whole process, with the default settings: the same three functions as in SimpleTuner.

use std::sync::Arc;

use super::{Hardware, PriceTable};
use crate::error::Result;
use crate::simpletuner_db::ProviderConfigs;
use crate::sync::Mutex;

/// The prices with the default settings, one instance for the whole process.
///
/// # Errors
/// [`Error::Settings`](crate::error::Error::Settings); the next call tries again.
pub fn global() -> Result<Arc<Hardware>> {
    static GLOBAL: Mutex<Option<Arc<Hardware>>> = Mutex::new(None);
    let mut global = GLOBAL.lock();
    match &*global {
        Some(hardware) => Ok(hardware.clone()),
        None => {
            let hardware = Hardware::with_configs(ProviderConfigs::global()?);
            Ok(global.insert(Arc::new(hardware)).clone())
        }
    }
}

/// All current prices.
///
/// # Errors
/// As for [`global`].
pub fn hardware_info() -> Result<Arc<PriceTable>> {
    Ok(global()?.table())
}

/// Overrides the whole table, until [`clear_hardware_info_cache`].
///
/// # Errors
/// As for [`global`], and [`Error::Malformed`](crate::error::Error::Malformed) for an invalid id or price.
pub fn set_hardware_info(table: PriceTable) -> Result<()> {
    global()?.replace(table)
}

/// Clears the cache: the next look-up loads the configured prices.
///
/// # Errors
/// As for [`global`].
pub fn clear_hardware_info_cache() -> Result<()> {
    global()?.cache().clear();
    Ok(())
}
