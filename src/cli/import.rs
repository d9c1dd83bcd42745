//! `import`: sets the secrets that a file of another program has.

mod store;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;

use super::failure::{Failure, say, warn};
use super::set::surplus;
use super::target::Target;
use super::{Context, Outcome, input, output, question};
use crate::bundle::{Entry, ImportFormat, Refusal, import};
use crate::text::{counted, shell_path};
use store::Change;

/// The most bytes of a file.
const MAX_FILE: usize = 16 * 1024 * 1024;
/// How many flaws of a file are shown.
const MAX_SHOWN: usize = 20;

/// Set the secrets that a file has
///
/// Reads a .env file, JSON (an object of texts) or YAML (a mapping of texts). Prints which secrets are new or would change, and never a value. At a
/// terminal you are asked; elsewhere --yes is needed. All are set in one write, or none if something is wrong with one of
/// them.
///
/// Shells, python-dotenv and Docker read some lines of .env files differently (quotes, escapes, comments). If the file has such a line, --format must
/// say who it was written for. No command in the file is run, and no $NAME is expanded.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live import .env
  simpletuner-live import --format dotenv .env --yes
  simpletuner-live import secrets.json --dry-run --json
  sops -d secrets.yaml | simpletuner-live import - --yes"
)]
pub(super) struct Args {
    /// The file, or - for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// How the file is written; without it the content decides
    #[arg(long)]
    format: Option<ImportFormat>,
    /// Print what would be set, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    let shown = match args.file.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => args.file.display().to_string(),
    };
    let bytes = match args.file.to_str() {
        Some("-") => input::read(&shown, MAX_FILE)?,
        _ => input::read_file(&args.file, &format!("file {shown}"), MAX_FILE)?,
    };
    let entries = import(format_of(&args), &bytes)
        .map_err(|refusal| refused(&args, context, &shown, refusal))?;
    drop(bytes);
    let planned = store::plan(&target, entries)?;
    show(&args, &planned)?;
    let count = planned.iter().filter(|(_, change)| *change != Change::Same);
    let count = count.count() as u64;
    if count == 0 {
        let why = match planned.is_empty() {
            true => "it has no secrets",
            false => "the secrets have these values",
        };
        say("note", &format!("nothing is to be set: {why}"));
        return Ok(());
    }
    if args.dry_run {
        return Ok(());
    }
    question::confirm(&format!("this sets {}", counted(count, "secret")), args.yes)?;
    store::set_all(&target, planned)?;
    say("note", &format!("{} set", counted(count, "secret")));
    note_plain_file(&args.file);
    Ok(())
}

/// The format that was named, or that the file's name tells.
fn format_of(args: &Args) -> Option<ImportFormat> {
    let suffix = || match args.file.extension()?.to_str()? {
        "json" => Some(ImportFormat::Json),
        "yaml" | "yml" => Some(ImportFormat::Yaml),
        _ => None,
    };
    args.format.or_else(suffix)
}

fn refused(args: &Args, context: &Context, shown: &str, refusal: Refusal) -> Failure {
    let (lines, hint) = match refusal {
        Refusal::Malformed(lines) => (lines, "nothing is set".to_owned()),
        Refusal::Ambiguous(lines) => (
            lines,
            format!(
                "nothing is set; say who the file was written for: a shell (`{}`), python-dotenv (`{}`) or docker run --env-file \
                 (`{}`)",
                command(args, context, ImportFormat::Env),
                command(args, context, ImportFormat::Dotenv),
                command(args, context, ImportFormat::Docker)
            ),
        ),
    };
    let surplus = lines.len().saturating_sub(MAX_SHOWN);
    let lines = lines.into_iter().take(MAX_SHOWN);
    let mut messages: Vec<String> = lines.map(|line| format!("{shown}: {line}")).collect();
    if surplus > 0 {
        messages.push(format!("{shown}: {surplus} more"));
    }
    let last = messages.pop().unwrap_or_default();
    let mut failures: Vec<Failure> = messages.into_iter().map(Failure::new).collect();
    failures.push(Failure::with_hint(last, hint));
    match Failure::of_all(failures) {
        Err(failure) => failure,
        Ok(()) => Failure::Reported,
    }
}

/// The same command with a format.
fn command(args: &Args, context: &Context, format: ImportFormat) -> String {
    let config = context.config.as_deref();
    let config = config.map(|config| format!(" --config {}", shell_path(config)));
    let config = config.unwrap_or_default();
    let flags = [
        (args.dry_run, " --dry-run"),
        (args.json, " --json"),
        (args.no_mount, " --no-mount"),
        (args.yes, " --yes"),
    ];
    let flags = flags.into_iter().filter(|(is_given, _)| *is_given);
    let flags: String = flags.map(|(_, flag)| flag).collect();
    let file = shell_path(&args.file);
    format!("simpletuner-live import --format {format} {file}{flags}{config}")
}

fn show(args: &Args, planned: &[(Entry, Change)]) -> Outcome {
    for (Entry { name, value, .. }, change) in planned {
        if *change != Change::Same
            && let Some(surplus) = surplus(value.as_bytes())
        {
            warn(&format!("the value of {name} {surplus}"));
        }
    }
    if args.json {
        let entry = |(entry, change): &(Entry, Change)| json!({ "name": entry.name, "change": change.word(), "line": entry.line });
        return output::json(&planned.iter().map(entry).collect::<Vec<_>>());
    }
    let row = |(entry, change): &(Entry, Change)| {
        let empty = if entry.value.is_empty() {
            ", empty"
        } else {
            ""
        };
        vec![
            entry.name.to_string(),
            format!("{}{empty}", change.word()),
            entry.line.to_string(),
        ]
    };
    let rows: Vec<_> = planned.iter().map(row).collect();
    output::table(&["NAME", "CHANGE", "LINE"], &rows)
}

/// What was imported still lies there as plain text.
fn note_plain_file(path: &Path) {
    let metadata = std::fs::metadata(path);
    if let Some(file) = metadata
        .ok()
        .filter(|found| found.is_file())
        .map(|found| found.mode())
    {
        let who = match file & 0o044 {
            0 => "",
            _ => ", and other users may be able to read it",
        };
        let path = shell_path(path);
        say(
            "note",
            &format!("the file still has the values as plain text{who}; `rm {path}` removes it"),
        );
    }
}
