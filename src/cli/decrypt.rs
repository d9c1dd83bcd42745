//! `decrypt`: the value of a stored text.

use super::failure::Failure;
use super::{Context, Outcome, input, output};
use crate::credential::decrypt_credential;
use crate::secret::MAX_VALUE;

/// Decrypt a stored value from standard input, as SimpleTuner's decrypt_credential does
///
/// The value is printed byte for byte. Only at a terminal, a newline follows a value of a single line.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  jq -r .HF_TOKEN ~/.simpletuner/secrets.json | simpletuner-live decrypt"
)]
pub(super) struct Args {
    /// No newline after the value at a terminal either
    #[arg(short, long)]
    no_newline: bool,
}

pub(super) fn run(args: Args, _: &Context) -> Outcome {
    // Fernet pads, and the text is base64 of base64: less than three times the value.
    let stored = input::read("stored value", 3 * MAX_VALUE)?;
    let stored = std::str::from_utf8(&stored)
        .map_err(|_| Failure::new("the stored value is not text: it should begin with Z0FBQUFB"))?;
    let value = decrypt_credential(stored.trim())?;
    output::value(value.as_bytes(), args.no_newline)
}
