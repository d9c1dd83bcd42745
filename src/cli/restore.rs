//! `restore`: puts the files of a backup back in their places.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueHint;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use super::adopt::reload_settings;
use super::failure::{Failure, say, warn};
use super::question::confirm;
use super::{Context, Outcome, output, passphrase, same_store, under_key};
use crate::audit::{Actor, AuditEvent, AuditTrail};
use crate::backup::{self, Checked, Closed, Collected, Manifest, Opened, Part, Plan, State, Step};
use crate::error::{Error, in_words};
use crate::mount::{self, RunningMount};
use crate::settings::Settings;
use crate::settings::paths::without_links;
use crate::text::{counted, printable, shell_path};

/// How long a mount may take to use what was restored.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Put secrets, key, settings, views, SimpleTuner's database and audit trails back from a backup
///
/// First reads all of the backup, checks that every secret in it can be decrypted, and prints what it would change. If a file here
/// differs from the backup, nothing changes without --force. With --force, that file is kept as NAME.before-restore-TIME. At a terminal
/// you are asked first; elsewhere `--yes` is needed. Mounts that run show the secrets at once. The settings in a backup can name programs to
/// run: restore only what you have backed up yourself.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live restore ~/secrets.age --dry-run           # asks for the passphrase
  simpletuner-live restore ~/secrets.age                     # adds what is missing here
  simpletuner-live restore ~/secrets.age --only secrets --force
  ssh nas cat secrets.age | simpletuner-live restore - -i ~/.ssh/id_ed25519 --yes"
)]
pub(super) struct Args {
    /// The backup, or - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// A private key that opens it (of age-keygen, or an SSH key); may be given several times
    #[arg(short, long = "identity", value_name = "FILE", value_hint = ValueHint::FilePath)]
    identities: Vec<PathBuf>,
    /// Read the passphrase from this file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    /// Restore only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = parts())]
    only: Vec<Part>,
    /// Print what would change, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Replace what differs, and keep it beside
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parts() -> impl TypedValueParser<Value = Part> {
    let names = Part::ALL.map(Part::name);
    PossibleValuesParser::new(names).map(|name| {
        let named = Part::ALL.into_iter().find(|part| part.name() == name);
        named.unwrap_or(Part::Secrets)
    })
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let parts = match args.only.is_empty() {
        true => Part::ALL.to_vec(),
        false => args.only.clone(),
    };
    let archive = open(&args)?;
    let flags = context.flags(None)?;
    let settings = backup::settings_after(&flags, &archive, &parts).map_err(|error| {
        let hint = "to keep the settings that are here, name the other parts: --only secrets,views,database,trails";
        match archive.manifest.has(Part::Settings) && parts.contains(&Part::Settings) {
            true => Failure::Hinted(error, hint.to_owned()),
            false => error.into(),
        }
    })?;
    let mounts = mount::running_mounts(&mount::resolve(&settings.home))?;
    same_store::refuse_moved(&mounts, &settings)?;
    let checked = Checked::new(archive, &parts, &settings)?;
    let plan = Plan::new(&checked, &settings)?;
    if !args.json {
        print(&plan, checked.manifest())?;
    }
    warn_of(&plan, checked.manifest(), &settings);
    if plan.replaces_key() {
        let replaced = plan.steps.iter().filter(|step| step.state != State::Same);
        let replaced: Vec<&Path> = replaced.map(|step| step.path.as_path()).collect();
        let otherwise = "; or leave the secrets and their key as they are: --only settings,views,database,trails";
        // Malformed ones name no file.
        let before = context.settings().ok();
        under_key::refuse_others(&settings, before.as_ref(), &replaced, otherwise)?;
    }
    let refused = !args.force && plan.of_state(State::Differs).next().is_some();
    let (is_done, kept) = match args.dry_run || refused || plan.is_empty() {
        true => (false, Vec::new()),
        false => {
            let replaces = plan.of_state(State::Differs).count() as u64;
            let what = match replaces {
                0 => "this puts what is new in its place".to_owned(),
                _ => format!(
                    "this replaces {}, and keeps what is there beside",
                    counted(replaces, "file")
                ),
            };
            confirm(&what, args.yes)?;
            let mut restored = plan.apply(&checked, &settings)?;
            restored.wait_for_watchers();
            follow(&mounts, &plan, &settings);
            record(&plan, checked.manifest(), &settings);
            (true, restored.kept)
        }
    };
    if args.json {
        output::json(&to_json(&plan, checked.manifest(), is_done, &kept))?;
    }
    match (is_done, refused, args.dry_run) {
        (true, ..) => {
            say_done(&plan, &kept);
            Ok(())
        }
        (false, false, _) => {
            if plan.is_empty() {
                say("note", "everything in the backup is here already");
            }
            Ok(())
        }
        (false, true, true) => {
            say("note", "what differs is replaced only with --force");
            Ok(())
        }
        (false, true, false) => {
            let differs = plan.of_state(State::Differs).count() as u64;
            Err(Failure::with_hint(
                match differs {
                    1 => "1 file here differs from the backup, so nothing is restored".to_owned(),
                    _ => format!(
                        "{differs} files here differ from the backup, so nothing is restored"
                    ),
                },
                "--force replaces these files, and keeps each beside the new one; --only chooses parts, such as --only secrets",
            ))
        }
    }
}

/// Reads the whole archive.
fn open(args: &Args) -> Outcome<Collected> {
    let is_stdin = args.file == Path::new("-");
    if is_stdin && io::stdin().is_terminal() {
        return Err(Failure::new(
            "standard input is a terminal, and no backup can be typed; name a file, or pipe one in",
        ));
    }
    let shown = args.file.display();
    let input: Box<dyn BufRead> = match is_stdin {
        true => Box::new(BufReader::new(io::stdin())),
        false => {
            let failed = |error: io::Error| Failure::new(format!("{shown}: {}", in_words(&error)));
            let file = File::open(&args.file).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_dir() {
                return Err(Failure::new(format!(
                    "{shown} is a folder; name a backup in it"
                )));
            }
            Box::new(BufReader::new(file))
        }
    };
    let named = |error: Error| match (error, is_stdin) {
        (Error::Malformed { reason, .. }, false) => {
            Failure::new(format!("{shown} cannot be used: {reason}"))
        }
        (Error::Malformed { reason, .. }, true) => {
            Failure::new(format!("the backup cannot be used: {reason}"))
        }
        (error, _) => error.into(),
    };
    let closed = Closed::read(input).map_err(named)?;
    let with = match (closed.needs_passphrase(), &args.passphrase_file) {
        (true, _) if args.passphrase_file.is_none() && !args.identities.is_empty() => {
            return Err(Failure::with_hint(
                "a passphrase opens this backup, not a key",
                "leave -i out to be asked for it, or name a file with it: --passphrase-file FILE",
            ));
        }
        (true, Some(file)) => Opened::Passphrase(passphrase::read(file)?),
        (true, None) => Opened::Passphrase(passphrase::ask_for_present(!is_stdin)?),
        (false, _) if args.identities.is_empty() => {
            return Err(Failure::with_hint(
                "a private key opens this backup",
                "-i FILE names it: what age-keygen wrote, or ~/.ssh/id_ed25519",
            ));
        }
        (false, _) => Opened::Identities(passphrase::identities(&args.identities)?),
    };
    let stream = closed.open(with).map_err(named)?;
    backup::read(stream).map_err(named)
}

fn print(plan: &Plan, manifest: &Manifest) -> Outcome {
    output::line(&format!(
        "backup of {}, by version {}",
        printable(&manifest.at),
        printable(&manifest.version)
    ))?;
    let rows: Vec<Vec<String>> = plan.steps.iter().map(row).collect();
    output::table(&["STATE", "WHAT", "WHERE", ""], &rows)
}

fn row(step: &Step) -> Vec<String> {
    vec![
        step.state.name().to_owned(),
        step.title().to_owned(),
        step.path.display().to_string(),
        step.detail.clone(),
    ]
}

fn warn_of(plan: &Plan, manifest: &Manifest, settings: &Settings) {
    if !manifest.undecryptable.is_empty() {
        let names = manifest
            .undecryptable
            .iter()
            .take(10)
            .map(|name| printable(name));
        warn(&format!(
            "the key of the backup did not decrypt {} when it was made",
            names.collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(trail) = &plan.kept_trail {
        warn(&format!(
            "the audit trails are not restored: {} is signed with the key here, and the backup has another key, and no trail that takes its \
             place; to restore them, unmount, and move those here away: (cd {} && mkdir away && find . -maxdepth 1 -name '*audit.*' -exec mv -t \
             away {{}} +)",
            trail.display(),
            shell_path(&settings.state_dir),
        ));
    }
    let own = [&settings.base_dir, &settings.state_dir].map(|folder| without_links(folder));
    for step in &plan.steps {
        let is_outside = !own.iter().any(|folder| step.path.starts_with(folder));
        if is_outside && step.state != State::Same {
            warn(&format!(
                "{} is put outside of {}, because the settings say so",
                step.path.display(),
                settings.base_dir.display()
            ));
        }
    }
}

/// Has the mounts that run take over what was restored, and waits until they have.
fn follow(mounts: &[RunningMount], plan: &Plan, settings: &Settings) {
    let changed = |part: Part| {
        plan.steps
            .iter()
            .any(|step| step.part() == part && step.state != State::Same)
    };
    let store = plan.steps.iter().find(|step| step.title() == "the secrets");
    for mount in mounts {
        let point = mount.mount_point.display();
        let Some(answer) = &mount.answer else {
            continue;
        };
        let is_ours = without_links(&answer.settings_file) == without_links(&settings.config_file);
        let reload = mount::command_for("reload", &mount.mount_point);
        if is_ours && changed(Part::Settings) {
            match reload_settings(&mount.mount_point) {
                Ok(()) => say(
                    "note",
                    &format!("the mount at {point} has the restored settings"),
                ),
                Err(failure) => warn(&format!(
                    "{}: the mount at {point} goes on with its settings of before; {reload} has it read live.yaml",
                    failure.message()
                )),
            }
        }
        let Some(store) = store.filter(|_| is_ours) else {
            continue;
        };
        let begun = Instant::now();
        loop {
            let now = RunningMount::at(&mount.mount_point).answer;
            if now.is_some_and(|now| without_links(&now.store) == without_links(&store.path)) {
                break;
            }
            if begun.elapsed() > NOTICE_TIMEOUT {
                warn(&format!(
                    "the mount at {point} does not use {} yet; {reload} has it do so",
                    store.path.display()
                ));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn record(plan: &Plan, manifest: &Manifest, settings: &Settings) {
    let done = plan.steps.iter().filter(|step| step.state != State::Same);
    let files = done.map(|step| step.path.display().to_string()).collect();
    let audit = AuditTrail::from_settings(settings);
    audit.record(
        Actor::this_process(),
        AuditEvent::Restored(manifest.at.clone(), files),
    );
}

fn say_done(plan: &Plan, kept: &[PathBuf]) {
    let done = plan
        .steps
        .iter()
        .filter(|step| step.state != State::Same)
        .count() as u64;
    say("note", &format!("{} restored", counted(done, "file")));
    if let Some(first) = kept.first() {
        let name = first.file_name().unwrap_or_default().to_string_lossy();
        let ending = name.find(".before-restore-").map_or("", |at| &name[at..]);
        say(
            "note",
            &format!(
                "what was there is kept beside, as NAME{ending}; remove these files when nothing is missing"
            ),
        );
    }
    let concerns_simpletuner = |step: &Step| matches!(step.part(), Part::Secrets | Part::Database);
    if plan.of_state(State::Differs).any(concerns_simpletuner) {
        say(
            "note",
            "restart SimpleTuner: one that runs goes on with what it has read",
        );
    }
}

fn to_json(plan: &Plan, manifest: &Manifest, is_done: bool, kept: &[PathBuf]) -> Value {
    let files: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| {
            json!({
                "part": step.part().name(),
                "what": step.title(),
                "path": step.path,
                "state": step.state.name(),
                "detail": step.detail,
            })
        })
        .collect();
    json!({
        "at": manifest.at,
        "version": manifest.version,
        "form": manifest.form,
        "secrets": manifest.secrets,
        "undecryptable": manifest.undecryptable,
        "key": manifest.key,
        "files": files,
        "restored": is_done,
        "kept": kept,
    })
}
