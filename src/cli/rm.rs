//! `rm`: removes secrets from the secrets file.

use serde_json::{Value, json};

use super::failure::{Failure, say};
use super::question::ask_if_possible;
use super::target::Target;
use super::{Context, Outcome, output};
use crate::secret::SecretName;

/// Remove secrets from the secrets file
///
/// At a terminal you are asked first. `undo` brings a secret back. A secret that only another provider has (an environment variable,
/// say) cannot be removed. If one of several cannot be removed, the others are.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    visible_alias = "delete",
    after_help = "Examples:
  simpletuner-live rm HF_TOKEN
  simpletuner-live rm -f OLD_KEY OLDER_KEY
  simpletuner-live undo HF_TOKEN"
)]
pub(super) struct Args {
    /// The secret's name; may be repeated
    #[arg(value_name = "KEY", required = true)]
    names: Vec<SecretName>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Print JSON: for each secret whether it is removed, and else why not
    #[arg(long)]
    json: bool,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    if !args.force {
        ask(&args.names, &target)?;
    }
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

/// Asks once for all that are there: a name that is mistyped is not worth a question.
fn ask(names: &[SecretName], target: &Target) -> Outcome {
    let there: Vec<&str> = names
        .iter()
        .filter(|name| target.has(name))
        .map(SecretName::as_str)
        .collect();
    match there.is_empty() {
        true => Ok(()),
        false => ask_if_possible(&format!("remove {}?", there.join(", "))),
    }
}

fn result(name: &SecretName, removed: &Outcome) -> Value {
    json!({
        "name": name,
        "removed": removed.is_ok(),
        "error": removed.as_ref().err().map(Failure::message),
    })
}
