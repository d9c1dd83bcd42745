//! `reload`: has a running mount read its settings anew.

use std::path::PathBuf;

use clap::ValueHint;

use super::failure::{say, warn};
use super::mount_client::MountClient;
use super::{Context, Outcome};
use crate::mount::{self, Environment};

/// Have a running mount read live.yaml anew
///
/// The mount, open files and containers that use it stay; readers wait for some milliseconds at most. If the settings are
/// wrong, the command prints why, and what was in force stays so. A mount goes on with the settings that it was started with
/// until then, even if its server is replaced. Only the next mount takes over another mount point and `allow_root`.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live reload
  AWS_PROFILE=prod simpletuner-live reload --env
  simpletuner-live reload /run/secrets-live"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Take over the variables of this command, too: all of them, instead of those that the mount was started with
    #[arg(long)]
    env: bool,
    /// Reload even on a kernel older than 6.9, where requests in flight fail
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let environment = args.env.then(|| {
        let (environment, left_out) = Environment::of_this_process();
        for name in left_out {
            warn(&format!(
                "the variable {name:?} is left out: it is not UTF-8"
            ));
        }
        environment
    });
    let mount = MountClient::require(&mount_point)?;
    mount::reload(
        &mount_point,
        environment.as_ref(),
        args.force,
        |file, request| mount.write_control(file, request),
    )?;
    say(
        "note",
        match args.env {
            true => "the mount has the settings and the variables of now",
            false => "the mount has the settings of now",
        },
    );
    Ok(())
}
