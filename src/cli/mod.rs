//! The command line: one file per command, with an `Args` to parse and a `run` that prints. Contains no logic that a program
//! which uses the library would need, too. A new command is a file, its `mod` line and a row of `commands!`.

mod adopt;
mod audit;
mod backup;
mod cache;
mod close;
mod complete;
mod completions;
mod decrypt;
mod decrypt_file;
mod doctor;
mod edit;
mod encrypt;
mod encrypt_file;
mod export;
mod failure;
mod fstab;
mod get;
mod hardware;
mod help;
mod history;
mod import;
mod input;
mod install_man;
mod install_service;
mod key;
mod lasting;
mod ls;
mod man;
mod metrics;
mod mount;
mod mount_client;
mod nearest;
mod output;
mod passphrase;
mod prompt;
mod question;
mod reason;
mod reload;
mod restore;
mod rm;
mod run;
mod same_store;
mod secret_list;
mod set;
mod settings;
mod status;
mod target;
mod top;
mod umount;
mod under_key;
mod undo;
mod upgrade;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::{FromArgMatches, Parser, Subcommand, ValueHint};

use crate::error::{Error, Result};
use crate::provider::BACKENDS;
use crate::settings::{Flags, Settings};
use crate::{launch, logging, secret, sync};
use failure::Failure;

/// What a command's `run` returns.
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

/// Defines `Command` with a variant for each command, and runs the one that was chosen.
macro_rules! commands {
    ($($variant:ident => $module:ident,)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($variant($module::Args),)*
        }

        impl Command {
            fn run(self, context: &Context) -> Outcome {
                match self {
                    $(Command::$variant(args) => $module::run(args, context),)*
                }
            }
        }
    };
}

// In the order in which `--help` lists them.
commands! {
    Mount => mount,
    Umount => umount,
    Status => status,
    Top => top,
    Metrics => metrics,
    Reload => reload,
    Upgrade => upgrade,
    InstallService => install_service,
    InstallMan => install_man,
    Doctor => doctor,
    Get => get,
    Set => set,
    Edit => edit,
    Rm => rm,
    Ls => ls,
    Run => run,
    Import => import,
    Export => export,
    History => history,
    Undo => undo,
    View => view,
    Cache => cache,
    Hardware => hardware,
    Encrypt => encrypt,
    Decrypt => decrypt,
    EncryptFile => encrypt_file,
    DecryptFile => decrypt_file,
    Key => key,
    Adopt => adopt,
    Backup => backup,
    Restore => restore,
    Audit => audit,
    Settings => settings,
    Completions => completions,
    Complete => complete,
}

/// The arguments that all commands have in common.
struct Context {
    config: Option<PathBuf>,
}

impl Context {
    /// The settings' flags, with the mount point if the command has one.
    fn flags(&self, mount_point: Option<&Path>) -> Result<Flags> {
        Ok(Flags {
            config: self.config.as_deref().map(absolute).transpose()?,
            mount_point: mount_point.map(absolute).transpose()?,
            ..Flags::default()
        })
    }

    fn settings(&self) -> Result<Settings> {
        Settings::load(&self.flags(None)?, BACKENDS)
    }

    /// Looks whether SimpleTuner reads its secrets through this mount, on another thread, because a disk may not answer. What is
    /// returned warns that it finds none, if that is known by then.
    fn look_for_simpletuner(&self, mount_point: Option<&Path>) -> impl FnOnce(Duration) {
        let (sender, found) = channel();
        if let Ok(flags) = self.flags(mount_point) {
            let look = move || drop(sender.send(Settings::link_to_mount(&flags)));
            let _ = sync::spawn("links", sync::LARGE_STACK, look);
        }
        move |patience| {
            if let Ok(Some(link)) = found.recv_timeout(patience) {
                failure::warn(&format!(
                    "SimpleTuner reads {} through this mount, so it finds no secrets until it is mounted again",
                    link.display()
                ));
            }
        }
    }

    /// Where the mount is. Does not read the settings file, which may be malformed.
    fn mount_point(&self, mount_point: Option<&Path>) -> Result<PathBuf> {
        Settings::mount_point_by(&self.flags(mount_point)?)
    }
}

/// The daemon changes its working folder, so it needs absolute paths.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Settings(format!(
            "{} is relative to the working folder, which no longer exists; give an absolute path, or `cd` to another folder",
            path.display()
        )),
        _ => Error::io(path.display().to_string(), error),
    })
}

/// Must run before Rust's runtime starts, as a function of `.init_array`: `run` gives its command what the caller gave this process.
pub extern "C" fn before_main() {
    launch::record_inherited();
}

/// Parses the arguments, runs the command, and prints its error.
pub fn main() -> ExitCode {
    secret::protect_until_exec();
    if let Some(exit_code) = fstab::run_as_helper() {
        return exit_code;
    }
    let matches = help::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return help::print(&error),
    };
    // The daemon sets up its own log, and only the first setup has an effect.
    if !matches!(&cli.command, Command::Mount(args) if args.foreground) {
        logging::init_command();
    }
    let context = Context { config: cli.config };
    let outcome = cli.command.run(&context);
    logging::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The commands that `--help` lists.
    fn shown() -> Vec<clap::Command> {
        let command = Cli::command();
        let shown = command.get_subcommands();
        shown
            .filter(|command| !command.is_hide_set())
            .cloned()
            .collect()
    }

    #[test]
    fn clap_accepts_the_definition_of_every_command() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in shown() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|text| text.contains("simpletuner-live")),
                "the help of {} needs an example, in `after_help`",
                command.get_name()
            );
        }
    }

    /// What the examples of a help type behind the program's name.
    fn typed(examples: &str) -> Vec<&str> {
        // Not inside of quotes: that is an argument.
        let each = examples.match_indices("simpletuner-live ");
        let each = each.filter(|(at, _)| !examples[..*at].ends_with('\''));
        let lines = each.filter_map(|(at, name)| {
            let line = &examples[at + name.len()..];
            let mut quote = None;
            let end = line.find(|c| match (quote, c) {
                (Some(open), _) => {
                    quote = quote.filter(|_| c != open);
                    false
                }
                (None, '\'' | '"') => {
                    quote = Some(c);
                    false
                }
                (None, c) => "|&;)<>#\n`".contains(c),
            });
            // The name of a policy of Vault.
            let line = &line[..end.unwrap_or(line.len())];
            Some(line).filter(|line| !line.starts_with('-'))
        });
        lines.collect()
    }

    #[test]
    fn every_example_is_parsed() {
        fn check(command: &clap::Command, checked: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let examples = help.split("Examples:").nth(1).unwrap_or_default();
            let examples = examples.split("\n\n").next().unwrap_or_default();
            let examples = examples.replace("\\\n", "");
            // The shell puts it in place.
            let examples = examples.replace("$HASH", &"0".repeat(64));
            for line in typed(&examples) {
                let words = complete::line::words(&format!("program {}", line.trim()));
                let words = words.into_iter().map(|word| word.text);
                let parsed = Cli::command()
                    .try_get_matches_from(["program".to_owned()].into_iter().chain(words));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                *checked += 1;
            }
            command
                .get_subcommands()
                .for_each(|command| check(command, checked));
        }
        let mut checked = 0;
        check(&help::command(), &mut checked);
        assert!(checked > 100, "{checked}");
    }

    #[test]
    fn the_readme_lists_every_command() {
        let readme = include_str!("../../README.md");
        let mut sections = readme.split("\n## ");
        let table = sections.find(|section| section.starts_with("Commands"));
        // The first word of each command in backticks.
        let commands = table.unwrap().split('`').skip(1).step_by(2);
        let listed: Vec<_> = commands.filter_map(|text| text.split(' ').next()).collect();
        for command in shown() {
            let name = command.get_name().to_owned();
            assert!(
                listed.contains(&&*name),
                "README.md, \"Commands\", does not list {name}"
            );
        }
    }
}
