//! `completions`: prints a shell's completion script.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context, Outcome, output};

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  source <(simpletuner-live completions bash)
  simpletuner-live completions zsh > ~/.zfunc/_simpletuner-live
  simpletuner-live completions fish > ~/.config/fish/completions/simpletuner-live.fish"
)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: Args, _: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "simpletuner-live",
        &mut script,
    );
    output::write(&script)
}
