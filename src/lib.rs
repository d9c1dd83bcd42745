//! SimpleTuner's secrets, caches and prices as files.
//!
//! The map, from the top down; an arrow between rooms goes down this list only. `docs/architecture.md` follows a read, a
//! write and a killed server through the rooms.
//! - `cli`: one file per command; prints and parses, decides nothing
//! - [`mount`]: keeper and server: how the mount outlives each of them; start, unmount, upgrade, the systemd unit
//! - `fuse`: fuser's calls turned into the tree's, errors into errnos; requests that wait
//! - [`live`]: the owner's tree: names, opens, writers' buffers, commits, scratch, bundles, events; knows no fuser type
//! - [`versions`]: inode numbers and what they hold, the epoch, the journal; knows neither secrets nor FUSE
//! - [`adopt`]: moves the store aside, so that SimpleTuner reads its own file through the mount
//! - [`manager`]: [`SecretsManager`](manager::SecretsManager): the snapshot of all providers' documents, the cache, fetches
//!   through the chain, writes
//! - [`hardware`]: prices: defaults, configured prices, overrides
//! - [`state`]: SimpleTuner's own databases: the providers' configuration, the audit trail
//! - [`provider`]: the providers of the chain: environment, file, AWS, Vault; each gives views that never change
//! - [`cache`]: [`TtlCache`](cache::TtlCache), the named caches, and [`cached!`]: function results
//! - [`credential`]: key sources, PBKDF2 and Fernet
//! - [`secret`]: names and values of secrets
//! - [`process`]: what `/proc` says of processes
//! - `mountinfo`: the table of mounts
//! - [`logging`]: where warnings go: standard error, or the daemon's log file
//! - [`users`]: the system's user database
//! - [`settings`]: flags, environment, `live.yaml`, defaults, and where things lie
//! - [`error`]: what can go wrong, and its errno
//!
#![doc = include_str!("calls.md")]
#![warn(missing_docs)]

pub mod adopt;
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
mod mountinfo;
pub mod process;
pub mod provider;
pub mod secret;
pub mod settings;
pub mod state;
pub mod users;
pub mod versions;
