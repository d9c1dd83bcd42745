//! What else is encrypted with the credential key: a command that replaces the key must not leave it behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Outcome;
use super::failure::{Failure, warn};
use crate::manager::key_source;
use crate::mount;
use crate::provider::values_under_key;
use crate::settings::Settings;
use crate::settings::paths::{ADOPTED_NAMES, DEFAULT_NAMES, without_links};
use crate::simpletuner_db;
use crate::text::counted;

/// Refuses to leave values without their key: those of secrets files, and in SimpleTuner's own database, that are not among the
/// files that the command replaces. `before`: the settings in force before it, if they may be others. `otherwise`: what the user may do
/// instead.
pub(super) fn refuse_others(
    settings: &Settings,
    before: Option<&Settings>,
    replaced: &[&Path],
    otherwise: &str,
) -> Outcome {
    let key = key_source(settings);
    // A key that is not usable decrypts nothing, so nothing loses it.
    let Ok(cipher) = key.cipher() else {
        return Ok(());
    };
    // What is under the key beside, of a rotation or a restore that was interrupted, keeps it.
    let cipher = cipher.without_key_beside();
    let mut failures = Vec::new();
    let replaced: Vec<PathBuf> = replaced.iter().map(|path| without_links(path)).collect();
    let is_kept = |path: &Path| !replaced.contains(&without_links(path));
    let mut all = stores(settings)?;
    let before = before.and_then(|before| before.file_path.as_deref());
    all.extend(before.map(without_links));
    for file in all.into_iter().filter(|file| is_kept(file)) {
        let count = values_under_key(&cipher, &file).unwrap_or_default();
        if count > 0 {
            let (values, file) = (counted(count as u64, "value"), file.display());
            let their = their(count);
            failures.push(Failure::with_hint(
                format!("{values} of the secrets file {file} would lose {their} key; nothing has changed"),
                format!(
                    "remove {file} if nobody needs it; else make it plain first: `simpletuner-live --config FILE decrypt-file`, with \
                     settings whose file_path is {file}, and encrypt it again at the end: `encrypt-file`{otherwise}"
                ),
            ));
        }
    }
    let databases = simpletuner_db::credentials_under(settings, &cipher).unwrap_or_else(|error| {
        warn(&format!(
            "{error}; so it is not known whether SimpleTuner has credentials in it under this key, which need the old one"
        ));
        Vec::new()
    });
    for (database, count) in databases.into_iter().filter(|(path, _)| is_kept(path)) {
        let (credentials, their) = (counted(count as u64, "credential"), their(count));
        failures.push(Failure::with_hint(
            format!(
                "{credentials} in SimpleTuner's database {} would lose {their} key; nothing has changed",
                database.display()
            ),
            "this program does not write them: remove them in SimpleTuner, and enter them there again at the end",
        ));
    }
    Failure::of_all(failures)
}

fn their(count: usize) -> &'static str {
    if count == 1 { "its" } else { "their" }
}

/// Secrets files that may have values under the same key: those of the settings and of the mounts that run, and the usual names.
fn stores(settings: &Settings) -> Outcome<BTreeSet<PathBuf>> {
    let mounts = mount::running_mounts(&mount::resolve(&settings.home))?;
    let mounts = mounts.into_iter().filter_map(|mount| mount.answer);
    let mut stores: BTreeSet<PathBuf> = mounts.map(|answer| without_links(&answer.store)).collect();
    let usual = DEFAULT_NAMES.iter().chain(&ADOPTED_NAMES);
    let usual = usual.map(|name| settings.base_dir.join(name));
    // A link of `adopt` leads into the mount, and hence to the same file.
    let is_file =
        |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    stores.extend(usual.filter(is_file).map(|path| without_links(&path)));
    stores.extend(settings.file_path.as_deref().map(without_links));
    Ok(stores)
}
