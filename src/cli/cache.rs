//! `cache`: the control files under `cache/` of a running mount.

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::Failure;
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::text::counted;

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
  simpletuner-live cache stats
  simpletuner-live cache stats secrets --json | jq .secrets.size"
    )]
    Stats {
        /// Only this cache
        cache: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Empty every cache, or one; prints how many entries there were
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live cache clear
  simpletuner-live cache clear hardware"
    )]
    Clear {
        /// Only this cache
        cache: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let client = MountClient::require(&context.mount_point(None)?)?;
    match args.action {
        Action::Stats { cache, json } => stats(&client, cache.as_deref(), json),
        Action::Clear { cache, json } => {
            let folder = folder(&client, cache.as_deref())?;
            client.write_control(&format!("{folder}/clear"), b"1\n")?;
            dropped(&client, json)
        }
        Action::Invalidate { prefix, json } => {
            client.write_control("cache/invalidate", format!("{prefix}\n").as_bytes())?;
            dropped(&client, json)
        }
    }
}

/// The folder with the files of a cache, or of all.
fn folder(client: &MountClient, cache: Option<&str>) -> Outcome<String> {
    let Some(cache) = cache else {
        return Ok("cache".to_owned());
    };
    let stats = client.read_json("cache/stats")?;
    let caches = stats.as_object().into_iter().flat_map(|all| all.keys());
    let caches: Vec<&str> = caches.map(String::as_str).collect();
    match caches.contains(&cache) {
        true => Ok(format!("cache/{cache}")),
        false => Err(Failure::with_hint(
            format!("there is no cache {cache:?}"),
            format!("the caches are {}", caches.join(", ")),
        )),
    }
}

fn stats(client: &MountClient, cache: Option<&str>, json: bool) -> Outcome {
    let folder = folder(client, cache)?;
    let mut stats = client.read_json(&format!("{folder}/stats"))?;
    if let Some(cache) = cache {
        stats = json!({ cache: stats });
    }
    if json {
        return output::json(&stats);
    }
    let rows: Vec<_> = stats.as_object().into_iter().flatten().map(row).collect();
    let head = "CACHE,SIZE,MAX,EXPIRED,TTL,HITS,MISSES,EVICTIONS,HIT RATE";
    output::table(&head.split(',').collect::<Vec<_>>(), &rows)
}

/// Prints how many entries the last clearing or invalidation has dropped.
fn dropped(client: &MountClient, json: bool) -> Outcome {
    let count = client.read_text("cache/invalidate")?;
    let count: u64 = count.trim_end().parse().unwrap_or_default();
    match json {
        true => output::json(&json!({ "dropped": count })),
        false => output::line(&format!("{} dropped", counted(count, "entry"))),
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
