//! The mount itself: what lies at a mount point, the daemon that serves it, and its end. Knows no secret.

mod daemon;
mod own;
mod start;
mod state;
mod unmount;
mod watch;

pub use daemon::mount_foreground;
pub use own::{MountedTree, mount_tree};
pub use start::{Mounted, mount_background};
pub use state::{MountState, state};
pub use unmount::unmount;
