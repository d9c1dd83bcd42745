//! `upgrade`: changes a running mount to the program now on disk.

use std::path::PathBuf;

use clap::ValueHint;
use serde_json::json;

use super::failure::say;
use super::{Context, Outcome, output};
use crate::mount;

/// Change a running mount to the program now on disk
///
/// The mount, open files and containers that use it stay; readers wait for some milliseconds at most. The new program is
/// started first: if it cannot start, the old one keeps running, and the command prints why.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  cargo install --path . && simpletuner-live upgrade
  simpletuner-live upgrade /run/secrets-live"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Upgrade even on a kernel older than 6.9, where requests in flight fail
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let done = mount::upgrade(&context.mount_point(args.dir.as_deref())?, args.force)?;
    if args.json {
        return output::json(&json!({
            "from": done.from, "to": done.to, "server_pid": done.server_pid, "program": done.program,
        }));
    }
    output::line(&done.to)?;
    let (from, to, program) = (done.from, done.to, done.program);
    if let Ok(own) = std::env::current_exe()
        && own.to_string_lossy() != program
    {
        say(
            "note",
            &format!("the mount runs {program}, not {}", own.display()),
        );
    }
    say(
        "note",
        &format!("{program} serves now ({from} before, {to} now)"),
    );
    Ok(())
}
