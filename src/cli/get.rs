//! `get`: values on standard output.

use zeroize::Zeroizing;

use super::failure::Failure;
use super::target::Target;
use super::{Context, Outcome, output};
use crate::bundle::{BundleFormat, Document, refusal, render};
use crate::secret::{SecretName, SecretValue};

/// Print the value of a secret
///
/// The value is printed byte for byte. The newline that ends a single line, as `echo` writes it to a file, is no part of it.
/// Only at a terminal, a newline follows a value of a single line.
///
/// Several secrets are printed as lines KEY=value, quoted for a shell. If one of them cannot be read, none is printed.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    visible_alias = "show",
    after_help = "Examples:
  TOKEN=$(simpletuner-live get HF_TOKEN)
  simpletuner-live get TLS_KEY > key.pem
  simpletuner-live get HF_TOKEN || echo \"exit code $?\"     # 4: no such secret
  eval \"$(simpletuner-live get HF_TOKEN WANDB_API_KEY)\"
  simpletuner-live get HF_TOKEN WANDB_API_KEY --json | jq -r .HF_TOKEN"
)]
pub(super) struct Args {
    /// The secret's name; may be repeated
    #[arg(value_name = "KEY", required = true)]
    names: Vec<SecretName>,
    /// No newline after the value at a terminal either
    #[arg(short, long)]
    no_newline: bool,
    /// Print an object of JSON: the values by name
    #[arg(long)]
    json: bool,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    if let ([name], false) = (&*args.names, args.json) {
        return output::value(&target.get(name)?, args.no_newline);
    }
    let format = match args.json {
        true => BundleFormat::Json,
        false => BundleFormat::Env,
    };
    let (mut document, mut failures) = (Document::new(), Vec::new());
    for name in args.names {
        match value(&target, &name, format) {
            Ok(value) => drop(document.insert(name, value)),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)?;
    output::write(&render(format, &document))
}

fn value(target: &Target, name: &SecretName, format: BundleFormat) -> Outcome<SecretValue> {
    let bytes: Zeroizing<Vec<u8>> = target.get(name)?;
    let value = SecretValue::from_bytes(name.as_str(), &bytes)?;
    match refusal(format, name, &value) {
        Some(reason) => Err(Failure::with_hint(
            format!("{name} cannot be printed as KEY=value: {reason}"),
            "--json prints it",
        )),
        None => Ok(value),
    }
}
