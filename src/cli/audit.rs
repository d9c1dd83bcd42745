//! `audit verify`, `audit tail`, `audit prune`: the two audit trails.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};

use super::failure::Failure;
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::audit::{AuditOptions, Chain, ChainReader, Row, Verified, short_id};
use crate::backup;
use crate::error::Error;
use crate::metrics::{Sample, parse};
use crate::text::{counted, printable};

/// How often `tail -f` looks for new rows.
const POLL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How long `tail` waits for rows that the mount has not written yet. It does not wait for a read, whose row appears when its second is
/// over.
const ROWS_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often it looks meanwhile.
const ROWS_INTERVAL: Duration = Duration::from_millis(20);

/// Check or show who set, deleted, configured and read what
///
/// The trail is two databases in SimpleTuner's state folder: audit.db, which SimpleTuner writes, too, records changes
/// (secrets set, deleted and renamed, providers configured) and denied access; live-audit.db records reads. Each is a hash
/// chain: the signature of a row covers the row before it.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live audit tail -f
  simpletuner-live audit tail -n 1000 --json | jq -r 'select(.target == \"HF_TOKEN\") | .user'
  simpletuner-live audit verify"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Check every row of both; names the first one that was changed, removed or inserted
    ///
    /// Trails that a restore replaced (audit.db.before-restore-TIME) are checked, too, each with the key that it had
    /// (audit.key.before-restore-TIME).
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live audit verify && echo whole
  simpletuner-live audit verify --hash \"$HASH\"     # its 64 digits, from the log

The daemon logs the last row of each trail, and its hash, a minute after a row and when the mount ends. Who has the key can
write and sign both trails anew, but cannot change a log that is kept elsewhere.

Exit codes: 0 whole, and each hash was found; 1 broken, or it could not be checked."
    )]
    Verify {
        /// A hash that the daemon logged: one of the trails must still have its row; may be repeated
        #[arg(long = "hash", value_name = "HASH", value_parser = parse_hash)]
        hashes: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the last rows of both, by time
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live audit tail
  simpletuner-live audit tail -f --json | jq ."
    )]
    Tail {
        /// How many rows
        #[arg(short = 'n', long, default_value_t = 20, value_name = "ROWS")]
        lines: u32,
        /// Keep running, and show new rows as they are written
        #[arg(short, long)]
        follow: bool,
        /// Print a line of JSON for each row
        #[arg(long)]
        json: bool,
    },
    /// Remove old reads; the chain stays whole
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live audit prune --keep-days 90

With `audit_keep_days: 90` in live.yaml the mount does this once a day. SimpleTuner's own audit.db is never pruned."
    )]
    Prune {
        /// Keep the reads of this many days
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
        keep_days: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let trail = AuditOptions::from_settings(&context.settings()?);
    match args.action {
        Action::Verify { hashes, json } => verify(&trail, &hashes, json),
        Action::Tail {
            lines,
            follow,
            json,
        } => {
            wait_for_rows(context);
            tail(&trail, lines, follow, json)
        }
        Action::Prune { keep_days, json } => {
            let keep = Duration::from_secs(24 * 3600) * keep_days;
            let chain = trail.read_chain();
            let removed = match SystemTime::now().checked_sub(keep) {
                Some(before) if chain.path().exists() => {
                    chain.prune(&trail.signing_key_source().key()?, before)?
                }
                _ => 0,
            };
            match json {
                true => output::json(&json!({ "removed": removed })),
                false => output::line(&format!("{} removed", counted(removed, "row"))),
            }
        }
    }
}

/// Waits a moment for the rows that the mount has not written yet, so that what somebody has just done is there.
fn wait_for_rows(context: &Context) {
    let mount = context.mount_point(None).ok();
    let Some(mount) = mount.and_then(|dir| MountClient::find(&dir).ok().flatten()) else {
        return;
    };
    let until = Instant::now() + ROWS_TIMEOUT;
    let waiting =
        |sample: &Sample| sample.name.ends_with("_audit_waiting_rows") && sample.value > 0.0;
    while let Ok(metrics) = mount.read_text("metrics")
        && parse(&metrics).iter().any(waiting)
        && Instant::now() < until
    {
        std::thread::sleep(ROWS_INTERVAL);
    }
}

fn parse_hash(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a hash has 64 hexadecimal digits".into()),
    }
}

/// A hash that was asked for, and the row that has it.
struct Searched<'a> {
    hash: &'a str,
    id: Option<i64>,
}

fn verify(trail: &AuditOptions, hashes: &[String], json: bool) -> Outcome {
    let chains = [trail.change_chain(), trail.read_chain()];
    let verified = match chains.iter().any(|chain| chain.path().exists()) {
        true => Chain::verify_both(chains.each_ref(), &trail.signing_key_source().key()?)?,
        false => [None, None],
    };
    let path = |chain: &Chain| chain.path().display().to_string();
    let mut searched = Vec::new();
    for chain in &chains {
        let find = |hash| {
            let id = chain.find(hash)?;
            Ok(Searched { hash, id })
        };
        let found: Result<Vec<_>, Error> = hashes.iter().map(|hash| find(hash.as_str())).collect();
        searched.push(found?);
    }
    let mut results: Vec<_> = chains.iter().map(path).zip(verified).collect();
    for (chain, key) in backup::kept_trails(trail)? {
        results.push((path(&chain), Some(chain.verify(&key)?)));
        searched.push(Vec::new());
    }
    if json {
        let all: Vec<Value> = results
            .iter()
            .zip(&searched)
            .map(|((path, verified), searched)| as_json(path, verified, searched))
            .collect();
        output::json(&all)?;
    } else {
        for ((path, verified), searched) in results.iter().zip(&searched) {
            output::line(&format!("{path}: {}", describe(verified)))?;
            for Searched { hash, id } in searched {
                if let Some(id) = id {
                    output::line(&format!("{path}: row {id} has the hash {hash}"))?;
                }
            }
        }
    }
    let broken = |verified: &Option<Verified>| verified.as_ref().and_then(|v| v.broken.clone());
    match results
        .iter()
        .find_map(|(path, verified)| Some((path, broken(verified)?)))
    {
        Some((path, broken)) => Err(Failure::with_hint(
            format!("{path} is broken at row {}", broken.id),
            "the rows after it prove nothing about those before it; compare with a backup",
        )),
        None => require(hashes, &searched),
    }
}

/// That one of the trails has each hash.
fn require(hashes: &[String], searched: &[Vec<Searched<'_>>]) -> Outcome {
    let has = |wanted: &str| {
        let mut all = searched.iter().flatten();
        all.any(|searched| searched.hash == wanted && searched.id.is_some())
    };
    match hashes.iter().find(|hash| !has(hash)) {
        Some(hash) => Err(Failure::with_hint(
            format!("no row of either trail has the hash {hash}"),
            "the trail was rewritten, cut off, or put back from an older copy; or `audit prune` has removed the row, whose \
             number the log says",
        )),
        None => Ok(()),
    }
}

fn as_json(path: &str, verified: &Option<Verified>, searched: &[Searched<'_>]) -> Value {
    let broken = verified
        .as_ref()
        .and_then(|verified| verified.broken.as_ref());
    json!({
        "path": path,
        "rows": verified.as_ref().map_or(0, |verified| verified.rows),
        "removed": verified.as_ref().map_or(0, |verified| verified.removed),
        "broken": broken.map(|broken| json!({"id": broken.id, "reason": broken.reason})),
        "hashes": searched
            .iter()
            .map(|Searched { hash, id }| json!({"hash": hash, "id": id}))
            .collect::<Vec<_>>(),
    })
}

fn describe(verified: &Option<Verified>) -> String {
    let Some(verified) = verified else {
        return "not there yet".into();
    };
    let mut words = counted(verified.rows, "row");
    if verified.removed > 0 {
        words.push_str(&format!(" ({} older ones were removed)", verified.removed));
    }
    match &verified.broken {
        None => words.push_str(", whole"),
        Some(broken) => {
            words.push_str(&format!(", broken at row {}: {}", broken.id, broken.reason));
        }
    }
    words
}

/// A chain that `tail` shows, under its name.
struct ShownChain {
    name: &'static str,
    reader: ChainReader,
}

fn tail(trail: &AuditOptions, lines: u32, follow: bool, json: bool) -> Outcome {
    let mut shown = [
        ShownChain {
            name: "audit.db",
            reader: trail.change_chain().reader(),
        },
        ShownChain {
            name: "live-audit.db",
            reader: trail.read_chain().reader(),
        },
    ];
    let rows = by_time(&mut shown, |reader| reader.last(lines))?;
    let surplus = rows.len().saturating_sub(lines as usize);
    print(&rows[surplus..], json)?;
    if follow {
        return follow_rows(&mut shown, json);
    }
    Ok(())
}

/// Shows new rows until the reader of standard output exits.
fn follow_rows(shown: &mut [ShownChain], json: bool) -> Outcome {
    loop {
        let out = io::stdout();
        // Without a new row there is no write that would fail.
        let mut ends = [PollFd::new(&out, PollFlags::empty())];
        let _ = rustix::event::poll(&mut ends, Some(&POLL_INTERVAL));
        if ends[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::NVAL)
        {
            return Err(Failure::OutputClosed);
        }
        print(&by_time(shown, |reader| reader.new_rows(1000))?, json)?;
    }
}

fn by_time(
    shown: &mut [ShownChain],
    mut read: impl FnMut(&mut ChainReader) -> crate::error::Result<Vec<Row>>,
) -> Outcome<Vec<(&'static str, Row)>> {
    let mut all = Vec::new();
    for ShownChain { name, reader } in shown {
        all.extend(read(reader)?.into_iter().map(|row| (*name, row)));
    }
    // Both chains write their times in the same form, so text order is time order.
    all.sort_by(|(_, a), (_, b)| a.timestamp.cmp(&b.timestamp));
    Ok(all)
}

fn print(rows: &[(&str, Row)], json: bool) -> Outcome {
    for (trail, row) in rows {
        output::line(&match json {
            true => row_as_json(trail, row),
            false => row_as_line(row),
        })?;
    }
    Ok(())
}

fn row_as_json(trail: &str, row: &Row) -> String {
    let details = serde_json::from_str(&row.details).unwrap_or_else(|_| json!(row.details));
    let row = json!({
        "at": row.timestamp,
        "trail": trail,
        "id": row.id,
        "event_type": row.event_type,
        "user": row.username,
        "target": row.target,
        "signed": row.is_signed,
        "action": row.action,
        "details": details,
    });
    row.to_string()
}

fn row_as_line(row: &Row) -> String {
    let details: Value = serde_json::from_str(&row.details).unwrap_or_default();
    let at = row.timestamp.get(..19).unwrap_or(&row.timestamp);
    let user = row.username.as_deref().unwrap_or("-");
    let mut line = format!("{at}Z  {user}");
    if !row.is_signed && row.username.is_some() {
        line.push_str(" (not signed)");
    }
    if let Some(pid) = details["pid"].as_u64() {
        let program = details["program"].as_str().unwrap_or("?");
        line.push_str(&format!("  {program}[{pid}]"));
    }
    if let Some(id) = details["container"].as_str() {
        let name = details["container_name"].as_str();
        let name = name.unwrap_or_else(|| short_id(id));
        line.push_str(&format!("  in {name}"));
    } else if let Some(unit) = details["unit"].as_str().filter(|u| u.ends_with(".service")) {
        line.push_str(&format!("  in {unit}"));
    }
    line.push_str(&format!("  {}", row.action));
    if let Some(count) = details["count"].as_u64().filter(|count| *count > 1) {
        line.push_str(&format!(" {count} times"));
    }
    if let Some(file) = details["file"].as_str() {
        line.push_str(&format!(", {file}"));
    }
    let keys = |field: &str| {
        let keys = details[field].as_array()?.iter().filter_map(Value::as_str);
        Some(keys.collect::<Vec<_>>().join(", ")).filter(|keys| !keys.is_empty())
    };
    if let Some(keys) = keys("keys") {
        line.push_str(&format!(", set: {keys}"));
    }
    if let Some(keys) = keys("removed") {
        line.push_str(&format!(", removed: {keys}"));
    }
    // SimpleTuner's rows may have any text.
    printable(&line)
}
