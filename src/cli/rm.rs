//! `rm`: removes a secret from the secrets file.

use super::target::Target;
use super::{Context, Outcome};
use crate::secret::SecretName;

/// Remove a secret from the secrets file
///
/// A secret that only another provider has (an environment variable, say) cannot be removed.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live rm HF_TOKEN"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: SecretName,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    Target::open(context, args.no_mount)?.remove(&args.name)
}
