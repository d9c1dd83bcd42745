//! SimpleTuner's secrets, caches and hardware prices: as files in a FUSE mount, at the command line, and in this library.
//!
//! A secret comes from a chain of providers: the environment, an encrypted file, AWS Secrets Manager, HashiCorp Vault. The
//! first provider that has the key wins. Values are cached, and written to the encrypted file in the form that SimpleTuner
//! itself uses.
//!
//! ```no_run
//! use simpletuner_live::manager::SecretsManager;
//!
//! # fn main() -> simpletuner_live::error::Result<()> {
//! let secrets = SecretsManager::open()?; // the user's own settings and files
//! secrets.set("HF_TOKEN", "hf_0123456789")?;
//! assert_eq!(secrets.get("HF_TOKEN")?.as_str(), "hf_0123456789");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to begin
//!
//! | to | see |
//! | --- | --- |
//! | read and write secrets | [`SecretsManager`](manager::SecretsManager) |
//! | add a source of secrets | [`KeyedSource`](provider::KeyedSource), which answers key by key; [`Backend`](provider::backend::Backend), which fetches one document |
//! | cache values | [`TtlCache`](cache::TtlCache) |
//! | cache the results of a function | [`cached!`] |
//! | look up and set prices | [`hardware`] |
//! | read and change the configuration of SimpleTuner's providers | [`ProviderConfigs`](simpletuner_db::ProviderConfigs) |
//! | encrypt and decrypt as SimpleTuner does | [`credential`] |
//! | mount a tree of files from a program | [`mount_tree`](mount::mount_tree) |
//!
//! The folder `examples` has programs to copy. The README and `docs/guide.md` explain the mount and the command line, and
//! SEMANTICS.md has the rules that the mounted files keep.
//!
//! # The map of the modules
//!
//! From the top down: a module uses only those below it. `docs/architecture.md` follows a read, a write and a killed server
//! through them.
//! - `cli`: the command line, one file for each command: parses, asks, prints
//! - [`doctor`]: checks of all that a mount needs, each with the command that mends it
//! - [`mount`]: keeper and server: how the mount outlives each of them; start, unmount, upgrade, the systemd unit
//! - `serve`: the sockets on which other programs ask for views: the volume plugin of Docker and Podman
//! - `fuse`: turns the calls of the FUSE binding into the tree's, and errors into errnos; parks requests that wait
//! - [`live`]: the tree of files: names, opens, writers' buffers, commits, scratch files, bundles, events
//! - [`backup`]: everything that is kept, as one encrypted archive; puts it back
//! - [`views`]: what other users may read: definitions, and a read-only tree of files over them
//! - [`versions`]: inode numbers and what they hold, the kernel's names, the journal; knows neither secrets nor FUSE
//! - [`adopt`]: moves the store aside, so that SimpleTuner reads its own file through the mount
//! - [`manager`]: [`SecretsManager`](manager::SecretsManager): the snapshot of all providers' views, reads
//!   through the chain, writes
//! - [`hardware`]: prices: defaults, configured prices, overrides
//! - [`simpletuner_db`]: the configuration of SimpleTuner's providers, in SimpleTuner's database
//! - [`audit`]: the two audit trails: who changed what, who read what
//! - [`provider`]: the providers of the chain: environment, file, AWS, Vault, programs; each gives views that never change
//! - [`bundle`]: all secrets as one document: rendered, parsed, merged
//! - `launch`: runs a program in this process's place, or starts it anew when its variables change
//! - `child`: runs a program of the user's, bounded in time and size
//! - `sqlite`: connections to databases that SimpleTuner uses at the same time
//! - [`settings`]: flags, environment, `live.yaml`, defaults: one row of a table for each setting; the paths of all files
//! - [`credential`]: key sources, PBKDF2 and Fernet
//! - [`secret`]: names and values of secrets
//! - [`process`]: what `/proc` says of processes and mounts; the heartbeat page; [`users`], the system's user database
//! - [`logging`]: log output: standard error, or the daemon's log file
//! - [`cache`]: [`TtlCache`](cache::TtlCache), the named caches, and [`cached!`]: function results
//! - [`metrics`]: counters, and their text for Prometheus
//! - `yaml`: YAML as PyYAML reads it, with the byte offsets of its entries
//! - `files`: opens files, and only those that this user or root can have put where they are
//! - `text`: bytes of files as text: byte order marks, UTF-16, files that another program has encrypted; hidden characters; words of a shell
//! - [`error`]: every error, and its errno
//! - [`clock`]: the clock by which things expire, which cannot be set
//! - `sync`: locks that are never poisoned, and threads; in the tests with shuttle, those of shuttle
//!
#![doc = include_str!("calls.md")]
#![warn(missing_docs)]

pub mod adopt;
pub mod audit;
pub mod backup;
pub mod bundle;
pub mod cache;
mod child;
pub mod cli;
pub mod clock;
pub mod credential;
pub mod doctor;
pub mod error;
mod files;
mod fuse;
pub mod hardware;
mod launch;
pub mod live;
pub mod logging;
pub mod manager;
pub mod metrics;
pub mod mount;
pub mod process;
pub mod provider;
pub mod secret;
mod serve;
pub mod settings;
pub mod simpletuner_db;
mod sqlite;
mod sync;
mod text;
pub mod versions;
pub mod views;
mod yaml;

pub use process::users;

/// Has the examples in Rust of the guide compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
struct Guide;
