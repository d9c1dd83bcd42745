//! `set`: writes a value from standard input to the secrets file.

use super::failure::warn;
use super::target::Target;
use super::{Context, Outcome, input};
use crate::secret::{SecretName, without_newline};

/// Store a value for a secret, encrypted
///
/// The value is read from standard input (at a terminal you are asked for it, and it is not shown). The newline that ends a
/// single line is dropped; a value of several lines is kept byte for byte. At most 64 KiB.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live set HF_TOKEN                     # asks for it
  printf %s \"$TOKEN\" | simpletuner-live set HF_TOKEN
  simpletuner-live set TLS_KEY < key.pem"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// The value, or - for standard input. A value given here stays in the shell's history, and shows in the list of
    /// processes
    value: Option<String>,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    // Before the prompt, so that nobody types a value in vain if the settings are wrong.
    let target = Target::open(context, args.no_mount)?;
    let value = match args.value.as_deref() {
        None | Some("-") => input::read_value(args.name.as_str())?,
        Some(value) => {
            warn(
                "a value on the command line is visible in the shell's history and the list of processes; \
                 leave it out to be asked for it",
            );
            without_newline(value.as_bytes()).to_vec().into()
        }
    };
    target.set(&args.name, &value)
}
