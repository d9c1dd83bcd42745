//! `rm`: a secret out of the secrets file.

use super::store::Store;
use super::{Context, Outcome};
use crate::secret::SecretName;

/// Remove a secret from the secrets file
///
/// A secret that only another provider has (an environment variable, say) is not ours to remove.
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
    /// Go to the secrets file directly, also if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    Store::open(context, args.no_mount)?.remove(&args.name)
}
