//! `umount`: ends a mount.

use std::path::PathBuf;

use clap::ValueHint;

use super::{Context, Outcome};
use crate::mount::{self, Unmount};

/// Unmount, and end the daemon behind it
///
/// Files that were closed are written first. A process that still has a file or folder of the mount open gets ENOTCONN from
/// then on, here, in bind mounts and in containers; warnings name it. The command takes 5 seconds at most, whatever hangs.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live umount
  simpletuner-live umount /run/secrets-live
  simpletuner-live umount --lazy               # processes that use the mount go on"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Let the processes that use the mount go on: it ends with the last of them
    #[arg(long)]
    lazy: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let how = match args.lazy {
        true => Unmount::Lazily,
        false => Unmount::Now,
    };
    Ok(mount::unmount(&mount_point, how)?)
}
