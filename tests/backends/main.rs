//! AWS Secrets Manager and Vault, by the library and through the mount, against servers of their own kind.

#[path = "../support/servers/mod.rs"]
mod servers;
