//! The prices that are one for the whole process, by the default settings: SimpleTuner's own three functions.

use std::sync::{Arc, Mutex};

use super::{Hardware, PriceTable};
use crate::error::Result;
use crate::simpletuner_db::ProviderConfigs;

/// The prices of the default settings, one for the whole process.
///
/// # Errors
/// [`Error::Settings`](crate::error::Error::Settings); the next call tries again.
pub fn global() -> Result<Arc<Hardware>> {
    static GLOBAL: Mutex<Option<Arc<Hardware>>> = Mutex::new(None);
    let mut global = GLOBAL.lock().unwrap_or_else(|e| e.into_inner());
    match &*global {
        Some(hardware) => Ok(hardware.clone()),
        None => {
            let hardware = Hardware::over(ProviderConfigs::global()?);
            Ok(global.insert(Arc::new(hardware)).clone())
        }
    }
}

/// All prices in force.
///
/// # Errors
/// As for [`global`].
pub fn hardware_info() -> Result<Arc<PriceTable>> {
    Ok(global()?.table())
}

/// Sets the whole table, until [`clear_hardware_info_cache`].
///
/// # Errors
/// As for [`global`], and [`Error::Malformed`](crate::error::Error::Malformed) for an id or a price that is none.
pub fn set_hardware_info(table: PriceTable) -> Result<()> {
    global()?.replace(table)
}

/// Has the next look at the prices load what is configured.
///
/// # Errors
/// As for [`global`].
pub fn clear_hardware_info_cache() -> Result<()> {
    global()?.cache().clear();
    Ok(())
}
