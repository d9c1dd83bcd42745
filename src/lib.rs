//! SimpleTuner's secrets, caches and prices as files.
//!
//! The map, from the top down; an arrow between rooms goes down this list only. `docs/architecture.md` follows a read, a
//! write and a killed server through the rooms.
//! - `cli`: one file per command: parses, asks, prints
//! - [`mount`]: keeper and server: how the mount outlives each of them; start, unmount, upgrade, the systemd unit
//! - `fuse`: fuser's calls turned into the tree's, errors into errnos; requests that wait
//! - [`live`]: the owner's tree: names, opens, writers' buffers, commits, scratch, bundles, events; knows no fuser type
//! - [`versions`]: inode numbers and what they hold, the epoch, the journal; knows neither secrets nor FUSE
//! - [`adopt`]: moves the store aside, so that SimpleTuner reads its own file through the mount
//! - [`manager`]: [`SecretsManager`](manager::SecretsManager): the snapshot of all providers' documents, the cache, fetches
//!   through the chain, writes
//! - [`hardware`]: prices: defaults, configured prices, overrides
//! - [`simpletuner_db`]: the configuration of SimpleTuner's providers, in SimpleTuner's database
//! - [`audit`]: the two audit trails: who changed what, who read what
//! - [`provider`]: the links of the chain: environment, file, AWS, Vault; each gives views that never change
//! - `sqlite`: connections to databases that SimpleTuner uses at the same time
//! - [`settings`]: flags, environment, `live.yaml`, defaults: one row of a table for each setting; the paths of all files
//! - [`credential`]: key sources, PBKDF2 and Fernet
//! - [`secret`]: names and values of secrets
//! - [`process`]: what `/proc` says of processes and mounts; the heartbeat page; [`users`], the system's user database
//! - [`logging`]: log output: standard error, or the daemon's log file
//! - [`cache`]: [`TtlCache`](cache::TtlCache), the named caches, and [`cached!`]: function results
//! - [`error`]: every error, and its errno
//!
#![doc = include_str!("calls.md")]
#![warn(missing_docs)]

pub mod adopt;
pub mod audit;
pub mod cache;
pub mod cli;
pub mod credential;
pub mod error;
mod fuse;
pub mod hardware;
pub mod live;
pub mod logging;
pub mod manager;
pub mod mount;
pub mod process;
pub mod provider;
pub mod secret;
pub mod settings;
pub mod simpletuner_db;
mod sqlite;
pub mod versions;

pub use process::users;
