//! `set`: writes a value from standard input or a file, or a new random one, to the secrets file.

use std::path::PathBuf;

use clap::ValueHint;
use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::target::Target;
use super::{Context, Outcome, input, output, question};
use crate::launch;
use crate::secret::{Alphabet, MAX_VALUE, SecretName, generate, without_newline};

/// With fewer bits of chance, a value can be found by trying all.
const SAFE_BITS: f64 = 64.0;

/// Store a value for a secret, encrypted
///
/// The value is read from standard input, or from a file. At a terminal you are asked for it, and it is not shown. The newline
/// that ends a single line is dropped; a value of several lines is kept byte for byte. At most 64 KiB. If the input is empty,
/// nothing changes.
///
/// With --generate the value is random, and not shown. If there is a value already, you are asked first; elsewhere --yes is needed.
/// With --print it is stored first, and then printed.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live set HF_TOKEN                     # asks for it
  printf %s \"$TOKEN\" | simpletuner-live set HF_TOKEN
  simpletuner-live set TLS_KEY --file key.pem
  simpletuner-live set FEATURE_FLAGS --empty < /dev/null
  simpletuner-live set SESSION_KEY --generate
  simpletuner-live set DB_PASSWORD --generate --length 24 --print > new-password"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// The value, or - for standard input. A value given here stays in the shell's history, and shows in the list of
    /// processes
    #[arg(conflicts_with_all = ["file", "generate"])]
    value: Option<String>,
    /// Read the value from this file
    #[arg(long, value_hint = ValueHint::FilePath, conflicts_with = "generate")]
    file: Option<PathBuf>,
    /// Drop white space and line ends at both ends of the value
    #[arg(long)]
    trim: bool,
    /// Store an empty value if the input is empty
    #[arg(long)]
    empty: bool,
    /// Make a new random value
    #[arg(long, conflicts_with_all = ["trim", "empty"])]
    generate: bool,
    /// The number of characters of the new value
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MAX_VALUE as i64), requires = "generate")]
    length: u32,
    /// The characters of the new value: alphanumeric (the default), hex, base64url, digits, printable, or chars:ABC for A, B and C
    #[arg(
        long,
        value_name = "ALPHABET",
        default_value = "alphanumeric",
        hide_default_value = true,
        requires = "generate"
    )]
    alphabet: Alphabet,
    /// Print the new value on standard output
    #[arg(long, requires = "generate")]
    print: bool,
    /// Do not ask before --generate replaces a value
    #[arg(short, long, requires = "generate")]
    yes: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    // Before the prompt, so that nobody types a value in vain if the settings are wrong.
    let target = Target::open(context, args.no_mount)?;
    if args.generate {
        return set_generated(&args, &target);
    }
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
        let trim = match value.trim_ascii() == &**value {
            true => "",
            false => "; to drop white space at its ends, add --trim",
        };
        warn(&format!(
            "the value of {} {surplus}, and is stored as it is{trim}",
            args.name
        ));
    }
    target.set(&args.name, &value)
}

fn set_generated(args: &Args, target: &Target) -> Outcome {
    if target.has(&args.name) {
        let what = format!("this replaces the value of {}", args.name);
        question::confirm(&what, args.yes)?;
    }
    let bits = args.alphabet.bits(args.length as usize);
    if bits < SAFE_BITS {
        warn(&format!(
            "the value has {bits:.0} bits of chance; with fewer than {SAFE_BITS}, somebody can find it by trying all"
        ));
    }
    if args.print && launch::is_output_closed() {
        return Err(Failure::new(
            "standard output is closed, so the value cannot be printed; nothing has changed",
        ));
    }
    let value = generate(&args.alphabet, args.length as usize)?;
    // Before it is printed: who reads a value may use it at once, so it must not be lost by then.
    target.set(&args.name, &value)?;
    match args.print {
        true => output::value(&value, false).map_err(|failure| unprinted(&args.name, &failure)),
        false => Ok(()),
    }
}

/// The error if the new value is stored and could not be printed whole.
fn unprinted(name: &SecretName, failure: &Failure) -> Failure {
    let reason = match failure {
        Failure::OutputClosed => "the reader of standard output has exited".to_owned(),
        other => other.message(),
    };
    Failure::with_hint(
        format!("the new value of {name} is stored, but not printed: {reason}"),
        format!(
            "`simpletuner-live get {name}` prints it; `simpletuner-live undo {name}` takes it back"
        ),
    )
}

/// What is probably a mistake at the ends of a value, or of its lines.
pub(super) fn surplus(value: &[u8]) -> Option<&'static str> {
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if value.windows(2).any(|pair| pair == b"\r\n") || value.ends_with(b"\r") {
        Some("has Windows line ends (CR LF)")
    } else if is_blank(value.first()) {
        Some("begins with white space")
    } else if is_blank(value.last()) {
        Some("ends with white space")
    } else if value.first() == Some(&b'\n') {
        Some("begins with an empty line")
    } else if value.contains(&0) {
        Some("has a NUL character, which no environment variable can hold")
    } else {
        None
    }
}
