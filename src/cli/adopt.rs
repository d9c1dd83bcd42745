//! `adopt`: replaces SimpleTuner's own secrets file with a link into the mount, and sees to it that the mounts that run follow.

use std::path::Path;
use std::time::{Duration, Instant};

use super::failure::{Failure, say, warn};
use super::mount_client::MountClient;
use super::question::confirm;
use super::{Context, Outcome, output, same_store};
use crate::adopt::{self, Report};
use crate::error::Error;
use crate::mount::{self, RunningMount};
use crate::settings::Settings;
use crate::settings::paths::without_links;
use crate::text::counted;

/// How long a mount may take to notice that the secrets are in another file.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Let an unmodified SimpleTuner read and write its secrets through the mount
///
/// Moves ~/.simpletuner/secrets.json to ~/.simpletuner/store.json, encrypts it, names it in live.yaml, and puts a
/// symbolic link to the mount's bundle/secrets.json in its place. Mounts that run use the new file at once. A second run
/// finishes one that was interrupted. Without a mount, SimpleTuner finds no secrets.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live adopt && simpletuner-live mount
  simpletuner-live adopt --undo --yes"
)]
pub(super) struct Args {
    /// Put the file back, its values in plain text, as SimpleTuner needs them
    #[arg(long)]
    undo: bool,
    /// Do not ask before encrypted values become plain text
    #[arg(long, requires = "undo")]
    yes: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let settings = context.settings()?;
    let mounts = mount::running_mounts(&mount::resolve(&settings.home))?;
    same_store::refuse_moved(&mounts, &settings)?;
    let report = match args.undo {
        true => {
            let values = adopt::encrypted_values(&settings)?;
            if values > 0 {
                let secrets = counted(values as u64, "encrypted secret");
                let base = settings.base_dir.display();
                confirm(
                    &format!("this writes {secrets} in plain text below {base}"),
                    args.yes,
                )?;
            }
            adopt::undo(&settings).map_err(explain_undo)?
        }
        false => adopt::adopt(&settings)?,
    };
    output::write(report.to_string().as_bytes())?;
    let mut all_follow = true;
    for mount in &mounts {
        all_follow &= follow(mount, &settings, &report)?;
    }
    report.forget_before();
    if report.is_adopted {
        warn_if_not_mounted(&mounts, &settings);
    }
    match all_follow {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

fn explain_undo(error: Error) -> Failure {
    match error {
        Error::CannotDecrypt { name, .. } => Failure::with_hint(
            format!("{name} cannot be decrypted, so nothing has changed"),
            format!(
                "bring the credential key back that it was encrypted with, or type `simpletuner-live rm {name}`, and then this \
                 command again"
            ),
        ),
        other => other.into(),
    }
}

/// Has a mount take over the settings file if it had that of before, and waits until it uses the file with the secrets. Returns
/// whether all is well.
fn follow(before: &RunningMount, settings: &Settings, report: &Report) -> Outcome<bool> {
    let point = before.mount_point.display();
    let Some(answer) = &before.answer else {
        // Which store one elsewhere uses is not known. Each notices the change by itself once it goes on.
        if before.mount_point == mount::resolve(&settings.mount_point) {
            warn(&format!(
                "the mount at {point} does not answer; once it does, it uses this file, too"
            ));
        }
        return Ok(true);
    };
    let (now, stores) = (
        without_links(&report.store),
        [&report.store, &report.before].map(|store| without_links(store)),
    );
    let uses_them = stores.contains(&without_links(&answer.store));
    if !uses_them {
        return Ok(true);
    }
    let is_ours = without_links(&answer.settings_file) == without_links(&settings.config_file);
    let reload = mount::command_for("reload", &before.mount_point);
    let now_changed = || {
        let now = RunningMount::at(&before.mount_point).answer;
        now.is_some_and(|now| now.settings_changed)
    };
    if is_ours && now_changed() {
        let failed = match answer.settings_changed {
            // The user may not want the rest of the change yet.
            true => Some("live.yaml had been changed before".to_owned()),
            false => reload_settings(&before.mount_point)
                .err()
                .map(|failure| failure.message()),
        };
        if let Some(why) = failed {
            say(
                "note",
                &format!(
                    "{why}: the mount at {point} goes on with its settings of before; {reload} has it read live.yaml"
                ),
            );
        }
    }
    let begun = Instant::now();
    loop {
        let store = RunningMount::at(&before.mount_point)
            .answer
            .map(|answer| answer.store);
        if store.is_some_and(|store| without_links(&store) == now) {
            output::line(&format!("the mount at {point} uses it"))?;
            return Ok(true);
        }
        if begun.elapsed() > NOTICE_TIMEOUT {
            warn(&format!(
                "the mount at {point} does not use {} yet; {reload} has it do so, and until then, write nothing there",
                report.store.display()
            ));
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn reload_settings(mount_point: &Path) -> Outcome {
    let client = MountClient::require(mount_point)?;
    let write = |file: &str, request: &[u8]| client.write_control(file, request);
    mount::reload(mount_point, None, false, write)
}

fn warn_if_not_mounted(mounts: &[RunningMount], settings: &Settings) {
    let here = mount::resolve(&settings.mount_point);
    if !mounts.iter().any(|mount| mount.mount_point == here) {
        warn(&format!(
            "nothing is mounted at {}, so SimpleTuner finds no secrets; {} mounts it",
            here.display(),
            mount::command_for("mount", &here)
        ));
    }
}
