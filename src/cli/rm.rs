//! `rm`: removes a secret from the secrets file.

use super::target::Target;
use super::{Context, Outcome, question};
use crate::secret::SecretName;

/// Remove a secret from the secrets file
///
/// At a terminal you are asked first. `undo` brings the secret back. A secret that only another provider has (an environment variable, say) cannot be removed.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live rm HF_TOKEN
  simpletuner-live rm -f HF_TOKEN
  simpletuner-live undo HF_TOKEN"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    // A name that is mistyped is not worth a question.
    let asks = !args.force && target.has(&args.name);
    if asks && question::is_refused(&format!("remove {}?", args.name))? {
        return Err(question::nothing_changed());
    }
    target.remove(&args.name)
}
