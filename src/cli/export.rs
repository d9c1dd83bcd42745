//! `export`: secrets as a document for other programs.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueHint;
use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::secret_list::Detail;
use super::target::Target;
use super::{Context, Outcome, ls, output};
use crate::bundle::{BundleFormat, Document, refusal, render};
use crate::error::Error;
use crate::files::output::OutputFile;
use crate::secret::{NamePattern, SecretName, SecretValue};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// NAME=value, quoted for a shell and dotenv readers
    Env,
    /// NAME=value without quotes, for `docker run --env-file`
    Docker,
    /// An object of texts
    Json,
    /// A mapping of texts
    Yaml,
}

impl Format {
    fn bundle(self) -> BundleFormat {
        match self {
            Self::Env => BundleFormat::Env,
            Self::Docker => BundleFormat::DockerEnv,
            Self::Json => BundleFormat::Json,
            Self::Yaml => BundleFormat::Yaml,
        }
    }
}

/// Print secrets as a document, in plain text
///
/// In a pattern, * stands for any characters and ? for one. Without a pattern, all secrets are printed. `import` reads each
/// format.
///
/// If a secret cannot be read, nothing is printed. What a format cannot hold is left out with a comment that says why, and the exit code
/// is 1; json and yaml hold every value.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live export -o secrets.env
  simpletuner-live export --format docker -o docker.env 'HF_*'
  simpletuner-live export --format yaml |
    sops -e --input-type yaml --output-type yaml /dev/stdin > secrets.enc.yaml
  simpletuner-live export --format json | ssh other simpletuner-live import - --yes"
)]
pub(super) struct Args {
    /// Only secrets whose names match one of these patterns
    #[arg(value_name = "PATTERN")]
    patterns: Vec<NamePattern>,
    /// How the document is written
    #[arg(long, default_value = "env")]
    format: Format,
    /// Write this file, which only you can read (0600), instead of standard output (-)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long, requires = "output")]
    force: bool,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context, args.no_mount)?;
    let format = args.format.bundle();
    let (mut document, mut failures) = (Document::new(), Vec::new());
    for name in names(&args, &target)? {
        match value(&target, &name) {
            Ok(value) => drop(document.insert(name, value)),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)?;
    let bytes = render(format, &document);
    // As `backup` takes it.
    let to_file = args
        .output
        .as_deref()
        .filter(|file| *file != Path::new("-"));
    match to_file {
        Some(file) => {
            let mut written = OutputFile::create(file, 0o600, args.force)?;
            let failed = |e| Error::io(format!("cannot write {}", file.display()), e);
            written.write_all(&bytes).map_err(failed)?;
            written.finish()?;
        }
        None => {
            if io::stdout().is_terminal() {
                warn(
                    "the values are shown at this terminal, which may keep what it shows; -o FILE writes a file (0600)",
                );
            }
            output::write(&bytes)?;
        }
    }
    let left_out = document.iter().filter_map(|(name, value)| {
        let reason = refusal(format, name, value)?;
        Some(format!("{name} is left out, because {reason}"))
    });
    let mut left_out: Vec<String> = left_out.collect();
    let hint = "--format json and --format yaml hold every value";
    let last = left_out.pop().map(|last| Failure::with_hint(last, hint));
    let failures = left_out.into_iter().map(Failure::new).chain(last);
    Failure::of_all(failures.collect())
}

/// The names that are wanted.
fn names(args: &Args, target: &Target) -> Outcome<Vec<SecretName>> {
    let exact = args.patterns.iter().map(|pattern| {
        let is_name = !pattern.as_str().contains(['*', '?']);
        is_name.then(|| SecretName::new(pattern.as_str()).ok())?
    });
    // Names alone need no list, which a provider may not give.
    if !args.patterns.is_empty()
        && let Some(names) = exact.collect::<Option<Vec<_>>>()
    {
        return Ok(names);
    }
    let missing = target.unlisted().into_iter().map(|unlisted| {
        Failure::with_hint(
            format!(
                "the names of the {} provider are missing: {}",
                unlisted.provider, unlisted.reason
            ),
            "whole names, without * and ?, are exported without a list",
        )
    });
    Failure::of_all(missing.collect())?;
    let is_wanted = |name: &SecretName| {
        let mut patterns = args.patterns.iter();
        args.patterns.is_empty() || patterns.any(|pattern| pattern.matches(name.as_str()))
    };
    let listed = target.list(Detail::Names, &is_wanted)?;
    let names: Vec<SecretName> = listed.into_iter().map(|one| one.name).collect();
    let matches_none =
        |pattern: &&NamePattern| !names.iter().any(|name| pattern.matches(name.as_str()));
    let unmatched = args.patterns.iter().filter(matches_none).map(ls::missing);
    Failure::of_all(unmatched.collect())?;
    Ok(names)
}

fn value(target: &Target, name: &SecretName) -> Outcome<SecretValue> {
    let bytes: Zeroizing<Vec<u8>> = target.get(name)?;
    Ok(SecretValue::from_bytes(name.as_str(), &bytes)?)
}
