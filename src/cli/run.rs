//! `run`: a command with secrets in its environment.

mod request;
mod watch;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::time::Duration;

use clap::ValueHint;
use signal_hook::low_level::emulate_default_handler;

use super::failure::{Failure, say};
use super::mount_client::MountClient;
use super::target::Target;
use super::{Context, Outcome};
use crate::error::in_words;
use crate::launch::{End, Launch, supervise};
use crate::logging;
use request::{Assignment, Request};

/// As shells have it (POSIX, "Command Search and Execution").
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Run a command with secrets in its environment
///
/// The command takes the place of this process: it has its process id, terminal, signals and exit code. It gets the caller's
/// environment, and the variables that you name. Nothing is written to a disk, and nothing of what the command prints is changed.
///
/// A value of several lines (a certificate, say) is not given as a value: the variable has the path of its file in the mount. With
/// --no-files it has the value.
///
/// Other programs of this user, and root, can read the variables in /proc/PID/environ. With --file they find a path only.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "simpletuner-live run [OPTIONS] <--env <KEY[=NAME]>|--file <KEY[=NAME]>|--all> -- <COMMAND>...",
    after_help = "Examples:
  simpletuner-live run --env HF_TOKEN -- python train.py
  simpletuner-live run --env hf-token=HF_TOKEN --file TLS_KEY=KEY_FILE -- ./server
  simpletuner-live run --all -- env
  simpletuner-live run --watch --env DB_PASSWORD -- ./server   # started anew when it changes

Exit codes: those of the command. Before it runs: 1 failed, 2 wrong usage, 4 no such secret, 126 the command cannot
be run, 127 it is not found.",
    group(clap::ArgGroup::new("secrets").args(["env", "file", "all"]).required(true).multiple(true))
)]
pub(super) struct Args {
    /// Give the secret's value in the variable NAME (by default KEY); may be repeated
    #[arg(short, long, value_name = "KEY[=NAME]")]
    env: Vec<Assignment>,
    /// Give the path of the secret's file in the mount in the variable NAME (by default KEY); may be repeated
    #[arg(short, long, value_name = "KEY[=NAME]")]
    file: Vec<Assignment>,
    /// Give all secrets, each in a variable of its name
    #[arg(short, long)]
    all: bool,
    /// Give values of several lines as values, too
    #[arg(long)]
    no_files: bool,
    /// Stay, and start the command anew when one of the secrets changes: SIGTERM, and after 10 s SIGKILL
    #[arg(short, long, conflicts_with = "no_mount")]
    watch: bool,
    /// Before it reads a change, --watch waits a random time of at most this, so that not all hosts restart at once
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds, requires = "watch")]
    jitter: f64,
    /// Ask the providers directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    let is_right = |number: &f64| (0.0..=86_400.0).contains(number);
    number
        .filter(is_right)
        .ok_or_else(|| "it must be a number from 0 to 86400".to_owned())
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let request = Request::new(args.env, args.file, args.all, args.no_files)?;
    let target = match args.watch {
        // A mount notices each change; the providers alone would have to be asked again and again.
        true => {
            require_mount(context)?;
            Target::open(context, false)?
        }
        false => Target::open(context, args.no_mount)?,
    };
    let fetched = request.fetch(&target)?;
    for note in &fetched.notes {
        say("note", note);
    }
    let launch = launch(&args.command, &fetched)?;
    if !args.watch {
        drop((fetched, target));
        logging::flush();
        return Err(not_started(&launch.program(), &launch.exec()));
    }
    let jitter = Duration::from_secs_f64(args.jitter);
    let program = launch.program();
    let restarts = watch::start(request, target, fetched, args.command, jitter)?;
    match supervise(launch, &restarts) {
        Ok(End::Exited(0)) => Ok(()),
        Ok(End::Exited(code)) => Err(Failure::Exit(code)),
        Ok(End::Killed(signal)) => {
            logging::flush();
            // So that the caller sees the same as of the command itself. It returns where the signal ends no process.
            let _ = emulate_default_handler(signal);
            Err(Failure::Exit(128 + signal as u8))
        }
        Err(error) => Err(not_started(&program, &error)),
    }
}

fn require_mount(context: &Context) -> Outcome {
    let mount_point = context.mount_point(None)?;
    MountClient::require(&mount_point)
        .map(drop)
        .map_err(|failure| match failure {
            Failure::Message(message, hint) => Failure::Message(
                format!("--watch needs a running mount, which notices changes: {message}"),
                hint,
            ),
            other => other,
        })
}

fn launch(command: &[OsString], fetched: &request::Fetched) -> Outcome<Launch> {
    Launch::new(command, &fetched.variables)
        .map_err(|error| Failure::new(format!("the command cannot be run: {}", in_words(&error))))
}

fn not_started(program: &str, error: &io::Error) -> Failure {
    let coded = |code, hint: Option<&str>| {
        let message = format!("cannot run {program}: {}", in_words(error));
        Failure::Coded(code, message, hint.map(str::to_owned))
    };
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound | ErrorKind::NotADirectory, _) => coded(NOT_FOUND, None),
        (_, Some(libc::E2BIG)) => coded(
            NOT_EXECUTABLE,
            Some(
                "the environment and the arguments are too large for the kernel; --file gives paths instead of values",
            ),
        ),
        _ => coded(NOT_EXECUTABLE, None),
    }
}
