//! `umount`: ends a mount.

use std::path::PathBuf;

use clap::ValueHint;

use super::failure::Failure;
use super::{Context, Outcome};
use crate::mount::{self, MountState};

/// Unmount, and end the daemon behind it
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live umount
  simpletuner-live umount /run/secrets-live"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let path = mount_point.display();
    match mount::state(&mount_point)? {
        MountState::Ours { .. } => Ok(mount::unmount(&mount_point)?),
        // Root may end any user's mount.
        MountState::OfAnother { .. } if rustix::process::geteuid().is_root() => {
            Ok(mount::unmount(&mount_point)?)
        }
        MountState::OfAnother { uid } => {
            Err(Failure::new(mount::belongs_to_another(&mount_point, uid)))
        }
        MountState::NotMounted => Err(Failure::new(format!("nothing is mounted at {path}"))),
        MountState::Foreign { fstype } => Err(Failure::new(format!(
            "{path} is a {fstype} mount, not one of simpletuner-live; it is left alone"
        ))),
    }
}
