//! `get`: a value on standard output.

use super::target::Target;
use super::{Context, Outcome, output};
use crate::secret::SecretName;

/// Print the value of a secret
///
/// The value is printed byte for byte. The newline that ends a single line, as `echo` writes it to a file, is no part of it.
/// Only at a terminal, a newline follows a value of a single line.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  TOKEN=$(simpletuner-live get HF_TOKEN)
  simpletuner-live get TLS_KEY > key.pem
  simpletuner-live get HF_TOKEN || echo \"exit code $?\"     # 4: no such secret"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// No newline after the value at a terminal either
    #[arg(short, long)]
    no_newline: bool,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let value = Target::open(context, args.no_mount)?.get(&args.name)?;
    output::value(&value, args.no_newline)
}
