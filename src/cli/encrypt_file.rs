//! `encrypt-file`: encrypts all plain values of the secrets file.

use super::failure::say;
use super::{Context, Outcome, output, same_store};
use crate::manager::SecretsManager;
use crate::text::counted;

/// Encrypt every value in the secrets file that is still plain text
///
/// One atomic write; values that are encrypted already stay as they are. SimpleTuner's server reads
/// ~/.simpletuner/secrets.json by itself and does not decrypt: see `adopt`. The way back is `decrypt-file`.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live encrypt-file --dry-run
  simpletuner-live encrypt-file"
)]
pub(super) struct Args {
    /// Print the names of the secrets that would be encrypted, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let settings = context.settings()?;
    let manager = SecretsManager::from_settings(&settings)?;
    same_store::require(
        context,
        &settings,
        &manager.store_path().unwrap_or_default(),
    )?;
    let count = match args.dry_run {
        true => {
            let plain = manager.plain_names()?;
            let names: String = plain.iter().map(|name| format!("{name}\n")).collect();
            output::write(names.as_bytes())?;
            plain.len()
        }
        false => manager.encrypt_all()?,
    };
    let values = counted(count as u64, "value");
    let note = match (count, args.dry_run) {
        (0, _) => "every value was encrypted already".to_owned(),
        (_, true) => format!("{values} would be encrypted"),
        (1, false) => format!("{values} is encrypted now"),
        (_, false) => format!("{values} are encrypted now"),
    };
    say("note", &note);
    Ok(())
}
