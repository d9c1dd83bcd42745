//! `cache`: the control files under `cache/` of a running mount.

use clap::Subcommand;
use serde_json::Value;

use super::mount_client::MountClient;
use super::{Context, Outcome, output};

/// Show the caches of a running mount, or empty them
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live cache stats
  simpletuner-live cache stats --json | jq .secrets.hit_rate
  simpletuner-live cache invalidate secret:HF_
  simpletuner-live cache clear"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show size, hits and misses of each cache
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live cache stats --json"
    )]
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Empty every cache
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live cache clear"
    )]
    Clear,
    /// Drop the keys that begin with a prefix from every cache; prints how many there were
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live cache invalidate secret:HF_TOKEN
  simpletuner-live cache invalidate provider:replicate:"
    )]
    Invalidate {
        /// What the keys begin with
        prefix: String,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let client = MountClient::require(&context.mount_point(None)?)?;
    match args.action {
        Action::Stats { json } => {
            let stats = client.read_json("cache/stats")?;
            if json {
                return output::json(&stats);
            }
            let rows: Vec<_> = stats.as_object().into_iter().flatten().map(row).collect();
            output::table(
                &[
                    "CACHE",
                    "SIZE",
                    "MAX",
                    "EXPIRED",
                    "TTL",
                    "HITS",
                    "MISSES",
                    "EVICTIONS",
                    "HIT RATE",
                ],
                &rows,
            )
        }
        Action::Clear => client.write_control("cache/clear", b"1\n"),
        Action::Invalidate { prefix } => {
            client.write_control("cache/invalidate", format!("{prefix}\n").as_bytes())?;
            output::line(client.read_text("cache/invalidate")?.trim_end())
        }
    }
}

fn row((name, stats): (&String, &Value)) -> Vec<String> {
    let mut row = vec![name.clone()];
    for field in ["size", "max_size", "expired_count"] {
        row.push(stats[field].to_string());
    }
    row.push(format!("{} s", stats["default_ttl"]));
    for field in ["hits", "misses", "evictions"] {
        row.push(stats[field].to_string());
    }
    let rate = stats["hit_rate"].as_f64().unwrap_or_default();
    row.push(format!("{:.0} %", rate * 100.0));
    row
}
