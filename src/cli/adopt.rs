//! `adopt`: replaces SimpleTuner's own secrets file with a link into the mount.

use super::{Context, Outcome, output};
use crate::adopt;

/// Let an unmodified SimpleTuner read and write its secrets through the mount
///
/// Moves ~/.simpletuner/secrets.json to ~/.simpletuner/store.json, encrypts it, names it in live.yaml, and puts a
/// symbolic link to the mount's bundle/secrets.json in its place. A second run finishes one that was interrupted.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live adopt && simpletuner-live mount
  simpletuner-live adopt --undo"
)]
pub(super) struct Args {
    /// Put the file back, its values in plain text, as SimpleTuner needs them
    #[arg(long)]
    undo: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let settings = context.settings()?;
    let report = match args.undo {
        true => adopt::undo(&settings)?,
        false => adopt::adopt(&settings)?,
    };
    output::write(report.to_string().as_bytes())
}
