//! Whether a command that uses the secrets file itself uses the one of the mount that runs: else `undo`, say, would set back another
//! secret than the one that `set` has just changed.

use std::path::Path;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::mount_client::MountClient;
use super::{Context, Outcome};
use crate::mount::{self, RunningMount};
use crate::settings::Settings;
use crate::settings::paths::without_links;
use crate::text::shell_path;

/// How long a mount may take to notice that the secrets are in another file.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks the mount at the settings' mount point, and those that have been moved away from there. One that does not answer is not
/// waited for. `store`: the secrets file of the command.
///
/// # Errors
/// It is that of another file.
pub(super) fn require(context: &Context, settings: &Settings, store: &Path) -> Outcome {
    refuse_moved_home(settings)?;
    if MountClient::find(&context.mount_point(None)?)?.is_none() {
        return Ok(());
    }
    let mount_point = mount::resolve(&settings.mount_point);
    let begun = Instant::now();
    loop {
        let Some(answer) = RunningMount::at(&mount_point).answer else {
            return Ok(());
        };
        if without_links(&answer.store) == without_links(store) {
            return Ok(());
        }
        if begun.elapsed() < NOTICE_TIMEOUT {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let is_ours = without_links(&answer.settings_file) == without_links(&settings.config_file);
        let hint = match is_ours {
            true => format!(
                "{} has the mount use that file, too",
                mount::command_for("reload", &mount_point)
            ),
            false => format!(
                "`--config {}` takes the settings of the mount",
                shell_path(&answer.settings_file)
            ),
        };
        return Err(Failure::with_hint(
            format!(
                "the mount at {} shows the secrets of {}, and the settings of this command name {}; nothing has changed",
                mount_point.display(),
                answer.store.display(),
                store.display()
            ),
            hint,
        ));
    }
}

/// Refuses to begin with a new `~/.simpletuner` if a mount is still that of the old one, which was moved away.
///
/// # Errors
/// There is such a mount.
pub(super) fn refuse_moved_home(settings: &Settings) -> Outcome {
    match std::fs::symlink_metadata(&settings.base_dir) {
        Ok(_) => Ok(()),
        Err(_) => refuse_moved(
            &mount::running_mounts(&mount::resolve(&settings.home))?,
            settings,
        ),
    }
}

/// A mount whose folder was moved: the settings name a folder that is not its own any more.
///
/// # Errors
/// One of these mounts is such a one.
pub(super) fn refuse_moved(mounts: &[RunningMount], settings: &Settings) -> Outcome {
    let here = mount::resolve(&settings.mount_point);
    let moved = mounts.iter().find(|mount| {
        let was_here = |at: &Path| mount::resolve(at) == here;
        mount.mount_point != here
            && mount
                .answer
                .as_ref()
                .is_some_and(|answer| was_here(&answer.mounted_at))
    });
    match moved {
        None => Ok(()),
        Some(mount) => Err(Failure::with_hint(
            format!(
                "the mount that was at {} is at {} now, because a folder was renamed; nothing has changed",
                here.display(),
                mount.mount_point.display()
            ),
            format!(
                "give the folder its old name, or type {}",
                mount::command_for("umount", &mount.mount_point)
            ),
        )),
    }
}
