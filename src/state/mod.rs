//! SimpleTuner's own databases: the configuration of its providers, and the audit trail. Both programs use them at the same time. Knows no
//! mount, and no table that is not named here.
//!
//! ```no_run
//! use serde_json::json;
//! use simpletuner_live::state::ProviderConfigs;
//! # fn main() -> simpletuner_live::error::Result<()> {
//! let configs = ProviderConfigs::open()?;
//! configs.update("replicate", |config| {
//!     config.insert("cost_limit_amount".into(), json!(25.0));
//! })?;
//! let config = configs.get("replicate")?;
//! assert_eq!(config.object()["cost_limit_amount"], 25.0);
//! # Ok(())
//! # }
//! ```

pub mod audit;
mod config;
mod database;
mod json;
mod provider_config;
mod time;

pub use config::{MAX_CONFIG, ProviderConfig, check_provider_name};
pub use provider_config::{
    ChangedKeys, Known, ProviderConfigs, invalidate_provider_cache, provider_config_cache,
};
