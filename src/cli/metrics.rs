//! `metrics`: the state and the counters of a running mount, for Prometheus.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;

use super::failure::Failure;
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::files::output::OutputFile;
use crate::metrics::Exposition;
use crate::{mount, sync};

/// How long to wait for the mount, which answers without a disk or a backend.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus' node_exporter, which reads the file, is another user. No secret and no name of one is in it.
const MODE: u32 = 0o644;

/// Print the state and the counters of the mount for Prometheus
///
/// Prints the file `metrics` of the mount: providers, caches, reads, writes, errors, restarts, views, the audit
/// trail, memory. No secret's name is in it.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live metrics
  simpletuner-live metrics --output /var/lib/prometheus/node-exporter/simpletuner.prom
  simpletuner-live metrics | grep provider_up

The file of `--output` is replaced as a whole, so that node_exporter never reads a part. If the mount does not answer, the file
says `simpletuner_live_up 0`, and the exit code is 1. docs/recipes.md has a timer for it."
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Write the text to this file, which node_exporter reads
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let text = text_of(&mount_point);
    let Some(file) = args.output else {
        return output::write(text?.as_bytes());
    };
    match text {
        Ok(text) => replace(&file, &text),
        Err(failure) => {
            let mut down = Exposition::default();
            down.up(false);
            replace(&file, &down.into_text())?;
            Err(failure)
        }
    }
}

fn text_of(mount_point: &Path) -> Outcome<String> {
    let client = MountClient::require(mount_point)?;
    let path = client.path("metrics");
    let file = path.clone();
    match sync::within("metrics", ANSWER_TIMEOUT, move || fs::read_to_string(&file)) {
        Some(Ok(text)) => Ok(text),
        Some(Err(error)) => Err(Error::io(format!("cannot read {}", path.display()), error).into()),
        None => Err(Failure::with_hint(
            format!("the mount at {} does not answer", mount_point.display()),
            format!(
                "{} says what is wrong",
                mount::command_for("status", mount_point)
            ),
        )),
    }
}

/// Puts another file in the place of this one.
fn replace(file: &Path, text: &str) -> Outcome {
    let mut whole = OutputFile::create(file, MODE, true)?;
    let failed = |error| Error::io(format!("cannot write {}", file.display()), error);
    whole.write_all(text.as_bytes()).map_err(failed)?;
    whole.finish()?;
    Ok(())
}
