//! The configuration of SimpleTuner's providers, in SimpleTuner's own database. Both programs use it at the same time.
//! Knows no mount.
//!
//! ```no_run
//! use serde_json::json;
//! use simpletuner_live::simpletuner_db::ProviderConfigs;
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

mod config;
mod credentials;
mod json;
mod provider_configs;

pub use crate::audit::ChangedKeys;
pub(crate) use crate::sqlite::BUSY_TIMEOUT;
pub use config::{MAX_CONFIG, ProviderConfig, check_provider_name};
pub(crate) use credentials::credentials_under;
pub(crate) use provider_configs::database_of;
pub use provider_configs::{
    ProviderConfigs, TryGet, invalidate_provider_cache, provider_config_cache,
};
