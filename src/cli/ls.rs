//! `ls`: the names of the secrets.

use serde_json::{Value, json};

use super::failure::Failure;
use super::secret_list::{Detail, ListedSecret, Unlisted};
use super::target::Target;
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::provider::rfc3339;
use crate::secret::{NamePattern, SecretName};

/// List the secrets of all providers
///
/// In a pattern, * stands for any characters and ? for one; quote it, so that the shell does not replace it. A pattern that
/// matches nothing is an error, with exit code 4.
///
/// If a provider does not give its names, the others' are listed, an error says why, and the exit code is 1. With --json,
/// the provider has an entry with "error" and without a name.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    visible_alias = "list",
    after_help = "Examples:
  simpletuner-live ls
  simpletuner-live ls -l
  simpletuner-live ls 'HF_*' WANDB_API_KEY
  simpletuner-live ls --json | jq -r '.[].name // empty'"
)]
pub(super) struct Args {
    /// Only names that match one of these patterns
    #[arg(value_name = "PATTERN")]
    patterns: Vec<NamePattern>,
    /// Show provider, size and time of the last change too
    #[arg(short, long)]
    long: bool,
    /// Print JSON, with all that -l shows
    #[arg(long)]
    json: bool,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let detail = match args.long || args.json {
        true => Detail::All,
        false => Detail::Names,
    };
    let is_wanted = |name: &SecretName| {
        let mut patterns = args.patterns.iter();
        args.patterns.is_empty() || patterns.any(|pattern| pattern.matches(name.as_str()))
    };
    let target = Target::open(context, args.no_mount)?;
    let unlisted = target.unlisted();
    let listed = target.list(detail, &is_wanted)?;
    show(&args, &listed, &unlisted)?;
    let names = || listed.iter().map(|one| one.name.as_str());
    let matches_none = |pattern: &&NamePattern| !names().any(|name| pattern.matches(name));
    let unmatched = args.patterns.iter().filter(matches_none).map(missing);
    let unlisted = unlisted.iter().map(|Unlisted { provider, reason }| {
        Failure::new(format!(
            "the names of the {provider} provider are missing: {reason}"
        ))
    });
    Failure::of_all(unlisted.chain(unmatched).collect())
}

fn show(args: &Args, listed: &[ListedSecret], unlisted: &[Unlisted]) -> Outcome {
    if args.json {
        let missing = unlisted.iter().map(|Unlisted { provider, reason }| {
            json!({ "name": null, "provider": provider, "error": reason })
        });
        let names = listed.iter().map(entry);
        return output::json(&names.chain(missing).collect::<Vec<Value>>());
    }
    // A table without rows would only have its header.
    if args.long && (!listed.is_empty() || args.patterns.is_empty()) {
        let rows: Vec<_> = listed.iter().map(row).collect();
        let mut head = vec!["NAME", "PROVIDER", "BYTES", "CHANGED"];
        if listed.iter().any(|one| one.problem.is_some()) {
            head.push("PROBLEM");
        }
        return output::table(&head, &rows);
    }
    let names: String = listed.iter().map(|one| format!("{}\n", one.name)).collect();
    output::write(names.as_bytes())
}

/// No name matches this pattern.
pub(super) fn missing(pattern: &NamePattern) -> Failure {
    match SecretName::new(pattern.as_str()) {
        Ok(name) => Error::NotFound {
            name: name.to_string(),
        }
        .into(),
        Err(_) => Failure::NoMatch(pattern.to_string()),
    }
}

fn entry(listed: &ListedSecret) -> Value {
    let mut entry = json!({
        "name": listed.name.as_str(),
        "provider": listed.provider,
        "size": listed.size,
        "changed_at": listed.changed_at.map(rfc3339),
    });
    if let Some(problem) = &listed.problem {
        entry["error"] = json!(problem);
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
        listed.problem.clone().unwrap_or_default(),
    ]
}
