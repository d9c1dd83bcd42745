//! `decrypt-file`: the way back from `encrypt-file`.

use super::failure::{Failure, say, warn};
use super::question::confirm;
use super::{Context, Outcome, output, same_store};
use crate::manager::SecretsManager;
use crate::text::counted;

/// Write every encrypted value of the secrets file in plain text
///
/// One atomic write; a mount that runs agrees at once. A value that cannot be decrypted stays as it is, and is named. The newline
/// that ends a single line is dropped, because SimpleTuner reads the text as it is. What is written from then on is encrypted
/// again, unless live.yaml has `encrypt: false`. After `adopt`, the way back is `adopt --undo`.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live decrypt-file --dry-run
  simpletuner-live decrypt-file --yes"
)]
pub(super) struct Args {
    /// Print the names of the secrets that would be decrypted, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long, conflicts_with = "dry_run")]
    yes: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let settings = context.settings()?;
    let manager = SecretsManager::from_settings(&settings)?;
    let store = manager.store_path().unwrap_or_default();
    same_store::require(context, &settings, &store)?;
    let store = store.display();
    let planned = manager.decrypt_all(true)?;
    if planned.names.is_empty() && planned.failed.is_empty() {
        say("note", &format!("{store} has no encrypted value"));
        return Ok(());
    }
    let done = match planned.names.is_empty() || args.dry_run {
        true => planned,
        false => {
            let values = counted(planned.names.len() as u64, "encrypted value");
            confirm(
                &format!("this writes {values} in plain text to {store}"),
                args.yes,
            )?;
            manager.decrypt_all(false)?
        }
    };
    if args.dry_run {
        let names: String = done.names.iter().map(|name| format!("{name}\n")).collect();
        output::write(names.as_bytes())?;
        say(
            "note",
            &format!(
                "{} would be plain text in {store}",
                counted(done.names.len() as u64, "encrypted value")
            ),
        );
    } else if !done.names.is_empty() {
        let values = counted(done.names.len() as u64, "encrypted value");
        say("note", &format!("{values} became plain text in {store}"));
        let rest = match settings.encrypt {
            true => {
                "what is written from now on is encrypted again; `encrypt: false` in live.yaml keeps it plain"
            }
            false => {
                "live.yaml has `encrypt: false`, so what is written from now on is plain text, too"
            }
        };
        say("note", rest);
    }
    for (_, error) in &done.failed {
        warn(&error.to_string());
    }
    match done.failed.len() {
        0 => Ok(()),
        n => Err(Failure::new(match args.dry_run {
            true => format!("{} would stay encrypted", counted(n as u64, "value")),
            false => format!("{} stayed encrypted", counted(n as u64, "value")),
        })),
    }
}
