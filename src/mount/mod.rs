//! The mount itself: what lies at a mount point, the two processes that keep it, and its end. Knows no secret.
//!
//! - `keeper`: mounts, holds what must outlive a server, starts another one when it ends; `supervised`: that process;
//!   `process`: what both begin with
//! - `server`: answers the kernel, starts another keeper when that ends
//! - `service`: the service manager that may keep the mount; `unit`: how it is told to
//! - `handover`: what the two tell each other; `device`: `/dev/fuse`
//! - `start`, `unmount`, `upgrade`, `state`: what commands do with a mount; `usage`: who still uses one
//! - `own`: a mount within one process, for tests and for programs of one's own

mod device;
mod handover;
mod keeper;
mod own;
mod process;
mod server;
mod service;
mod start;
mod state;
mod supervised;
mod unit;
mod unmount;
mod upgrade;
mod usage;

pub use crate::fuse::Allocator;
pub use handover::FORMAT;
pub use keeper::{adopt, mount_foreground};
pub use own::{MountedTree, mount_tree};
pub use process::leave_caller;
pub use server::serve;
pub use start::{Mounted, mount_background};
pub use state::{MountState, state};
pub use unit::{Scope, Service, UNIT};
pub use unmount::unmount;
pub use upgrade::{Upgraded, upgrade};

use std::path::Path;

use fuser::SessionACL;

use crate::error::{Error, Result};

/// What to say of a mount that another user has made.
pub(crate) fn of_another(mount_point: &Path, uid: u32) -> String {
    let user = crate::users::user_name(uid).unwrap_or_else(|| uid.to_string());
    format!(
        "the mount at {} belongs to another user ({user}); choose another folder",
        mount_point.display()
    )
}

/// Who is answered. Without `allow_root` the kernel already refuses all but the mounting user.
fn acl(allow_root: bool) -> SessionACL {
    match allow_root {
        true => SessionACL::RootAndOwner,
        false => SessionACL::Owner,
    }
}

/// An empty folder of the user's own.
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
