//! `undo`: sets secrets back to what they held before.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::failure::{Failure, say, warn};
use super::history::what;
use super::question::confirm;
use super::target::{Store, Target};
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::provider::{Undo, UndoRequest, parse_rfc3339, rfc3339};
use crate::secret::SecretName;

/// Set a secret back to what it held before its last change
///
/// A secret that was removed comes back, and one that was new is removed. First prints what it would do. At a terminal you are asked;
/// elsewhere `--yes` is needed. An undo is a change, which another undo takes back. The secrets file itself is changed: a running mount
/// shows it at once.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live undo HF_TOKEN
  simpletuner-live undo HF_TOKEN --steps 2
  simpletuner-live undo --all --since 10m
  simpletuner-live undo --all --since 2026-01-02T03:04:05Z --yes
  simpletuner-live undo --all --since 10m --dry-run --json",
    group(clap::ArgGroup::new("what").args(["name", "all"]).required(true))
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY")]
    name: Option<SecretName>,
    /// Undo this many changes of the secret
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "since")]
    steps: u16,
    /// Set all secrets back, removed ones too
    #[arg(long, requires = "since")]
    all: bool,
    /// Undo all changes since this time: 90s, 10m, 2h, 3d ago, or a time such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<SystemTime>,
    /// Print what would be set back, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let store = Target::open_store(context)?;
    let request = match (args.since, &args.name) {
        (Some(since), name) => UndoRequest::Since(since, name.clone()),
        (None, Some(name)) => UndoRequest::Steps(name.clone(), args.steps.into()),
        (None, None) => return Err(Failure::new("name a secret, or --all with --since")),
    };
    let planned = store.plan_undo(&request)?;
    if args.json {
        output::json(&planned.iter().map(entry).collect::<Vec<_>>())?;
    }
    if planned.is_empty() {
        return nothing_to_undo(&args, &store);
    }
    if !args.json {
        let rows: Vec<Vec<String>> = planned.iter().map(row).collect();
        output::table(&["NAME", "UNDO", "OF"], &rows)?;
    }
    warn_of(&planned);
    if args.dry_run {
        return Ok(());
    }
    let what = match planned.as_slice() {
        [one] => format!("this sets {} back", one.name),
        many => format!("this sets {} secrets back", many.len()),
    };
    confirm(&what, args.yes)?;
    store.undo(&planned)
}

fn nothing_to_undo(args: &Args, store: &Store) -> Outcome {
    let Some(name) = &args.name else {
        say("note", "no secret has changed since then");
        return Ok(());
    };
    let kept = store.history()?;
    let kept = kept.iter().filter(|change| change.name == *name).count();
    if kept == 0 && !store.has(name) {
        let name = name.to_string();
        return Err(Error::NotFound { name }.into());
    }
    if args.since.is_some() {
        say("note", &format!("{name} has not changed since then"));
        return Ok(());
    }
    if kept >= usize::from(args.steps) {
        say("note", &format!("{name} has that value already"));
        return Ok(());
    }
    Err(Failure::with_hint(
        match kept {
            0 => format!("no earlier value of {name} is kept"),
            1 => format!("only the last change of {name} can be undone"),
            kept => format!("only the last {kept} changes of {name} can be undone"),
        },
        "the setting keep_previous says how many are kept",
    ))
}

fn warn_of(planned: &[Undo]) {
    for undo in planned {
        if undo.is_partial {
            warn(&format!(
                "{} changed more often since then than is kept, so it gets the oldest value that is kept",
                undo.name
            ));
        }
        if let Some(problem) = &undo.problem {
            warn(&format!("what comes back cannot be decrypted: {problem}"));
        }
    }
}

fn does(undo: &Undo) -> &'static str {
    match (undo.change.had_value, undo.has_value) {
        (true, true) => "gets its earlier value",
        (true, false) => "comes back",
        (false, _) => "is removed",
    }
}

fn row(undo: &Undo) -> Vec<String> {
    let at = rfc3339(undo.change.at);
    vec![
        undo.name.to_string(),
        does(undo).to_owned(),
        format!("{} at {at}", what(&undo.change.did)),
    ]
}

fn entry(undo: &Undo) -> Value {
    json!({
        "key": undo.name,
        "undo": does(undo),
        "did": what(&undo.change.did),
        "at": rfc3339(undo.change.at),
    })
}

/// `10m`: that long ago. Or an RFC 3339 time.
fn parse_since(text: &str) -> Result<SystemTime, String> {
    if let Some(time) = parse_rfc3339(text) {
        return Ok(time);
    }
    let wrong = || {
        "it must be a number with s, m, h or d (10m: ten minutes ago), or a time such as 2026-01-02T03:04:05Z"
            .to_owned()
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let span = Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?);
    let since = SystemTime::now().checked_sub(span).ok_or_else(wrong)?;
    Ok(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_span_before_now_or_a_point() {
        let point = parse_since("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(rfc3339(point), "2026-01-02T03:04:05Z");
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200)] {
            let ago = SystemTime::now().duration_since(parse_since(text).unwrap());
            let ago = ago.unwrap().as_secs();
            // The machine's clock may be set meanwhile.
            assert!((seconds - 5..seconds + 60).contains(&ago), "{text}: {ago}");
        }
        for text in [
            "",
            "10",
            "m",
            "10 m",
            "-1h",
            "1y",
            "ä",
            "9999999999999999d",
            "yesterday",
        ] {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }
}
