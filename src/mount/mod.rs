//! The mount itself: its state, the two processes that keep it alive, and its end. Knows no secret.
//!
//! - `keeper`: mounts, holds what must survive a server, starts another server when one ends; `server_process`: the
//!   server's process as the keeper sees it
//! - `server`: answers the kernel, starts another keeper when one ends
//! - `setup`: what both processes do first; `handover`: what they hand over to each other; `channel`: the socket between
//!   them; `poll`: poll(2) with a `Duration`
//! - `device`: `/dev/fuse`
//! - `service`: the service manager, which can keep the mount; `unit`: the systemd unit that configures it
//! - `start`, `unmount`, `upgrade`, `state`: what commands do with a mount; `usage`: which processes still use it
//! - `in_process`: a mount within one process, for tests and for other Rust programs

mod channel;
mod device;
mod handover;
mod in_process;
mod keeper;
mod poll;
mod server;
mod server_process;
mod service;
mod setup;
mod start;
mod state;
mod unit;
mod unmount;
mod upgrade;
mod usage;

pub use crate::fuse::Allocator;
pub use handover::FORMAT;
pub use in_process::{MountedTree, mount_tree};
pub use keeper::{mount_foreground, take_over};
pub use server::serve;
pub use setup::leave_caller;
pub use start::{Mounted, mount_background};
pub use state::{MountState, state};
pub use unit::{Scope, Service, UNIT};
pub use unmount::unmount;
pub use upgrade::{Upgraded, upgrade};

use std::path::Path;

use fuser::SessionACL;

use crate::error::{Error, Result};

/// The message about a mount that belongs to another user.
pub(crate) fn belongs_to_another(mount_point: &Path, uid: u32) -> String {
    let user = crate::users::user_name(uid).unwrap_or_else(|| uid.to_string());
    format!(
        "the mount at {} belongs to another user ({user}); choose another folder",
        mount_point.display()
    )
}

/// Which users fuser serves. Without `allow_root` the kernel itself refuses every user but the one who mounted.
fn acl(allow_root: bool) -> SessionACL {
    match allow_root {
        true => SessionACL::RootAndOwner,
        false => SessionACL::Owner,
    }
}

/// Makes the mount point if it is missing, for its owner only. It must be empty.
fn prepare(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let context = |e| Error::io(dir.display().to_string(), e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(context)?;
    if std::fs::read_dir(dir).map_err(context)?.next().is_some() {
        let dir = dir.display();
        return Err(Error::Settings(format!(
            "{dir} is not empty: a mount would hide what is in it; choose another folder"
        )));
    }
    Ok(())
}
