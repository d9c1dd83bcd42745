//! SimpleTuner: where its state is, whether its database can be read, whether it can read the secrets, and whether the audit trails are
//! whole.

use std::fs;
use std::path::{Path, PathBuf};

use super::access::{Owned, set_aside};
use super::files::{audit_key, store_path};
use super::store::is_simpletuners;
use super::{Finding, Subject};
use crate::audit::{AuditOptions, Chain};
use crate::provider::file::{Stored, read_document};
use crate::settings::Settings;
use crate::simpletuner_db::ProviderConfigs;
use crate::text::{counted, shell_path};

/// A trail that is larger takes longer than the other checks together.
const MAX_TRAIL: u64 = 128 * 1024 * 1024;

pub(super) fn state(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![database(subject, settings)];
    findings.extend(secrets(subject, settings));
    findings
}

/// What SQLite says if it is the disk that fails, and the database may be whole.
const DISK_ERRORS: [&str; 2] = ["disk I/O error", "the disk is full"];

fn database(subject: &Subject, settings: &Settings) -> Finding {
    let folder = &settings.state_dir;
    let how = match &settings.named_state_dir {
        Some(_) => "as SIMPLETUNER_STATE_DIR or SIMPLETUNER_CONFIG_DIR says",
        None => "where SimpleTuner looks for it",
    };
    let configs = ProviderConfigs::at(folder.join("cloud/jobs.db"));
    let (path, word) = (configs.path().display(), shell_path(configs.path()));
    if !configs.path().exists() {
        return match &settings.named_state_dir {
            Some(_) if !folder.is_dir() => Finding::warning(format!(
                "the state folder {} does not exist, which SIMPLETUNER_STATE_DIR or SIMPLETUNER_CONFIG_DIR names",
                folder.display()
            ))
            .mended_by(format!("mkdir -p -m 700 {}", shell_path(folder))),
            _ => Finding::ok(format!(
                "its state is in {} ({how}); it has no database there yet",
                folder.display()
            )),
        };
    }
    match configs.list() {
        Ok(names) => Finding::ok(format!(
            "{path} ({how}) has the configuration of {}",
            counted(names.len() as u64, "provider")
        )),
        Err(error) => {
            let fix = Owned::file(configs.path()).mending();
            let restore = || {
                format!(
                    "{}    # or look at what is readable: sqlite3 {word}.away .recover",
                    replaced(subject, configs.path(), "database")
                )
            };
            let why = error.to_string();
            let fix = fix.or_else(|| is_damaged(&why).then(restore));
            with_fix(Finding::failed(why), fix)
        }
    }
}

/// Whether a database that cannot be read is damaged. On a full disk it is whole.
fn is_damaged(why: &str) -> bool {
    !DISK_ERRORS.iter().any(|error| why.contains(error))
}

fn with_fix(finding: Finding, fix: Option<String>) -> Finding {
    match fix {
        Some(fix) => finding.mended_by(fix),
        None => finding,
    }
}

/// The command that puts a database aside, with the files that SQLite keeps beside it, and brings back that of a backup.
fn replaced(subject: &Subject, database: &Path, part: &str) -> String {
    let beside = ["", "-wal", "-shm"].map(|end| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    });
    let there = beside.iter().filter(|path| path.exists());
    let mut commands: Vec<String> = there.map(|path| set_aside(path)).collect();
    commands.push(subject.command(&format!("restore FILE --only {part} --force")));
    commands.join(" && ")
}

/// Whether SimpleTuner can read the secrets.
fn secrets(subject: &Subject, settings: &Settings) -> Option<Finding> {
    if let Some(link) = Settings::link_to_mount(subject.flags()) {
        let link = link.display();
        return Some(match subject.mount().answers() {
            true => Finding::ok(format!("SimpleTuner reads {link} through this mount")),
            false => Finding::failed(format!(
                "SimpleTuner reads {link} through this mount, so it finds no secrets until it is mounted"
            ))
            .mended_by(subject.mount_command("mount")),
        });
    }
    if !is_simpletuners(settings) {
        return None;
    }
    let store = store_path(settings);
    let (document, _) = read_document(&store).ok()??;
    let all = document.names().filter_map(|name| document.get(name));
    let is_plain = |stored: &&Stored| matches!(stored, Stored::Plain(_));
    let (plain, encrypted): (Vec<&Stored>, Vec<&Stored>) = all.partition(is_plain);
    let (store, adopt) = (store.display(), subject.command("adopt"));
    let finding = match (encrypted.len(), plain.len()) {
        (0, 0) => return None,
        (0, plain) => Finding::warning(format!(
            "SimpleTuner reads {store} itself, so {} in plain text there; adopt encrypts, and SimpleTuner then reads through \
             the mount",
            match plain {
                1 => "1 value is".to_owned(),
                plain => format!("{plain} values are"),
            }
        )),
        (encrypted, _) => {
            let said = format!(
                "SimpleTuner reads {store} itself, and cannot decrypt {} in it; adopt lets it read through the mount",
                counted(encrypted as u64, "encrypted value")
            );
            // Nobody may use SimpleTuner here.
            match settings.state_dir.join("cloud").is_dir() {
                true => Finding::failed(said),
                false => Finding::warning(said),
            }
        }
    };
    Some(finding.mended_by(adopt))
}

pub(super) fn audit(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    let trail = AuditOptions::from_settings(settings);
    let chains = [trail.change_chain(), trail.read_chain()];
    let sizes = chains.each_ref().map(|chain| {
        let found = fs::metadata(chain.path());
        found.map_or(0, |found| found.len())
    });
    let verify = subject.command("audit verify");
    match sizes {
        [0, 0] => return vec![Finding::skipped("there are no audit trails yet")],
        sizes if sizes.iter().any(|size| *size > MAX_TRAIL) => {
            let large = "a trail is too large to be verified in a moment";
            return vec![Finding::skipped(large).mended_by(verify)];
        }
        _ => {}
    }
    let key = match trail.signing_key_source().key() {
        Ok(key) => key,
        Err(error) => {
            let fix = Owned::secret(audit_key(settings)).mending();
            let why = error.to_string();
            let finding = Finding::failed(&why);
            let restore = || subject.command("restore FILE --only trails --force");
            return vec![match fix {
                Some(fix) => finding.mended_by(fix),
                None => finding.mended_as(&why, restore()),
            }];
        }
    };
    let verified = match Chain::verify_both(chains.each_ref(), &key) {
        Ok(verified) => verified,
        Err(error) => {
            let why = error.to_string();
            let is_named = |chain: &&Chain| why.contains(&*chain.path().to_string_lossy());
            let named = chains.iter().find(is_named).map(Chain::path);
            let mending = |path: &Path| {
                let fix = Owned::file(path).mending();
                fix.or_else(|| is_damaged(&why).then(|| replaced(subject, path, "trails")))
            };
            let fix = named.and_then(mending);
            return vec![with_fix(Finding::failed(why), fix)];
        }
    };
    let mut findings = Vec::new();
    let mut whole = Vec::new();
    for (chain, verified) in chains.iter().zip(verified) {
        let shown = chain.path().display();
        match verified {
            None => {}
            Some(verified) => match verified.broken {
                None => whole.push(format!("{shown} ({})", counted(verified.rows, "row"))),
                Some(broken) => findings.push(
                    Finding::failed(format!(
                        "{shown} is broken at row {}: {}; what stands before it proves nothing, so compare with a backup",
                        broken.id, broken.reason
                    ))
                    .mended_by(replaced(subject, chain.path(), "trails")),
                ),
            },
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("whole: {}", whole.join(", "))));
    }
    findings
}
