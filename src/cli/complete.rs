//! `complete`: what fits at the cursor of a command line, for the scripts of `completions`. It never fails, prints no error,
//! and takes a moment at most, whatever hangs.

pub(super) mod line;
mod position;
mod values;

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::completions::Shell;
use super::{Context, Outcome, help, output};
use crate::mount::poll::is_ready;
use position::{Position, Wanted};
use values::ValueKind;

/// How long names are waited for. After that the line is completed without them.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Print what fits at the cursor: the kind of it, and then a line for each word
///
/// The kind is `words`, `parts` (words that go on), `files`, `folders`, `users` or `command`. A word may have a tab behind it, and
/// what it means. Behind `command` is where the line of another program begins: for bash the number of characters before it, else
/// the number of words.
#[derive(clap::Args)]
#[command(
    hide = true,
    after_help = "Examples:
  simpletuner-live complete zsh -- get HF_
  simpletuner-live complete bash -- 'simpletuner-live get HF_' HF_"
)]
pub(super) struct Args {
    /// The shell whose line it is
    shell: Shell,
    /// Print the names of this kind, one a line; the process that does may hang
    #[arg(long)]
    names: Option<ValueKind>,
    /// The words up to the cursor, without the program; for bash the line up to the cursor, and the word as bash cuts it
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// A word that fits.
pub(super) struct Candidate {
    word: String,
    help: Option<String>,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if let Some(kind) = args.names {
        return output::write(values::names(kind, context).join("\n").as_bytes());
    }
    let words: Vec<String> = args.words.iter().map(line::text).collect();
    let (words, cut) = match (args.shell, &*words) {
        (Shell::Bash, [line, cut]) => (line::words(line), Some(cut.as_str())),
        _ => {
            // The program is the first word.
            let numbered = words.iter().cloned().zip(1..);
            let words = numbered.map(|(text, start)| line::Word { text, start });
            (words.collect(), None)
        }
    };
    let starts: Vec<usize> = words.iter().map(|word| word.start).collect();
    let mut words: Vec<String> = words.into_iter().map(|word| word.text).collect();
    let current = words.pop().unwrap_or_default();
    let mut command = help::command();
    command.build();
    let position = Position::behind(&command, &words);
    let (kind, candidates) = match position.wanted(&current) {
        Wanted::Files => ("files", Vec::new()),
        Wanted::Command(at) => {
            let start = starts.get(at).copied().unwrap_or_default();
            return output::write(format!("command\n{start}\n").as_bytes());
        }
        Wanted::Folders => ("folders", Vec::new()),
        Wanted::Users => ("users", Vec::new()),
        Wanted::Words(candidates) => ("words", candidates),
        Wanted::Values(before, kind) => {
            let is_given = |word: &String| words.contains(word);
            let typed = current.strip_prefix(&before).unwrap_or_default();
            let names = kind.candidates(typed, |kind| {
                names_in_time(kind, position.config.as_deref(), context)
            });
            let kind = if names.go_on { "parts" } else { "words" };
            let names = names.candidates.into_iter();
            let names = names.filter(|candidate| !is_given(&candidate.word));
            let behind = |candidate: Candidate| Candidate {
                word: format!("{before}{}", candidate.word),
                ..candidate
            };
            (kind, names.map(behind).collect())
        }
    };
    let text = match cut {
        Some(cut) => for_bash(candidates, &current, cut),
        None => candidates.iter().map(for_others).collect(),
    };
    output::write(format!("{kind}\n{text}").as_bytes())
}

fn for_others(Candidate { word, help }: &Candidate) -> String {
    match help {
        Some(help) => format!("{word}\t{help}\n"),
        None => format!("{word}\n"),
    }
}

/// bash shows only words that begin with what was typed. It cuts the current word at `=` and `:`, and replaces only what is
/// behind the last of them, which is `cut`.
fn for_bash(candidates: Vec<Candidate>, current: &str, cut: &str) -> String {
    let cut = cut.trim_start_matches([':', '=']);
    let kept = current.strip_suffix(cut).map_or(0, str::len);
    let fitting = candidates.into_iter().filter_map(|Candidate { word, .. }| {
        word.starts_with(current)
            .then(|| format!("{}\n", &word[kept..]))
    });
    fitting.collect()
}

/// The names that another process prints. A mount that does not answer can keep a process from ending, even one that is
/// killed, so this one does not ask it.
fn names_in_time(kind: ValueKind, config: Option<&str>, context: &Context) -> Vec<String> {
    let until = Instant::now() + TIMEOUT;
    let home = std::env::var_os("HOME").unwrap_or_default();
    // The shell has not expanded it yet.
    let typed = config.map(|config| match config.strip_prefix("~/") {
        Some(below) => Path::new(&home).join(below),
        None => config.into(),
    });
    let config = typed.or_else(|| context.config.clone());
    let start = || {
        let mut command = Command::new(std::env::current_exe().ok()?);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command.args(["complete", "bash", "--names", kind.name()]);
        let command = command.stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
        let output = child.stdout.take()?;
        Some((child, output))
    };
    let Some((mut child, mut output)) = start() else {
        return Vec::new();
    };
    let mut text = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut bytes = [0; 65536];
        match is_ready(&mut [PollFd::new(&output, PollFlags::IN)], left) {
            true => match output.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&bytes[..count]),
                Err(_) => return Vec::new(),
            },
            // It may never end, so nobody waits for it.
            false => {
                let _ = child.kill();
                return Vec::new();
            }
        }
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::to_owned).collect()
}
