//! `completions`: prints a shell's completion script. The scripts ask `complete` for what fits, so they need no change when
//! a command does.

use clap::ValueEnum;

use super::{Context, Outcome, output};

/// Print a completion script for a shell
///
/// It completes commands, options, files, and the names of secrets, prices, caches and settings. Names come from the running
/// mount, or without one from the secrets file. Completing asks no backend, and leaves no row in the audit trail.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  source <(simpletuner-live completions bash)     # in ~/.bashrc
  source <(simpletuner-live completions zsh)      # in ~/.zshrc
  simpletuner-live completions fish > ~/.config/fish/completions/simpletuner-live.fish"
)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// A shell that can complete arguments.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// 4.0 and later
    Bash,
    /// 5.0 and later
    Zsh,
    /// 3.0 and later
    Fish,
}

pub(super) fn run(args: Args, _: &Context) -> Outcome {
    let script = match args.shell {
        Shell::Bash => include_str!("completions/simpletuner-live.bash"),
        Shell::Zsh => include_str!("completions/simpletuner-live.zsh"),
        Shell::Fish => include_str!("completions/simpletuner-live.fish"),
    };
    output::write(script.as_bytes())
}
