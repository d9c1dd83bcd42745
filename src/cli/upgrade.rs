//! `upgrade`: changes a running mount to the program now on disk.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;

use super::failure::{Failure, say};
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::mount::{self, MountUpgrade, UpgradeOutcome};
use crate::process::users;
use crate::text::printable;

/// Change a running mount to the program now on disk
///
/// The mount, open files and containers that use it stay; readers wait for some milliseconds at most. The new program is
/// started first: if it cannot start, the old one keeps running, and the command prints why.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  cargo install --path . && simpletuner-live upgrade
  simpletuner-live upgrade /run/secrets-live
  sudo simpletuner-live upgrade --all           # every user's mounts that run this program"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Upgrade all your mounts that run this program; as root, every user's
    #[arg(long, conflicts_with = "dir")]
    all: bool,
    /// Upgrade even on a kernel older than 6.9, where requests in flight fail
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if args.all {
        return run_all(args.force, args.json);
    }
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

/// Upgrades every mount that this caller may. Those of another user are upgraded by a process of that user, whose words are
/// not trusted.
fn run_all(force: bool, json: bool) -> Outcome {
    let program = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let mut all = mount::upgrade_all(&program, force)?;
    let mut failures = Vec::new();
    if rustix::process::geteuid().is_root() {
        for user in mount::others_with_mounts()? {
            match mount::upgrade_as(user, &program, force) {
                Ok(mounts) => all.extend(
                    mounts
                        .into_iter()
                        .map(|mount| MountUpgrade { user, ..mount }),
                ),
                Err(error) => failures.push(Failure::new(format!(
                    "the mounts of {} go on with the old program: {error}",
                    users::display_name(user)
                ))),
            }
        }
    }
    if json {
        output::json(&all)?;
    } else if all.is_empty() && failures.is_empty() {
        say("note", &format!("no mount runs {}", program.display()));
    }
    for mount in &all {
        match one_of_all(mount, &program) {
            Err(failure) => failures.push(failure),
            Ok(_) if json => {}
            Ok(said) => output::line(&said)?,
        }
    }
    Failure::of_all(failures)
}

/// The line about one mount, or why it was not upgraded.
fn one_of_all(mount: &MountUpgrade, program: &Path) -> Outcome<String> {
    let point = printable(&mount.mount_point.display().to_string());
    let whose = format!("{point} of {}", users::display_name(mount.user));
    let text = |text: &Option<String>| printable(text.as_deref().unwrap_or("?"));
    match mount.outcome {
        UpgradeOutcome::Upgraded => Ok(format!("{whose}: {}", text(&mount.version))),
        UpgradeOutcome::Left => {
            let other = mount.program.as_deref().unwrap_or(program);
            let other = printable(&other.display().to_string());
            Ok(format!("{whose}: left as it is, because it runs {other}"))
        }
        UpgradeOutcome::Failed => Err(Failure::new(format!(
            "{whose} goes on with the old program: {}",
            text(&mount.error)
        ))),
    }
}
