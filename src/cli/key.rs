//! `key`: replaces the key that the values are encrypted with.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::{Failure, say, warn};
use super::question::confirm;
use super::target::{Store, Target};
use super::{Context, Outcome, output, under_key};
use crate::credential::KEY_VARIABLE;
use crate::provider::{KeyRotationPlan, KeyRotationReport, KeyRotationRequest};
use crate::settings::Settings;
use crate::text::{counted, shell_path};

/// How often the progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Replace the key that secrets are encrypted with
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live key rotate --dry-run
  simpletuner-live key rotate"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a new key, and encrypt every value with it
    ///
    /// Readers and writers go on meanwhile, and a running mount has the new key when this returns. Values that were kept for `undo`
    /// are encrypted anew, too. The old key stays beside the new one, as credential.key.old-TIME: backups from before need it. A
    /// rotation that was killed leaves every secret readable; the next `key rotate` finishes it. If one value cannot be decrypted,
    /// nothing changes. SimpleTuner's server reads the key when it starts: restart it if it runs.
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live key rotate --dry-run
  simpletuner-live key rotate --yes
  simpletuner-live key rotate --yes --forget-old --json"
    )]
    Rotate(Rotate),
}

#[derive(clap::Args)]
struct Rotate {
    /// Print what would be done, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Remove the old key at the end. Then nothing can decrypt backups from before, nor a secrets file under this key that
    /// neither these settings nor a running mount names (that of another home, say)
    #[arg(long)]
    forget_old: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let Action::Rotate(args) = args.action;
    rotate(&args, context)
}

fn rotate(args: &Rotate, context: &Context) -> Outcome {
    let settings = context.settings()?;
    refuse_variable(&settings)?;
    let store = Target::open_store(context)?;
    let plan = store.plan_key_rotation()?;
    refuse_undecryptable(&plan)?;
    under_key::refuse_others(&settings, None, &[&plan.store], "")?;
    if args.dry_run {
        return match args.json {
            true => output::json(&plan_json(&plan, args.forget_old)),
            false => output::write(describe(&plan, args.forget_old).as_bytes()),
        };
    }
    if !args.json {
        output::write(describe(&plan, args.forget_old).as_bytes())?;
    }
    let values = counted(plan.values as u64, "value");
    confirm(&format!("this encrypts {values} with a new key"), args.yes)?;
    let report = with_progress(&store, &plan, args.forget_old)?;
    if args.json {
        output::json(&report_json(&plan, &report))?;
    } else {
        output::line(&done(&plan, &report))?;
    }
    if plan.earlier_undecryptable > 0 {
        let (stay, they) = match plan.earlier_undecryptable {
            1 => ("stays", "it is"),
            _ => ("stay", "they are"),
        };
        warn(&format!(
            "{} cannot be decrypted with the old key either, and {stay} as {they}",
            counted(plan.earlier_undecryptable as u64, "earlier value")
        ));
    }
    if let Some(old) = &report.old_key {
        let old = old.display();
        say(
            "note",
            &format!(
                "backups from before, and a secrets file under the old key that neither these settings nor a running mount names, \
                 need {old}; remove it once you have none"
            ),
        );
    }
    say(
        "note",
        "SimpleTuner's server reads the key when it starts: restart it if it runs",
    );
    Ok(())
}

/// The key is in a variable, which this program cannot replace.
fn refuse_variable(settings: &Settings) -> Outcome {
    if settings.credential_key.is_none() {
        return Ok(());
    }
    let file = shell_path(&settings.key_file);
    Err(Failure::with_hint(
        format!(
            "{KEY_VARIABLE} has the key, and a variable cannot be replaced from here; nothing has changed"
        ),
        format!(
            "1. write the key to a file: (umask 077; set -C; printf %s \"${KEY_VARIABLE}\" > {file}); \
             2. unset {KEY_VARIABLE} wherever SimpleTuner and the mount are started, and have a running mount take that over: \
             `simpletuner-live reload --env`; 3. `simpletuner-live key rotate`; 4. if you want the variable back, set it to what \
             the file holds then"
        ),
    ))
}

fn refuse_undecryptable(plan: &KeyRotationPlan) -> Outcome {
    let Some((first, reason)) = plan.undecryptable.first() else {
        return Ok(());
    };
    let names: Vec<&str> = plan
        .undecryptable
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    Err(Failure::with_hint(
        format!(
            "{} cannot be decrypted, so nothing has changed: {} ({reason})",
            counted(names.len() as u64, "value"),
            names.join(", "),
        ),
        format!(
            "set each anew (`simpletuner-live set {first}`) or remove it (`simpletuner-live rm {first}`), and then type this \
             command again"
        ),
    ))
}

fn with_progress(
    store: &Store,
    plan: &KeyRotationPlan,
    forget_old: bool,
) -> Outcome<KeyRotationReport> {
    let request = KeyRotationRequest {
        forget_old,
        ..KeyRotationRequest::default()
    };
    if !io::stderr().is_terminal() {
        return store.rotate_key(plan, &request);
    }
    let (ended, end) = channel::<()>();
    let (total, done) = (plan.steps(), &request.done);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut is_shown = false;
            while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(PROGRESS_INTERVAL) {
                let done = done.load(Ordering::Relaxed).min(total);
                let _ = write!(
                    io::stderr(),
                    "\rencrypting: {} %",
                    done * 100 / total.max(1)
                );
                is_shown = true;
            }
            if is_shown {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        });
        let report = store.rotate_key(plan, &request);
        drop(ended);
        report
    })
}

fn values_and_earlier(values: usize, earlier: usize) -> String {
    let values = counted(values as u64, "value");
    match earlier {
        0 => values,
        earlier => format!("{values} and {}", counted(earlier as u64, "earlier value")),
    }
}

fn describe(plan: &KeyRotationPlan, forget_old: bool) -> String {
    let mut text = String::new();
    let (store, key) = (plan.store.display(), plan.key_file.display());
    if plan.is_resumed {
        text.push_str("a rotation or a restore was interrupted; this finishes it, with the key that it left beside\n");
    }
    text.push_str(&format!(
        "{} of {store} to encrypt with a new key\n",
        values_and_earlier(plan.values, plan.earlier)
    ));
    if plan.plain > 0 {
        let plain = counted(plan.plain as u64, "value");
        text.push_str(&format!("plain text stays plain text: {plain}\n"));
    }
    text.push_str(&match forget_old {
        true => format!(
            "the old key {key} is removed at the end: nothing can decrypt backups from before then, nor a secrets file under \
             this key that neither these settings nor a running mount names\n"
        ),
        false => format!("the old key is kept as {key}.old-TIME\n"),
    });
    text.push_str(&format!(
        "takes about {:.1} s: {:.0} ms for each of two keys, {:.0} µs for a value, {}\n",
        plan.estimate().as_secs_f64().max(0.1),
        plan.derive_time.as_secs_f64() * 1e3,
        plan.value_time.as_secs_f64() * 1e6,
        counted(plan.processors as u64, "processor"),
    ));
    text
}

fn done(plan: &KeyRotationPlan, report: &KeyRotationReport) -> String {
    let values = values_and_earlier(report.values, report.earlier);
    let is = match (report.values, report.earlier) {
        (1, 0) => "is",
        _ => "are",
    };
    let old = match &report.old_key {
        Some(old) => format!("the old key is {} now", old.display()),
        None => "the old key is removed".to_owned(),
    };
    format!(
        "{values} {is} encrypted with the new key {}; {old}",
        plan.key_file.display()
    )
}

fn plan_json(plan: &KeyRotationPlan, forget_old: bool) -> Value {
    json!({
        "dry_run": true,
        "key_file": plan.key_file,
        "store": plan.store,
        "values": plan.values,
        "plain_values": plan.plain,
        "earlier_values": plan.earlier,
        "earlier_values_undecryptable": plan.earlier_undecryptable,
        "finishes_interrupted": plan.is_resumed,
        "forget_old": forget_old,
        "estimated_ms": plan.estimate().as_millis() as u64,
        "derive_ms": plan.derive_time.as_millis() as u64,
        "value_us": plan.value_time.as_micros() as u64,
        "processors": plan.processors,
    })
}

fn report_json(plan: &KeyRotationPlan, report: &KeyRotationReport) -> Value {
    json!({
        "dry_run": false,
        "key_file": plan.key_file,
        "store": plan.store,
        "values": report.values,
        "plain_values": plan.plain,
        "earlier_values": report.earlier,
        "earlier_values_undecryptable": plan.earlier_undecryptable,
        "finishes_interrupted": report.is_resumed,
        "old_key": report.old_key,
    })
}
