//! `set`: writes a value from standard input or a file to the secrets file.

use std::path::PathBuf;

use clap::ValueHint;
use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::target::Target;
use super::{Context, Outcome, input};
use crate::secret::{SecretName, without_newline};

/// Store a value for a secret, encrypted
///
/// The value is read from standard input, or from a file. At a terminal you are asked for it, and it is not shown. The newline
/// that ends a single line is dropped; a value of several lines is kept byte for byte. At most 64 KiB. If the input is empty,
/// nothing changes.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live set HF_TOKEN                     # asks for it
  printf %s \"$TOKEN\" | simpletuner-live set HF_TOKEN
  simpletuner-live set TLS_KEY --file key.pem
  simpletuner-live set FEATURE_FLAGS --empty < /dev/null"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// The value, or - for standard input. A value given here stays in the shell's history, and shows in the list of
    /// processes
    #[arg(conflicts_with = "file")]
    value: Option<String>,
    /// Read the value from this file
    #[arg(long, value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Drop white space and line ends at both ends of the value
    #[arg(long)]
    trim: bool,
    /// Store an empty value if the input is empty
    #[arg(long)]
    empty: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    // Before the prompt, so that nobody types a value in vain if the settings are wrong.
    let target = Target::open(context, args.no_mount)?;
    let mut value = match (args.value.as_deref(), &args.file) {
        (_, Some(file)) => input::read_value_from(file, args.name.as_str())?,
        (None | Some("-"), None) => input::read_value(args.name.as_str())?,
        (Some(value), None) => {
            warn(
                "a value on the command line is visible in the shell's history and the list of processes; \
                 leave it out to be asked for it",
            );
            without_newline(value.as_bytes()).to_vec().into()
        }
    };
    if args.trim {
        value = Zeroizing::new(value.trim_ascii().to_vec());
    }
    if value.is_empty() && !args.empty {
        return Err(Failure::with_hint(
            format!("there is no value: {} stays as it is", args.name),
            "to store an empty value, add --empty",
        ));
    }
    if let Some(surplus) = surplus(&value) {
        warn(&format!(
            "the value of {} {surplus}, and is stored as it is; to drop white space at its ends, add --trim",
            args.name
        ));
    }
    target.set(&args.name, &value)
}

/// What is probably a mistake at the ends of a value, or of its lines.
fn surplus(value: &[u8]) -> Option<&'static str> {
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if value.windows(2).any(|pair| pair == b"\r\n") || value.ends_with(b"\r") {
        Some("has Windows line ends (CR LF)")
    } else if is_blank(value.first()) {
        Some("begins with white space")
    } else if is_blank(value.last()) {
        Some("ends with white space")
    } else if value.first() == Some(&b'\n') {
        Some("begins with an empty line")
    } else {
        None
    }
}
