//! `rm`: removes secrets from the secrets file.

use serde_json::{Value, json};

use super::failure::{Failure, say};
use super::target::Target;
use super::{Context, Outcome, output};
use crate::secret::SecretName;

/// Remove secrets from the secrets file
///
/// A secret that only another provider has (an environment variable, say) cannot be removed. If one of several cannot be
/// removed, the others are.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    visible_alias = "delete",
    after_help = "Examples:
  simpletuner-live rm HF_TOKEN
  simpletuner-live rm OLD_KEY OLDER_KEY"
)]
pub(super) struct Args {
    /// The secret's name; may be repeated
    #[arg(value_name = "KEY", required = true)]
    names: Vec<SecretName>,
    /// Print JSON: for each secret whether it is removed, and else why not
    #[arg(long)]
    json: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for name in &args.names {
        let removed = target.remove(name);
        results.push(result(name, &removed));
        match removed {
            Ok(()) if args.names.len() > 1 && !args.json => {
                say("note", &format!("{name} is removed"));
            }
            Ok(()) => {}
            Err(failure) => failures.push(failure),
        }
    }
    if args.json {
        output::json(&results)?;
    }
    Failure::of_all(failures)
}

fn result(name: &SecretName, removed: &Outcome) -> Value {
    json!({
        "name": name,
        "removed": removed.is_ok(),
        "error": removed.as_ref().err().map(Failure::message),
    })
}
