//! `doctor`: prints what the checks of [`crate::doctor`] find, or the least policies.
//!
//! Another process runs the checks. A disk or a mount that does not answer can keep a process from ending, even one that is killed, so
//! this one asks neither.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::{ValueEnum, ValueHint};
use serde_json::{Map, Value, json};

use super::failure::{Failure, say};
use super::{Context, Outcome, output};
use crate::doctor::{self, CheckReport, Finding, Subject, Verdict};
use crate::logging::LEVEL_VARIABLE;
use crate::sync::{self, SMALL_STACK};
use crate::text::{counted, printable};

/// How much longer than its checks the other process may take.
const MARGIN: Duration = Duration::from_secs(15);
/// The widest text, also on a wider terminal: longer lines are hard to read.
const MAX_WIDTH: usize = 120;
/// The columns before a message.
const INDENT: usize = 27;

/// Check all that a mount needs, and show the commands that mend what is wrong
///
/// Checks the kernel, the files, the secrets file with its key, the mount, the service, SimpleTuner, the audit trails and the
/// backends, with and without a mount. Changes nothing, and shows no value. Under what is wrong stands a command to paste.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live doctor
  simpletuner-live doctor /run/trainer/live
  simpletuner-live doctor --json | jq -r '.[].findings[] | select(.status == \"failed\").fix'
  simpletuner-live doctor --policy vault | vault policy write simpletuner-live -

--policy asks nobody. It prints what to allow for the secret that the settings name, and nothing more: for AWS a policy in
JSON, for Vault one in HCL.

Exit codes: 0 nothing has failed, 1 a check has failed."
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Print JSON: an array of checks
    #[arg(long)]
    json: bool,
    /// Print the least policy of a backend, or of all that the settings name
    #[arg(long, value_name = "BACKEND", num_args = 0..=1, default_missing_value = "all")]
    policy: Option<PolicyOf>,
    /// Run the checks for another process of this command
    #[arg(long, hide = true, conflicts_with = "policy")]
    part: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyOf {
    /// Of each backend that the settings name
    All,
    /// Of AWS Secrets Manager
    Aws,
    /// Of HashiCorp Vault
    Vault,
}

impl PolicyOf {
    fn has(self, backend: &str) -> bool {
        match self {
            Self::All => true,
            Self::Aws => backend == "aws",
            Self::Vault => backend == "vault",
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if let Some(which) = args.policy {
        return policies(which, args.json, context);
    }
    if args.part {
        return run_checks(args.dir.as_deref(), context);
    }
    let checks = Checks::start(args.dir.as_deref(), context)?;
    let reports = match args.json {
        true => {
            let reports = checks.collect(|_| Ok(()))?;
            output::json(&reports)?;
            reports
        }
        false => {
            let look = Look::of_terminal();
            let reports = checks.collect(|report| output::write(look.text(report).as_bytes()))?;
            output::line(&summary(&reports))?;
            reports
        }
    };
    match reports
        .iter()
        .any(|report| report.status == Verdict::Failed)
    {
        true => Err(Failure::Reported),
        false => Ok(()),
    }
}

fn policies(which: PolicyOf, json: bool, context: &Context) -> Outcome {
    let mut policies = doctor::policies(&context.flags(None)?)?;
    policies.retain(|policy| which.has(policy.backend));
    if policies.is_empty() {
        return Err(Failure::with_hint(
            "the settings name no secret in AWS or Vault that a policy could be for",
            "set aws_secret_name or vault_url in live.yaml",
        ));
    }
    if json {
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        let all: Map<String, Value> = policies
            .iter()
            .map(|policy| (policy.backend.to_owned(), parsed(&policy.text)))
            .collect();
        return output::json(&all);
    }
    for policy in &policies {
        output::write(policy.text.as_bytes())?;
        if let Some(note) = &policy.note {
            say("note", &format!("{}: {note}", policy.backend));
        }
    }
    Ok(())
}

/// Runs the checks, and prints the report of each as a line of JSON as soon as there is one.
fn run_checks(dir: Option<&Path>, context: &Context) -> Outcome {
    let subject = Subject::new(context.flags(dir)?);
    let mut outcome = Ok(());
    doctor::run(subject, |report| {
        let line = serde_json::to_string(&report).unwrap_or_default();
        if outcome.is_ok() {
            outcome = output::line(&line);
        }
    });
    outcome
}

/// The checks that another process runs.
struct Checks {
    child: Child,
    reports: Receiver<CheckReport>,
    until: Instant,
}

impl Checks {
    fn start(dir: Option<&Path>, context: &Context) -> Outcome<Self> {
        let failed = |error| {
            let why = crate::error::in_words(&sync::not_started(error));
            Failure::new(format!("the checks cannot be started: {why}"))
        };
        // By its descriptor: another program may have its path by now.
        let mut command = Command::new("/proc/self/exe");
        if let Some(config) = context.flags(None)?.config {
            command.arg("--config").arg(config);
        }
        command.args(["doctor", "--part"]).stdin(Stdio::null());
        if let Some(dir) = context.flags(dir)?.mount_point {
            command.arg("--").arg(dir);
        }
        // It would log what it finds as well.
        if std::env::var_os(LEVEL_VARIABLE).is_none() {
            command.stderr(Stdio::null());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (sender, reports) = channel();
        let output = child.stdout.take();
        let read = move || {
            let Some(output) = output else { return };
            let lines = BufReader::new(output);
            for line in lines.lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str(&line)
                    && sender.send(report).is_err()
                {
                    return;
                }
            }
        };
        sync::spawn("doctor", SMALL_STACK, read).map_err(failed)?;
        Ok(Self {
            child,
            reports,
            until: Instant::now() + doctor::longest(None) + MARGIN,
        })
    }

    /// All reports, in their order. Calls `show` with each as soon as it and those before it are there.
    fn collect(
        mut self,
        mut show: impl FnMut(&CheckReport) -> Outcome,
    ) -> Outcome<Vec<CheckReport>> {
        let progress = Progress::begin();
        let mut early: BTreeMap<usize, CheckReport> = BTreeMap::new();
        let mut shown: Vec<CheckReport> = Vec::new();
        while shown.len() < doctor::number() {
            let left = self.until.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) => drop(early.insert(doctor::position(&report), report)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let known: Vec<_> = shown.iter().chain(early.values()).cloned().collect();
                    for late in doctor::unanswered(&known) {
                        early.insert(doctor::position(&late), late);
                    }
                }
            }
            while let Some(next) = early.remove(&shown.len()) {
                progress.clear();
                show(&next)?;
                shown.push(next);
            }
            progress.show(shown.len());
        }
        progress.clear();
        // Nobody waits for it: the disk that it has asked may never answer.
        let _ = self.child.kill();
        Ok(shown)
    }
}

/// How far the checks are, on a terminal.
struct Progress {
    is_shown: bool,
}

impl Progress {
    fn begin() -> Self {
        Self {
            is_shown: io::stderr().is_terminal() && io::stdout().is_terminal(),
        }
    }

    fn show(&self, done: usize) {
        if self.is_shown && done < doctor::number() {
            let _ = write!(io::stderr(), "\rchecking ({done} of {})", doctor::number());
        }
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// `26 checks: 20 ok, 1 warning, 1 failed, 4 skipped`
fn summary(reports: &[CheckReport]) -> String {
    let count = |status| {
        reports
            .iter()
            .filter(|report| report.status == status)
            .count()
    };
    format!(
        "{}: {} ok, {}, {} failed, {} skipped",
        counted(reports.len() as u64, "check"),
        count(Verdict::Ok),
        counted(count(Verdict::Warning) as u64, "warning"),
        count(Verdict::Failed),
        count(Verdict::Skipped)
    )
}

/// How reports are shown.
struct Look {
    /// `None`: lines have any length.
    width: Option<usize>,
    has_colours: bool,
}

impl Look {
    fn of_terminal() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let columns = size
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        let allows_colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            width: is_terminal.then(|| columns.unwrap_or(80).min(MAX_WIDTH)),
            has_colours: is_terminal && allows_colours,
        }
    }

    /// The lines of a report: a line for each finding, and under it the command that mends it.
    fn text(&self, report: &CheckReport) -> String {
        let mut text = String::new();
        for (at, finding) in report.findings.iter().enumerate() {
            let title = if at == 0 { report.title.as_str() } else { "" };
            text.push_str(&self.finding(title, finding));
        }
        text
    }

    fn finding(&self, title: &str, finding: &Finding) -> String {
        let (word, colour) = match finding.status {
            Verdict::Ok => ("ok", "32"),
            Verdict::Warning => ("warning", "33"),
            Verdict::Failed => ("failed", "31"),
            Verdict::Skipped => ("skipped", "2"),
        };
        let padded = format!("{word:7}");
        let status = match self.has_colours {
            true => format!("\x1b[{colour}m{padded}\x1b[0m"),
            false => padded,
        };
        let message = printable(&finding.message);
        let lines = match self.width.and_then(|width| width.checked_sub(INDENT)) {
            // On a narrow terminal, the terminal itself breaks the lines.
            Some(room) if room >= 20 => wrapped(&message, room),
            _ => vec![message],
        };
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            text.push_str(&match at {
                0 => format!("{status}  {title:16}  {line}\n"),
                _ => format!("{:INDENT$}{line}\n", ""),
            });
        }
        if let Some(fix) = &finding.fix {
            // Not broken, so that it can be pasted.
            text.push_str(&format!("{:INDENT$}$ {}\n", "", printable(fix)));
        }
        text
    }
}

/// The words in lines of at most `width` columns; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + length <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_wide_as_the_terminal_and_a_command_stays_whole() {
        let report = CheckReport {
            id: "disk".into(),
            title: "disk".into(),
            status: Verdict::Failed,
            findings: vec![
                Finding::failed("one two three four five six\u{1b}[2J")
                    .mended_by("sudo a b c d e f g h i j"),
                Finding::ok("fine"),
            ],
        };
        let look = Look {
            width: Some(INDENT + 20),
            has_colours: false,
        };
        let shown = look.text(&report);
        let expected = [
            "failed   disk              one two three four",
            "                           five six\\u{1b}[2J",
            "                           $ sudo a b c d e f g h i j",
            "ok                         fine",
        ];
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
        let plain = Look {
            width: None,
            has_colours: true,
        };
        assert!(
            plain
                .text(&report)
                .starts_with("\u{1b}[31mfailed \u{1b}[0m  disk")
        );
        assert_eq!(
            summary(&[report]),
            "1 check: 0 ok, 0 warnings, 1 failed, 0 skipped"
        );
    }
}
