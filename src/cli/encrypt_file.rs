//! `encrypt-file`: encrypts all plain values of the secrets file.

use super::failure::say;
use super::{Context, Outcome};
use crate::manager::SecretsManager;

/// Encrypt every value in the secrets file that is still plain text
///
/// One atomic write; values that are encrypted already stay as they are. SimpleTuner's server reads
/// ~/.simpletuner/secrets.json by itself and does not decrypt: see `adopt`.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live encrypt-file"
)]
pub(super) struct Args {}

pub(super) fn run(_: Args, context: &Context) -> Outcome {
    let settings = context.settings()?;
    let encrypted = SecretsManager::from_settings(&settings)?.encrypt_all()?;
    match encrypted {
        0 => say("note", "every value was encrypted already"),
        1 => say("note", "1 value is encrypted now"),
        n => say("note", &format!("{n} values are encrypted now")),
    }
    Ok(())
}
