//! The mount itself: its state, the two processes that keep it alive, and its end. Knows no secret.
//!
//! - `keeper`: mounts, holds what must survive a server, starts another server when one ends; `server_process`: the
//!   server's process as the keeper sees it
//! - `server`: answers the kernel, starts another keeper when one ends; `session`: fuser's session on an inherited device
//! - `views`: the views' mount, which the server makes and the keeper holds, too
//! - `sockets`: the listening sockets, which the server makes and the keeper holds, too
//! - `setup`: what both processes do first; `handover`: what they hand over to each other; `channel`: the socket between
//!   them; `poll`: poll(2) with a `Duration`
//! - `device`: `/dev/fuse`; `fusermount`: the helper by which an ordinary user mounts and unmounts; `mount_point`: the folder
//!   that is mounted on; `trust`: paths that no other user can change
//! - `service`: the service manager, which can keep the mount; `unit`: the systemd unit that configures it
//! - `in_force`: the settings in force; `environment`: the variables that a mount takes over from a command
//! - `start`, `unmount`, `upgrade`, `reload`: what commands do with a mount; `mount_point_state`: what is mounted at a path;
//!   `running`: this user's mounts; `daemon`: the
//!   mount's processes; `usage`: which processes still use it; `connection`: the kernel's side of it; `detach`: takes it out
//!   of the tree
//! - `successor`: the process that becomes the new program's server in an upgrade
//! - `in_process`: a mount within one process, for tests and for other Rust programs

mod channel;
mod connection;
mod daemon;
mod detach;
mod device;
mod environment;
mod fusermount;
mod handover;
mod idle_pages;
mod in_force;
mod in_process;
mod keeper;
mod keeper_link;
mod mount_point;
mod mount_point_state;
mod open_watch;
pub(crate) mod poll;
mod reload;
mod running;
mod server;
mod server_process;
mod service;
mod session;
mod setup;
mod sockets;
mod start;
mod successor;
mod trust;
mod unit;
mod unmount;
mod upgrade;
mod upgrade_all;
mod usage;
mod views;

pub use crate::fuse::Allocator;
pub use environment::Environment;
pub use fusermount::{FusermountState, fusermount_state};
pub use handover::FORMAT;
pub use in_process::{MountedTree, mount_tree};
pub use keeper::{mount_foreground, take_over};
pub use mount_point::make_for;
pub(crate) use mount_point_state::explain_stopped;
pub use mount_point_state::{
    MountPointState, mount_point_state, own_mount_points, resolve, stopped_processes,
};
pub use reload::reload;
pub use running::{RunningMount, running_mounts};
pub use server::serve;
pub use setup::detach_from_caller;
pub use start::{Mounted, mount_background};
pub use successor::become_server;
pub use trust::open_program;
pub use unit::{Scope, Service, UNIT, runtime_folder};
pub use unmount::{BoundViews, Unmount, unmount};
pub use upgrade::{Upgraded, upgrade};
pub use upgrade_all::{MountUpgrade, UpgradeOutcome, others_with_mounts, upgrade_all, upgrade_as};

use std::path::Path;

use fuser::SessionACL;

use crate::settings::{Flags, Settings};
use crate::text::shell_path;

/// The message about a mount that belongs to another user.
pub(crate) fn belongs_to_another(mount_point: &Path, uid: u32) -> String {
    let user = crate::users::display_name(uid);
    format!(
        "the mount at {} belongs to another user ({user})",
        mount_point.display()
    )
}

/// The command to type about the mount there: with its path, unless it is the default one.
pub(crate) fn command_for(command: &str, mount_point: &Path) -> String {
    let default = Settings::mount_point_by(&Flags::default());
    match default.is_ok_and(|default| resolve(&default) == resolve(mount_point)) {
        true => format!("`simpletuner-live {command}`"),
        false => format!("`simpletuner-live {command} {}`", shell_path(mount_point)),
    }
}

/// Which users fuser serves. Without `allow_root` the kernel itself refuses every user but the one who mounted.
fn acl(allow_root: bool) -> SessionACL {
    match allow_root {
        true => SessionACL::RootAndOwner,
        false => SessionACL::Owner,
    }
}
