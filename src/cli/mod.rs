//! The command line: one file per command, each an `Args` to parse and a `run` that prints. Decides nothing that a
//! program using the library would have to decide again.

mod adopt;
mod audit;
mod cache;
mod close;
mod completions;
mod decrypt;
mod encrypt;
mod encrypt_file;
mod failure;
mod get;
mod hardware;
mod input;
mod install_service;
mod live;
mod ls;
mod mount;
mod output;
mod reason;
mod rm;
mod set;
mod status;
mod store;
mod umount;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueHint};

use crate::error::{Error, Result};
use crate::settings::{Flags, Settings};
use crate::{logging, secret};
use failure::Failure;

/// What a command's `run` gives: done, or why not.
type Outcome<T = ()> = std::result::Result<T, Failure>;

/// SimpleTuner's secrets, caches and prices as files.
///
/// A mount (by default ~/.simpletuner/live) holds one file for each secret: `cat` reads it through the environment
/// and the encrypted secrets file, `echo` writes it. The commands work with and without a running mount.
#[derive(Parser)]
#[command(
    name = "simpletuner-live",
    version,
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live mount
  echo hf_xxxx > ~/.simpletuner/live/secrets/HF_TOKEN
  TOKEN=$(simpletuner-live get HF_TOKEN)
  simpletuner-live umount

Exit codes: 0 done, 1 failed, 2 wrong usage, 4 no such secret."
)]
struct Cli {
    /// The settings to use instead of ~/.simpletuner/live.yaml
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Mount(mount::Args),
    Umount(umount::Args),
    Status(status::Args),
    Upgrade(upgrade::Args),
    InstallService(install_service::Args),
    Get(get::Args),
    Set(set::Args),
    Rm(rm::Args),
    Ls(ls::Args),
    Cache(cache::Args),
    Hardware(hardware::Args),
    Encrypt(encrypt::Args),
    Decrypt(decrypt::Args),
    EncryptFile(encrypt_file::Args),
    Adopt(adopt::Args),
    Audit(audit::Args),
    Completions(completions::Args),
}

/// What every command is told besides its own arguments.
struct Context {
    config: Option<PathBuf>,
}

impl Context {
    /// The flags that all commands have in common, with the mount point where one was given.
    fn flags(&self, mount_point: Option<&Path>) -> Result<Flags> {
        Ok(Flags {
            config: self.config.as_deref().map(absolute).transpose()?,
            mount_point: mount_point.map(absolute).transpose()?,
            ..Flags::default()
        })
    }

    fn settings(&self) -> Result<Settings> {
        Settings::load(&self.flags(None)?)
    }

    /// Where the mount is: the settings file, which may be malformed, is not read.
    fn mount_point(&self, mount_point: Option<&Path>) -> Result<PathBuf> {
        Settings::mount_point_by(&self.flags(mount_point)?)
    }
}

/// Paths outlive the folder they were typed in: the daemon leaves it.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(format!("{}", path.display()), e))
}

/// Parses the arguments, runs the command, and says what went wrong.
pub fn main() -> ExitCode {
    secret::protect_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe behind `--help` is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // The daemon chooses its own log; the first choice counts.
    if !matches!(&cli.command, Command::Mount(args) if args.foreground) {
        logging::init_command();
    }
    let context = Context { config: cli.config };
    let outcome = match cli.command {
        Command::Mount(args) => mount::run(args, &context),
        Command::Umount(args) => umount::run(args, &context),
        Command::Status(args) => status::run(args, &context),
        Command::Upgrade(args) => upgrade::run(args, &context),
        Command::InstallService(args) => install_service::run(args, &context),
        Command::Get(args) => get::run(args, &context),
        Command::Set(args) => set::run(args, &context),
        Command::Rm(args) => rm::run(args, &context),
        Command::Ls(args) => ls::run(args, &context),
        Command::Cache(args) => cache::run(args, &context),
        Command::Hardware(args) => hardware::run(args, &context),
        Command::Encrypt(args) => encrypt::run(args, &context),
        Command::Decrypt(args) => decrypt::run(args, &context),
        Command::EncryptFile(args) => encrypt_file::run(args, &context),
        Command::Adopt(args) => adopt::run(args, &context),
        Command::Audit(args) => audit::run(args, &context),
        Command::Completions(args) => completions::run(args, &context),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|text| text.contains("simpletuner-live")),
                "{}",
                command.get_name()
            );
        }
    }
}
