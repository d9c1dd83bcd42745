//! `ls`: the names of the secrets.

use serde_json::{Value, json};

use super::failure::{Failure, say};
use super::secret_list::{Detail, ListedSecret, Unlisted};
use super::target::Target;
use super::{Context, Outcome, output};
use crate::provider::rfc3339;

/// List the secrets of all providers
///
/// If a provider does not give its names, the others' are listed, an error says why, and the exit code is 1. With --json,
/// the provider has an entry with "error" and without a name.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live ls
  simpletuner-live ls -l
  simpletuner-live ls --json | jq -r '.[].name // empty'"
)]
pub(super) struct Args {
    /// Show provider, size and time of the last change too
    #[arg(short, long)]
    long: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let detail = match (args.long, args.json) {
        (true, _) => Detail::All,
        (false, true) => Detail::Providers,
        (false, false) => Detail::Names,
    };
    let target = Target::open(context, args.no_mount)?;
    let unlisted = target.unlisted();
    let listed = target.list(detail)?;
    show(&args, &listed, &unlisted)?;
    for Unlisted { provider, reason } in &unlisted {
        say(
            "error",
            &format!("the names of the {provider} provider are missing: {reason}"),
        );
    }
    match unlisted.is_empty() {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

fn show(args: &Args, listed: &[ListedSecret], unlisted: &[Unlisted]) -> Outcome {
    if args.json {
        let names = listed.iter().map(|one| entry(one, args.long));
        let missing = unlisted.iter().map(|Unlisted { provider, reason }| {
            json!({ "name": null, "provider": provider, "error": reason })
        });
        return output::json(&names.chain(missing).collect::<Vec<Value>>());
    }
    if args.long {
        let rows: Vec<_> = listed.iter().map(row).collect();
        return output::table(&["NAME", "PROVIDER", "BYTES", "CHANGED"], &rows);
    }
    let names: String = listed.iter().map(|one| format!("{}\n", one.name)).collect();
    output::write(names.as_bytes())
}

fn entry(listed: &ListedSecret, long: bool) -> Value {
    let mut entry = json!({ "name": listed.name.as_str(), "provider": listed.provider });
    if long {
        entry["size"] = json!(listed.size);
        entry["changed_at"] = json!(listed.changed_at.map(rfc3339));
    }
    entry
}

/// `?` stands for what is unknown, because the value cannot be read.
fn row(listed: &ListedSecret) -> Vec<String> {
    let known = |text: Option<String>| text.unwrap_or_else(|| "?".into());
    vec![
        listed.name.to_string(),
        known(listed.provider.clone()),
        known(listed.size.map(|size| size.to_string())),
        known(listed.changed_at.map(rfc3339)),
    ]
}
