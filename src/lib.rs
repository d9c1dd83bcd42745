//! SimpleTuner's secrets, caches and prices as files.
//!
//! The map, from the top down; an arrow between rooms goes down this list only:
//! - `cli`: one file per command; prints and parses, decides nothing
//! - [`mount`]: keeper and server: how the mount outlives each of them; start, unmount, upgrade, the systemd unit
//! - `fuse`: fuser's calls turned into the tree's, errors into errnos
//! - [`live`]: the owner's tree: files, writes, scratch, bundles, events; knows no fuser type
//! - [`versions`]: what it stands on: inode numbers and what they hold, epochs, the journal
//! - [`adopt`]: moves the store aside, so that SimpleTuner reads its own file through the mount
//! - [`manager`]: [`SecretsManager`](manager::SecretsManager): the chain, its cache, writes
//! - [`hardware`]: prices: defaults, configured, set
//! - [`state`]: SimpleTuner's own databases: the providers' configuration, the audit trail
//! - [`provider`]: the links of the chain: environment, file, AWS, Vault
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
