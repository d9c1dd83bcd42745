//! `history`: what was done to a secret.

use serde_json::{Value, json};

use super::failure::say;
use super::target::Target;
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::provider::{Did, PastChange, rfc3339};
use crate::secret::SecretName;

/// Show what was done to a secret in the secrets file, as far as `undo` can set it back
///
/// Shows times and what was done, and nothing of any value. For each secret the last change is kept, or as many as the setting
/// keep_previous says. An edit of the secrets file by another program is not among them. Without KEY: of all secrets, removed ones
/// too.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live history HF_TOKEN
  simpletuner-live history --json | jq -r '.[].key'"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: Option<SecretName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let store = Target::open_store(context)?;
    let mut changes = store.history()?;
    if let Some(name) = &args.name {
        changes.retain(|change| change.name == *name);
        if changes.is_empty() && !store.has(name) {
            let name = name.to_string();
            return Err(Error::NotFound { name }.into());
        }
    }
    if args.json {
        let entries: Vec<Value> = changes.iter().map(entry).collect();
        return output::json(&entries);
    }
    if changes.is_empty() {
        say("note", "no change is kept");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    output::table(&["CHANGED", "NAME", "WHAT", "BEFORE"], &rows)
}

fn entry(change: &PastChange) -> Value {
    let mut entry = json!({
        "at": rfc3339(change.at),
        "key": change.name.as_str(),
        "did": word(&change.did),
        "had_value": change.had_value,
    });
    match &change.did {
        Did::RenamedTo(to) => entry["to"] = json!(to.as_str()),
        Did::RenamedFrom(from) => entry["from"] = json!(from.as_str()),
        Did::Set | Did::Deleted | Did::Undone => {}
    }
    entry
}

fn row(change: &PastChange) -> Vec<String> {
    let before = match change.had_value {
        true => "a value",
        false => "nothing",
    };
    vec![
        rfc3339(change.at),
        change.name.to_string(),
        what(&change.did),
        before.to_owned(),
    ]
}

fn word(did: &Did) -> &'static str {
    match did {
        Did::Set => "set",
        Did::Deleted => "deleted",
        Did::RenamedTo(_) | Did::RenamedFrom(_) => "renamed",
        Did::Undone => "undone",
    }
}

/// What was done, for people.
pub(super) fn what(did: &Did) -> String {
    match did {
        Did::RenamedTo(to) => format!("renamed to {to}"),
        Did::RenamedFrom(from) => format!("renamed from {from}"),
        other => word(other).to_owned(),
    }
}
